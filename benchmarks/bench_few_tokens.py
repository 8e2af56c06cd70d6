"""Up to how many tokens the native library multiplies sooner than unpacking with torch's matrix product: what
FEW_TOKENS in the kernels is set by.

    python benchmarks/bench_few_tokens.py

Each line is one kind of weight, shape and input; each number says how many times longer unpacking takes for
so many tokens. Above 1 the library should multiply. Both ways are checked against each other before they are
timed; the smallest of five times counts.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from bivlm.kernels.native_product import FewTokens, NativeProduct
from bivlm.kernels.table import KERNELS
from bivlm.native import library as native
from machine import describe
from random_weights import random_weight

KINDS = (
    ("levels", 1),
    ("levels", 2),
    ("levels, 1 % tail", 2),
    ("levels", 4),
    ("uniform, groups of 128", 2),
    ("planes, blocks", 1),
    ("trellis", 2),
)
SHAPES = ((2048, 2048), (4096, 4096))
TOKENS = (8, 12, 16, 24, 32, 48, 64, 128, 256)
INPUTS = ((torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True))
WAYS = {"library": FewTokens(1 << 30, 1 << 30, 1 << 30), "unpacking": FewTokens(0, 0, 0)}
LARGEST_DIFFERENCE = 4e-2  # of the largest output; int8 inputs are rounded


def seconds(product: NativeProduct, way: str, x: Tensor, int8: bool) -> tuple[float, Tensor]:
    product.few = WAYS[way]
    best, y = float("inf"), x
    for _ in range(5):
        start = time.perf_counter()
        y = product(x, None, int8)
        best = min(best, time.perf_counter() - start)
    return best, y


def main() -> None:
    if native.library() is None:
        raise SystemExit(f"there is no native library: {native.status().why}")
    print(f"{describe()}; {native.status().instruction_set}")
    for kind, bits in KINDS:
        for shape in SHAPES:
            packed = random_weight(kind, bits, shape)
            product = KERNELS[packed.format, "cpu"](packed)
            assert isinstance(product, NativeProduct), kind
            for dtype, int8 in INPUTS:
                ratios = []
                for tokens in TOKENS:
                    x = torch.randn(tokens, shape[1], generator=torch.Generator().manual_seed(0)).to(dtype)
                    (library, one), (unpacking, other) = (seconds(product, way, x, int8) for way in WAYS)
                    if float((one - other).abs().max() / other.abs().max()) > LARGEST_DIFFERENCE:
                        raise SystemExit(f"{kind}, {bits} bits, {tokens} tokens: the two ways differ")
                    ratios.append(f"{tokens}: {unpacking / library:.2f}")
                name = (
                    f"{kind}, {bits} bits, {shape[0]} x {shape[1]},"
                    f" {str(dtype).removeprefix('torch.')}{', rounded' if int8 else ''}"
                )
                print(f"{name:66} {'  '.join(ratios)}", flush=True)


if __name__ == "__main__":
    main()
