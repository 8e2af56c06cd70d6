"""What rows with their own bits are worth: QVLA, and strips of the trellis with their own K, against one
number of bits for all rows.

    python benchmarks/bench_rows.py --model FOLDER --text FOLDER [--linears NAME,NAME] [--layers F]
        [--markdown F] [--json F]

Errors are relative layer errors on texts that were not calibrated with, tr((W - Q) H (W - Q)ᵀ) / tr(W H Wᵀ);
"felt" weighs the rows by the squared gradients of the loss in their outputs. Bits are those of the packed
tensors, everything counted. A way of `rows of the trellis` quantizes the weight at several numbers of bits,
gives every row the number that lowers the sum of the errors on the calibration texts most (or of the felt
ones), and quantizes the rows of each number as a trellis of their own. It gets the bits of the plain trellis.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bivlm.formats import FORMATS, QuantizedWeight, RowsWeight
from bivlm.quantizers import GPTQ, QVLA, RTN, Quantizer, Trellis
from bivlm.quantizers.steps.row_widths import choose_widths
from machine import describe
from preset_tables import closing, command_of, markdown_table, positive
from script import run_script
from text_layers import TextLayer, kept_layers, text_layers

PAGE = """\
# Rows with their own bits

QVLA, which gives every row of a weight its own number of bits, and strips of the trellis with their own bits,
next to one number of bits for all rows: {linears}
of {model}. Errors are relative layer errors, tr((W - Q) H (W - Q)ᵀ) / tr(W H Wᵀ), on the texts that were
calibrated with and on others; "felt" weighs the rows of the latter by the squared gradients of the loss in
their outputs. Geometric means over the linears. True bits are those of the packed tensors, everything
counted.
"""
WHOLE = 1 << 20
LINEARS = ("3.self_attn.q_proj", "12.self_attn.o_proj", "20.self_attn.v_proj", "12.mlp.gate_proj")
SPREAD = (-0.5, -0.25, 0.0, 0.25, 0.5)  # bits of the rows, relative to the target
ERRORS = ("calibration", "held out", "felt")


def methods() -> dict[str, Quantizer]:
    return {
        "rtn 3, one number of bits": RTN(bits=3, group_size=WHOLE),
        "qvla 3, as published": QVLA(bits=3.0, counted="widths", score="cost", cost="pivots"),
        "qvla 3, true bits": QVLA(bits=3.0),
        "qvla 2.5, true bits": QVLA(bits=2.5),
        "gptq 3, one number of bits": GPTQ(bits=3, group_size=WHOLE),
        "qvla 3, feedback": QVLA(bits=3.05, feedback=True, widths=(0, 1, 2, 3, 4, 5, 6)),
        "gptq 2, one number of bits": GPTQ(bits=2, group_size=WHOLE),
        "qvla 2, feedback": QVLA(bits=2.05, feedback=True, widths=(0, 1, 2, 3, 4)),
    }


def of_bytes(weight: QuantizedWeight) -> tuple[Tensor, float]:
    """The weight after its way through the bytes, and its bits per weight."""
    packed = weight.encode()
    return FORMATS[packed.format].decode(packed).dequantize(), packed.bits_per_weight()


def trellis_rows(layer: TextLayer, target: float, made: dict[float, Tensor], felt: bool) -> RowsWeight:
    """Rows of the trellis with their own bits, as many as the plain trellis takes at `target`."""
    levels = sorted(made)
    lost = [layer.weight - made[bits] for bits in levels]
    costs = torch.stack([((error @ layer.moment) * error).sum(1) for error in lost], 1)
    if felt:
        costs = costs * layer.row_gradients[:, None]
    rows = len(layer.weight)
    _, most = of_bytes(Trellis(bits=target).quantize(layer.weight, layer.stats))
    budget = target
    while True:  # every class has its own bits of columns, and rows that fill its last strip
        chosen = choose_widths(costs, [levels] * rows, budget * rows, "increase")
        used = chosen.unique().tolist()
        parts = [Trellis(bits=levels[k]).quantize(layer.weight[chosen == k], layer.stats) for k in used]
        classes = torch.zeros(rows, dtype=torch.uint8)
        for place, k in enumerate(used):
            classes[chosen == k] = place
        weight = RowsWeight(classes, tuple(parts))
        if weight.encode().bits_per_weight() <= most:
            return weight
        budget -= max(0.005, weight.encode().bits_per_weight() - most)


def measured(layer: TextLayer, targets: Sequence[float]) -> dict[str, dict[str, float]]:
    """Bits and errors of every method on one layer."""
    found: dict[str, dict[str, float]] = {}

    def add(name: str, weight: QuantizedWeight) -> None:
        decoded, bits = of_bytes(weight)
        found[name] = {"bits": bits, **layer.errors(decoded)}

    for name, method in methods().items():
        add(name, method.quantize(layer.weight, layer.stats if method.needs_data else None))
    for target in targets:
        made = {
            target + more: Trellis(bits=target + more).quantize(layer.weight, layer.stats).dequantize()
            for more in SPREAD
        }
        add(f"trellis {target:g}", Trellis(bits=target).quantize(layer.weight, layer.stats))
        add(f"rows of the trellis {target:g}, error", trellis_rows(layer, target, made, felt=False))
        add(f"rows of the trellis {target:g}, felt error", trellis_rows(layer, target, made, felt=True))
    return found


def report(options: argparse.Namespace) -> None:
    def make() -> Mapping[str, TextLayer]:
        names = options.linears.split(",")
        return text_layers(options.model, options.text, names, options.windows, options.window)

    layers = kept_layers(options.layers, make)
    targets = [float(word) for word in options.targets.split(",")]
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for name, layer in layers.items():
        for method, found in measured(layer, targets).items():
            rows.setdefault(method, {})[name] = found
        print(name, flush=True)
    sizes = {name: layer.weight.numel() for name, layer in layers.items()}
    table = [[method, *_cells(found, sizes)] for method, found in rows.items()]
    columns = ["method", " true bits", *(f" {error}" for error in ERRORS)]
    text = "\n".join(markdown_table(columns, table))
    print(text)
    if options.json:
        command = command_of("bench_rows.py", sys.argv[1:])
        found = {"rows": rows, "machine": describe(), "command": command}
        options.json.write_text(json.dumps(found), encoding="utf-8")
    if options.markdown:
        head = PAGE.format(linears=", ".join(layers), model=Path(options.model).name)
        options.markdown.write_text(f"{head}\n{text}\n\n{closing('bench_rows.py')}", encoding="utf-8")


def _cells(found: dict[str, dict[str, float]], sizes: dict[str, int]) -> list[str]:
    """Bits over all weights, and geometric means of the errors over the layers."""
    bits = sum(own["bits"] * sizes[name] for name, own in found.items()) / sum(sizes.values())
    means = (statistics.geometric_mean(own[error] for own in found.values()) for error in ERRORS)
    return [f"{bits:.3f}", *(f"{mean:.4f}" for mean in means)]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="folder of a language model")
    parser.add_argument("--text", type=Path, required=True, help="folder of text or HTML files")
    parser.add_argument("--linears", default=",".join(LINEARS), help="what is measured")
    parser.add_argument("--layers", type=Path, help="keep the linears and their moments here, or read them")
    parser.add_argument("--targets", default="2", help="bits of the trellis, separated by commas")
    parser.add_argument("--windows", type=positive, default=8, help="windows of each half of the text")
    parser.add_argument("--window", type=positive, default=512, help="tokens in a window")
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument("--markdown", type=Path, help="write the table here as well")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    return parser.parse_args(arguments)


def main() -> Any:
    run_script("bench_rows", parse(), report)


if __name__ == "__main__":
    main()
