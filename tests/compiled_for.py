"""Compiles every kernel that the products launch to machine code, without a card: the driver only says for
which one. The interpreter runs Python; this is what sees types, shapes of tiles, registers and shared memory.

    python tests/compiled_for.py cuda 80 [NAME …]        prints one JSON object for each kernel
"""

from __future__ import annotations

import json
import sys

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from bivlm.formats.encoding.trellis_code import standard_tables
from bivlm.kernels import gpu, triton_shared
from bivlm.kernels.together import Part, multiply
from bivlm.quantizers.steps.triton_viterbi import search_on_card
from made_weights import made_planes
from trellis_weights import trellis_weight
from weights import factors, levels, planes, uniform

WEIGHTS = {
    "factors": factors(192, 1024, 128),
    "factors, odd": factors(70, 333, 75),
    "levels 2 bits": levels(192, 1024, symmetric=True),
    "levels 1 bit, tail": levels(192, 1024, alphabet=2, symmetric=True, tail=0.01),
    "levels 3 bits, groups, values": levels(192, 1024, alphabet=8, group_size=128, tail=0.01, values=True),
    "levels of 3, groups": levels(64, 300, alphabet=3, group_size=33),
    "planes, blocks": planes(192, 1024, group_size=128),
    "planes, small blocks": planes(64, 72, group_size=8),
    "planes, everything": made_planes(
        64, 256, 64, parts=2, salient_parts=2, salient=(0, 17), bits=8, means=True, column_scales=True
    ),
    "planes, tail": made_planes(64, 256, 64, means=True, tail=range(0, 900, 7)),
    "trellis": trellis_weight(200, 1024, (2, 1)),
    "trellis, 16-bit window": trellis_weight(200, 300, (4, 3), window=16, fitted=True),
    "trellis, blocks": trellis_weight(200, 1024, (2, 1), blocks=8),
    "uniform, groups": uniform(192, 1024, group_size=128, zero="code"),
    "uniform 4 bits, column scale": uniform(
        192, 1024, alphabet=16, group_size=128, bits=8, zero="free", column_scale=True
    ),
    "uniform of 5, odd": uniform(64, 300, alphabet=5, group_size=33, bits=32),
}
TOGETHER = {
    "together, trellis": ("trellis", "trellis"),
    "together, levels": ("levels 2 bits", "levels 2 bits"),
}
SEARCHES = {
    "search, 8-bit window": (8, 2),
    "search, 12-bit window": (12, 3),
    "search, 16-bit window": (16, 4),
}
CALLS = ((1, torch.bfloat16), (4, torch.bfloat16), (100, torch.float16), (4, torch.float32))


class Pretended:
    """The driver of a card that is not there."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def main(backend: str, arch: str, *names: str) -> None:
    target = GPUTarget(backend, int(arch) if backend == "cuda" else arch, 32 if backend == "cuda" else 64)
    driver.set_active(Pretended(target))
    launch = triton.JITFunction.run

    def compile_only(self, *arguments, grid, warmup, **options):
        compiled = launch(self, *arguments, grid=grid, warmup=True, **options)
        found = {"kernel": self.fn.__name__, "shared": compiled.metadata.shared, "kinds": list(compiled.asm)}
        print(json.dumps(found))
        return compiled

    triton.JITFunction.run = compile_only
    triton_shared.processors = lambda device: 100
    gpu.why_reference = lambda device: ""
    for name, weight in WEIGHTS.items():
        if names and name not in names:
            continue
        product = gpu.product(weight.encode())
        for tokens, dtype in CALLS:
            product(torch.zeros(tokens, weight.shape[1], dtype=dtype), None)
        if hasattr(product, "look_up"):
            product.look_up(torch.zeros(2, dtype=torch.int64), torch.bfloat16)
    for name, weights in TOGETHER.items():
        if names and name not in names:
            continue
        for dtype in (torch.bfloat16, torch.float32):
            products = [gpu.product(WEIGHTS[weight].encode()) for weight in weights]
            bias = torch.zeros(products[0].rows, dtype=dtype)
            x = torch.zeros(2, products[0].columns, dtype=dtype)
            for added in (None, bias):
                multiply([Part(product, added, 1, False) for product in products], x, products[0].rows)
    for name, (window, k) in SEARCHES.items():
        if not names or name in names:
            state = torch.zeros(2, dtype=torch.int32)
            search_on_card(
                torch.zeros(4, 100), torch.eye(4), window, k, standard_tables(window)[k - 1], state
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
