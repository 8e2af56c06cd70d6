"""How large and how fast the storage formats are: true bits of Gaussian layers, and weights per second of
encode, decode and dequantize.

    python benchmarks/bench_formats.py [--size 4096] [--repeats 5] [--threads 1] [--json results.json]

Every row is checked (the bytes give the same weight back) before it is timed. Times are medians, with the
spread between the fastest and the slowest; the ratio is of dequantize to the baseline of the same run:
expanding the layer from bfloat16 to float32.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bivlm.formats import LevelsWeight

ALPHABETS = (2, 4, 6, 8, 10, 12, 16)
TAIL_CUT = 2.5758293  # standard deviations: 1 % of a Gaussian lies beyond


def levels_of(layer: Tensor, alphabet: int) -> LevelsWeight:
    """Equally likely levels inside the cut, the sign and one of two magnitudes beyond it, a scale per row."""
    tail = layer.abs() > TAIL_CUT
    normal = torch.distributions.Normal(0.0, 1.0)
    cuts = normal.icdf(torch.linspace(0.005, 0.995, alphabet + 1))
    middles = normal.icdf(torch.linspace(0.005, 0.995, 2 * alphabet + 1)[1::2])
    positions = tail.view(-1).nonzero()[:, 0]
    tail_levels = torch.tensor([-1.2, -0.95, 0.95, 1.2])
    return LevelsWeight(
        codes=torch.bucketize(layer, cuts[1:-1], out_int32=True).to(torch.uint8).masked_fill(tail, 0),
        levels=middles[alphabet // 2 :].half().view(1, 1, -1),
        scale=torch.tensor(1.0),
        alphabet=alphabet,
        symmetric=True,
        group_size=layer.shape[1],
        tail_positions=positions,
        tail_codes=torch.bucketize(
            layer.view(-1)[positions] / 2.8, (tail_levels[1:] + tail_levels[:-1]) / 2
        ).to(torch.uint8),
        tail_levels=tail_levels.half(),
        tail_scale=torch.full((layer.shape[0],), 2.8).half(),
    )


def seconds(work: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Median and spread of `repeats` runs after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times), max(times) - min(times)


def measure(layer: Tensor, alphabet: int, repeats: int, baseline: float) -> dict[str, float]:
    weight = levels_of(layer, alphabet)
    packed = weight.encode()
    if LevelsWeight.decode(packed) != weight:
        raise SystemExit(f"alphabet {alphabet}: what was decoded is not what was encoded")
    row = {
        "alphabet": alphabet,
        "bits": packed.bits_per_weight(),
        "error": float((weight.dequantize() - layer).square().mean()),
    }
    row["position_bits"] = (
        8 * sum(packed.tensors[name].numel() for name in ("tail_low", "tail_high")) / len(weight.tail_codes)
    )
    for name, work in {
        "encode": weight.encode,
        "decode": lambda: LevelsWeight.decode(packed),
        "dequantize": weight.dequantize,
    }.items():
        median, spread = seconds(work, repeats)
        row |= {f"{name}_weights_per_s": layer.numel() / median, f"{name}_spread": spread / median}
        row[f"{name}_ratio"] = median / baseline
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=4096, help="rows and columns of the layer")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the rows here as well")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    layer = torch.randn(options.size, options.size, generator=torch.Generator().manual_seed(0))
    half = layer.bfloat16()
    baseline, _ = seconds(half.float, options.repeats)
    rows = [measure(layer, alphabet, options.repeats, baseline) for alphabet in ALPHABETS]
    print(
        f"levels, {options.size} x {options.size} Gaussian, 1 % tail, {options.threads} thread(s); bfloat16"
        f" to float32: {baseline * 1e3:.1f} ms"
    )
    print(f"a tail position takes {rows[0]['position_bits']:.2f} bits")
    print(
        "alphabet  true bits  mean squared error      million weights per second: encode  decode  dequantize"
        " (ratio)"
    )
    for row in rows:
        speeds = [
            f"{row[f'{name}_weights_per_s'] / 1e6:6.0f} ±{row[f'{name}_spread']:4.0%}"
            for name in ("encode", "decode", "dequantize")
        ]
        print(
            f"{row['alphabet']:8d}  {row['bits']:9.4f}  {row['error']:18.4f}      {'  '.join(speeds)}"
            f" ({row['dequantize_ratio']:.1f})"
        )
    if options.json:
        machine = {
            "machine": platform.platform(),
            "processor": platform.machine(),
            "torch": torch.__version__,
        }
        options.json.write_text(
            json.dumps({**machine, "size": options.size, "threads": options.threads, "rows": rows}, indent=1)
            + "\n"
        )


if __name__ == "__main__":
    main()
