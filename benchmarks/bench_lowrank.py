"""What a joint low rank of q, k and v is worth at true bits: QSVD next to GPTQ and the trellis, and a low
rank whose residual is a trellis.

    python benchmarks/bench_lowrank.py --model FOLDER --text FOLDER [--blocks 3,12,20] [--layers F]
        [--markdown F] [--json F]

Errors are relative layer errors of q, k and v together, tr((W - Q) H (W - Q)ᵀ) / tr(W H Wᵀ), with the second
moment of texts that were not calibrated with. Bits are those of the packed tensors over the weights of all
three, a factor that they share counted once. "low rank + trellis" adds to a raw product of a small rank a
trellis of what it leaves, which gets the bits that the product leaves of the plain trellis' bits.
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

from bivlm.formats import QuantizedWeight
from bivlm.formats.lowrank import LowrankWeight
from bivlm.quantizers import GPTQ, QSVD, Quantizer, Trellis
from bivlm.quantizers.base import GroupQuantizer
from layer_errors import energy
from machine import describe
from preset_tables import closing, command_of, markdown_table, positive
from script import run_script
from text_layers import TextLayer, kept_layers, text_layers

PAGE = """\
# Joint low rank of queries, keys and values

QSVD, whose linears of one input share a factor, next to methods that quantize each linear: q, k and v
together, in the blocks {blocks} of {model}. Errors are relative layer errors of the three together,
tr((W - Q) H (W - Q)ᵀ) / tr(W H Wᵀ), on the texts that were calibrated with and on others; geometric means
over the blocks, then each block's own on the others. True bits are those of the packed tensors over the
weights of all three, a shared factor counted once. "low rank + trellis" is a raw product of a small rank and
a trellis of what it leaves.
"""
LINEARS = ("q_proj", "k_proj", "v_proj")
ERRORS = ("calibration", "held out")
RESIDUAL_RANKS = (4, 16)
METHODS: dict[str, Quantizer] = {
    "trellis 2": Trellis(bits=2.0),
    "gptq 2": GPTQ(bits=2),
    "qsvd 2, factors of 3 bits": QSVD(bits=2.0, factors="trellis", factor_bits=3),
    "trellis 3": Trellis(bits=3.0),
    "gptq 3": GPTQ(bits=3),
    "qsvd 3, factors of 3 bits": QSVD(bits=3.0, factors="trellis", factor_bits=3),
    "qsvd 3, factors of 4 bits": QSVD(bits=3.0, factors="trellis", factor_bits=4),
    "qsvd 3, diagonal whitening": QSVD(bits=3.0, factors="trellis", whitening="diagonal"),
    "qsvd 3, factors by gptq": QSVD(bits=3.0, factors="gptq"),
    "qsvd 6, raw factors": QSVD(bits=6.0, factors="raw"),
}


def together(method: Quantizer, layers: Sequence[TextLayer]) -> tuple[list[Tensor], float]:
    """The weights after a method, and all stored bits; a shared factor is counted once."""
    weights, stats = [layer.weight for layer in layers], layers[0].stats
    made: Sequence[QuantizedWeight]
    if isinstance(method, GroupQuantizer):
        made = method.quantize_group(weights, stats)
    else:
        made = [method.quantize(weight, stats) for weight in weights]
    bits = sum(8 * one.encode().nbytes for one in made)
    shared = [one.right for one in made if isinstance(one, LowrankWeight)]
    bits -= sum(8 * right.encode().nbytes for right in shared[1:])
    return [one.dequantize() for one in made], float(bits)


def with_residual(layers: Sequence[TextLayer], rank: int, bits: float) -> tuple[list[Tensor], float]:
    """A product of a small rank and a trellis of what it leaves, of `bits` per weight together."""
    product, taken = together(QSVD(rank=rank, factors="raw"), layers)
    count = sum(layer.weight.numel() for layer in layers)
    method, stats = Trellis(bits=max(bits - taken / count, 0.1)), layers[0].stats
    rest = [method.quantize(layer.weight - low, stats) for layer, low in zip(layers, product, strict=True)]
    stored = sum(8 * one.encode().nbytes for one in rest)
    return [low + one.dequantize() for low, one in zip(product, rest, strict=True)], taken + stored


def row(layers: Sequence[TextLayer], weights: Sequence[Tensor], bits: float) -> dict[str, float]:
    def error(which: str) -> float:
        lost = sum(
            energy(layer.weight - weight, getattr(layer, which))
            for layer, weight in zip(layers, weights, strict=True)
        )
        return lost / sum(energy(layer.weight, getattr(layer, which)) for layer in layers)

    count = sum(layer.weight.numel() for layer in layers)
    return {"bits": bits / count, "calibration": error("moment"), "held out": error("held_out")}


def measured(layers: Sequence[TextLayer]) -> dict[str, dict[str, float]]:
    found = {name: row(layers, *together(method, layers)) for name, method in METHODS.items()}
    for rank in RESIDUAL_RANKS:
        name = f"low rank {rank} + trellis, as many bits as trellis 2"
        found[name] = row(layers, *with_residual(layers, rank, 2.0))
    return found


def report(options: argparse.Namespace) -> None:
    blocks = options.blocks.split(",")

    def make() -> Mapping[str, TextLayer]:
        names = [f"{block}.self_attn.{linear}" for block in blocks for linear in LINEARS]
        return text_layers(options.model, options.text, names, options.windows, options.window)

    layers = kept_layers(options.layers, make)
    rows: dict[str, list[dict[str, float]]] = {}
    for block in blocks:
        for name, found in measured([layers[f"{block}.self_attn.{linear}"] for linear in LINEARS]).items():
            rows.setdefault(name, []).append(found)
        print(f"block {block}", flush=True)
    table = [
        [
            name,
            f"{statistics.fmean(own['bits'] for own in found):.3f}",
            *(
                f"{statistics.geometric_mean(own[key] for own in found):.4f}"
                for key in ("calibration", "held out")
            ),
            *(f"{own['held out']:.4f}" for own in found),
        ]
        for name, found in rows.items()
    ]
    columns = ["method", " true bits", " calibration", " held out", *(f" block {block}" for block in blocks)]
    text = "\n".join(markdown_table(columns, table))
    print(text)
    if options.json:
        command = command_of("bench_lowrank.py", sys.argv[1:])
        options.json.write_text(
            json.dumps({"rows": rows, "machine": describe(), "command": command}), encoding="utf-8"
        )
    if options.markdown:
        head = PAGE.format(blocks=", ".join(blocks), model=Path(options.model).name)
        options.markdown.write_text(f"{head}\n{text}\n\n{closing('bench_lowrank.py')}", encoding="utf-8")


def parse() -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--model", required=True, help="folder of a language model")
    parser.add_argument("--text", type=Path, required=True, help="folder of text or HTML files")
    parser.add_argument("--blocks", default="3,12,20", help="blocks whose q, k and v are measured")
    parser.add_argument("--layers", type=Path, help="keep the linears and their moments here, or read them")
    parser.add_argument("--windows", type=positive, default=8, help="windows of each half of the text")
    parser.add_argument("--window", type=positive, default=512, help="tokens in a window")
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument("--markdown", type=Path, help="write the table here as well")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    return parser.parse_args()


def main() -> Any:
    torch.manual_seed(0)
    run_script("bench_lowrank", parse(), report)


if __name__ == "__main__":
    main()
