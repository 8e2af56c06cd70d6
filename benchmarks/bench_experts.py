"""How fast the chosen experts of a layer are multiplied: packed, against bf16, and what they leave untouched.

    python benchmarks/bench_experts.py [--threads 1] [--json docs/results/experts-speed.json]
        [--markdown docs/results/experts-speed.md] [--quick]

One layer of the shape of a 30B-A3B model: 128 experts, of which a token chooses 8 at random, hidden width
2048, expert width 768. Every contender's weights are a file that is mapped into memory, as a loaded model
has them; the routing changes with every call. bf16 is transformers' own module with each of its
implementations, and a bare loop of products; the fastest of them is what the others are compared with.

Every output is checked before it is timed. All contenders run in turns in one process. The smallest time
counts, because others may use the machine; the ratio of the medians stands next to it. Cold: the file is
dropped from the mapping and from the page cache before every call, so that a token pays for reading its
experts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

from bench_kernels import READ_BYTES, bandwidth
from bivlm.families.experts import DOWN, SplitExperts, layout_of
from bivlm.formats.base import PackedTensor
from bivlm.packed.experts import mix_together
from bivlm.packed.linear import PackedLinear
from experts_page import markdown, print_tables
from machine import describe
from mapped import Mapped, drop, resident_bytes, write
from random_weights import random_weight
from script import run_script

EXPERTS, CHOSEN, HIDDEN, INNER = 128, 8, 2048, 768
FIRST = "gate_up_proj"
SHAPES = {FIRST: (2 * INNER, HIDDEN), DOWN: (HIDDEN, INNER)}
WEIGHTS = EXPERTS * sum(rows * columns for rows, columns in SHAPES.values())
PACKED = [(kind, bits) for kind in ("trellis", "levels", "uniform, groups of 128") for bits in (1, 2, 3)]
QUICK_PACKED = [("trellis", 2), ("levels", 2)]
BATCHES = {1: 16, 8: 4, 256: 1}  # tokens, and calls in a round
# of transformers, with the most tokens: batched_mm copies the weights of every choice
IMPLEMENTATIONS = {"eager": 256, "batched_mm": 1, "grouped_mm": 8}
DIFFERENT = 4  # random experts of a kind, which the others repeat
ERRORS = {"float": 2e-2, "int8": 5e-2}  # largest, of the largest output
Inputs = tuple[Tensor, Tensor, Tensor]
Row = dict[str, Any]


@dataclass(frozen=True)
class Contender:
    """`run(hidden, index, weights)` computes the layer."""

    name: str
    bits: float
    activations: str
    run: Callable[..., Tensor]
    file: Mapped
    exact: Callable[[int, str], Tensor]  # the weight of an expert and projection
    most_tokens: int = max(BATCHES)

    @property
    def token_bytes(self) -> int:
        """What a token reads of the weights."""
        return self.file.nbytes * CHOSEN // EXPERTS


def draw(tokens: int, seed: int) -> Inputs:
    """States, and experts with weights for each of them."""
    random = torch.Generator().manual_seed(seed)
    index = torch.rand(tokens, EXPERTS, generator=random).topk(CHOSEN).indices
    weights = torch.rand(tokens, CHOSEN, generator=random).softmax(-1).bfloat16()
    return torch.randn(tokens, HIDDEN, generator=random).bfloat16(), index, weights


def meta_experts(implementation: str) -> Qwen3MoeExperts:
    config = Qwen3MoeConfig(
        num_experts=EXPERTS, num_experts_per_tok=CHOSEN, hidden_size=HIDDEN, moe_intermediate_size=INNER
    )
    config._experts_implementation = implementation
    with torch.device("meta"):
        return Qwen3MoeExperts(config).bfloat16()


def bf16_contenders(folder: Path) -> list[Contender]:
    """transformers' module, with each of its implementations that runs here, and a bare loop."""
    random = torch.Generator().manual_seed(0)
    some = {name: torch.randn(DIFFERENT, *shape, generator=random) for name, shape in SHAPES.items()}
    stacks = {
        name: (one * one.shape[-1] ** -0.5).bfloat16().repeat(EXPERTS // DIFFERENT, 1, 1)
        for name, one in some.items()
    }
    file = write(folder / "bf16.safetensors", stacks)
    del stacks
    weights = file.tensors
    found = [Contender("bf16, bare loop", 16, "float", bare_loop(weights), file, _row_of(weights))]
    for implementation, most in IMPLEMENTATIONS.items():
        module = meta_experts(implementation)
        for name in SHAPES:
            setattr(module, name, nn.Parameter(weights[name], requires_grad=False))
        name, exact = f"bf16, {implementation}", _row_of(weights)
        found.append(Contender(name, 16, "float", module, file, exact, most))
    return found


def _row_of(weights: dict[str, Tensor]) -> Callable[[int, str], Tensor]:
    return lambda expert, name: weights[name][expert]


def bare_loop(weights: dict[str, Tensor]) -> Callable[..., Tensor]:
    """Nothing but the products, expert by expert: two for each expert that is chosen."""
    first, second, linear = weights[FIRST], weights[DOWN], nn.functional.linear

    def run(hidden: Tensor, index: Tensor, scores: Tensor) -> Tensor:
        total = torch.zeros(hidden.shape)
        for expert in index.unique().tolist():
            tokens, places = (index == expert).nonzero(as_tuple=True)
            rows = hidden if len(hidden) == 1 else hidden[tokens]
            gate, up = linear(rows, first[expert]).chunk(2, dim=-1)
            found = linear(nn.functional.silu(gate) * up, second[expert])
            total.index_add_(0, tokens, (found * scores[tokens, places, None]).float())
        return total.to(hidden.dtype)

    return run


def packed_contenders(folder: Path, kind: str, bits: int) -> list[Contender]:
    """The module that a packed model has, with both kinds of inputs; and without the common call."""
    some = [
        {name: random_weight(kind, bits, shape, seed) for name, shape in SHAPES.items()}
        for seed in range(DIFFERENT)
    ]
    tensors = {
        f"{expert:03}.{name}.{part}": tensor
        for expert in range(EXPERTS)
        for name, packed in some[expert % DIFFERENT].items()
        for part, tensor in packed.tensors.items()
    }
    file = write(folder / f"{kind.partition(',')[0]}-{bits}.safetensors", tensors)

    def own(expert: int, name: str) -> PackedTensor:
        like = some[expert % DIFFERENT][name]
        mapped = {part: file.tensors[f"{expert:03}.{name}.{part}"] for part in like.tensors}
        return PackedTensor(like.format, like.shape, mapped, like.settings)

    def module(activations: Any, together: bool = True) -> SplitExperts:
        fused = meta_experts("eager")
        layout = layout_of(fused)
        assert layout is not None
        experts = SplitExperts(fused, layout)
        for expert in range(EXPERTS):
            for name in SHAPES:
                linear = PackedLinear(own(expert, name), None, torch.bfloat16)
                linear.activations = activations
                experts.get_submodule(str(expert)).add_module(name, linear)
        experts.together = mix_together if together else None
        return experts

    def exact(expert: int, name: str) -> Tensor:
        return PackedLinear(own(expert, name), None, torch.float32).dequantize()

    true_bits, name = 8 * file.nbytes / WEIGHTS, f"{kind}: {bits}"
    found = [
        Contender(name, true_bits, activations, module(activations), file, exact)
        for activations in ("float", "int8")
    ]
    if kind == "trellis":
        found.append(
            Contender(f"{name}, one by one", true_bits, "float", module("float", False), file, exact)
        )
    return found


def check(contender: Contender) -> float:
    """The largest error of one token's output, of the largest output. SystemExit where it is too large."""
    hidden, index, weights = draw(1, 7)
    expected = torch.zeros(HIDDEN, dtype=torch.float64)
    for expert, weight in zip(index[0].tolist(), weights[0].double(), strict=True):
        gate, up = (contender.exact(expert, FIRST).double() @ hidden[0].double()).chunk(2)
        inner = nn.functional.silu(gate) * up
        expected += weight * (contender.exact(expert, DOWN).double() @ inner)
    found = contender.run(hidden, index, weights)[0].double()
    error = float((found - expected).abs().max() / expected.abs().max())
    if not error < ERRORS[contender.activations]:
        raise SystemExit(f"{contender.name}, {contender.activations}, is wrong: an error of {error:.1e}")
    return error


def warm(contenders: list[Contender], tokens: int, rounds: int) -> list[list[float]]:
    """Seconds of every call of each contender, in turns."""
    calls = BATCHES[tokens]
    taken: list[list[float]] = [[] for _ in contenders]
    for turn in range(rounds):
        for contender, own in zip(contenders, taken, strict=True):
            for call in range(calls):
                inputs = draw(tokens, 1000 * turn + call)
                start = time.perf_counter()
                contender.run(*inputs)
                own.append(time.perf_counter() - start)
    return taken


def cold(contenders: list[Contender], rounds: int) -> list[list[float]]:
    """The same for one token whose experts have to be read from the disk."""
    taken: list[list[float]] = [[] for _ in contenders]
    for turn in range(rounds):
        for contender, own in zip(contenders, taken, strict=True):
            drop(contender.file)
            inputs = draw(1, 5000 + turn)
            start = time.perf_counter()
            contender.run(*inputs)
            own.append(time.perf_counter() - start)
    return taken


def rows_of(
    contenders: list[Contender], taken: list[list[float]], tokens: int, state: str, errors: dict[int, float]
) -> list[Row]:
    """The numbers of every contender, compared with the fastest bf16."""
    least, middle = [min(own) for own in taken], [statistics.median(own) for own in taken]
    base = min((one for one in range(len(contenders)) if contenders[one].bits == 16), key=least.__getitem__)
    return [
        {
            "name": contender.name,
            "bits": contender.bits,
            "activations": contender.activations,
            "tokens": tokens,
            "state": state,
            "token_bytes": contender.token_bytes,
            "error": errors[id(contender)],
            "seconds": least[i],
            "median": middle[i],
            "times_bf16": least[base] / least[i],
            "times_bf16_median": middle[base] / middle[i],
        }
        for i, contender in enumerate(contenders)
    ]


def untouched(contender: Contender) -> dict[str, int]:
    """Bytes of a freshly mapped file that are resident after one token."""
    drop(contender.file)
    inputs = draw(1, 9)
    before = contender.file.rss()
    contender.run(*inputs)
    chosen = set(inputs[1].flatten().tolist())
    resident: dict[bool, int] = {True: 0, False: 0}
    inside = 0
    for name, tensor in contender.file.tensors.items():
        mine = int(name.partition(".")[0]) in chosen
        resident[mine] += resident_bytes(tensor)
        inside += 0 if mine else resident_bytes(tensor, margin=1 << 16)
    return {
        "file": contender.file.nbytes,
        "rss_before": before,
        "rss": contender.file.rss(),
        "chosen": resident[True],
        "others": resident[False],
        "others_inside": inside,
    }


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    buffer = torch.ones(READ_BYTES // 4)
    rates, rows = [bandwidth(buffer)], []
    contenders = bf16_contenders(folder)
    for kind, bits in QUICK_PACKED if options.quick else PACKED:
        contenders += packed_contenders(folder, kind, bits)
    errors = {id(contender): check(contender) for contender in contenders}
    warm(contenders, 1, 4)  # nearly every expert has been chosen, and is prepared
    for tokens in BATCHES:
        rounds = max(2, options.rounds // 2) if tokens > 8 else options.rounds
        some = [one for one in contenders if tokens <= one.most_tokens]
        rows += rows_of(some, warm(some, tokens, rounds), tokens, "warm", errors)
        rates.append(bandwidth(buffer))
    rows += rows_of(contenders, cold(contenders, options.rounds), 1, "cold", errors)
    for row in rows:
        if row["tokens"] == 1:
            row["share_of_memory"] = row["token_bytes"] / row["seconds"] / max(rates)
    kept = next(one for one in contenders if one.name == "trellis: 2")
    return {
        "machine": describe(),
        "load": os.getloadavg(),
        "bytes_per_second": max(rates),
        "resident": untouched(kept),
        "rows": rows,
    }


def report(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=options.folder) as folder, torch.inference_mode():
        found = measure(options, Path(folder))
    print_tables(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text(markdown(found))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--markdown", type=Path, help="write the tables to this file")
    parser.add_argument("--folder", type=Path, help="where 3 GB of weights are written for the run")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="two bits only")
    run_script("bench_experts", parser.parse_args(), report)


if __name__ == "__main__":
    main()
