"""Whoever multiplies on a card in `bench_kernels.py --device cuda`: torch, this package, and torchao's int4
and bitsandbytes' nf4 where they are installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from bivlm.formats import FORMATS
from bivlm.kernels.table import kernel_for
from card import cache_bytes
from contenders import BEYOND_CACHE, Contender, checked_rows
from random_weights import random_weight

KINDS = {  # and the widths; fewer than on the CPU, so that all of it takes minutes
    "levels": (1, 2, 4),
    "levels, 1 % tail": (2,),
    "planes, blocks": (1,),
    "uniform, groups of 128": (2, 4),
    "factors": (2,),
    "trellis": (1, 2, 3, 4),
}
MOST_COPIES = 64
GROUP = 128


def card_contenders(shape: tuple[int, int]) -> Iterator[Contender]:
    """All of them; a line for each that is not there."""
    weight = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * shape[1] ** -0.5).cuda()
    rounded = weight.bfloat16()
    yield _contender("torch", "bfloat16", rounded.nbytes, rounded.float(), partial(_bf16, rounded))
    for kind, widths in KINDS.items():
        for bits in widths:
            packed = random_weight(kind, bits, shape)
            packed = replace(packed, tensors={name: part.cuda() for name, part in packed.tensors.items()})
            decoded = FORMATS[packed.format].decode(packed).dequantize()
            yield _contender("bivlm", f"{kind}: {bits}", packed.nbytes, decoded, partial(_bivlm, packed))
    for name, others in (("torchao", _torchao), ("bitsandbytes", _bitsandbytes)):
        try:
            yield others(weight)
        except (ImportError, RuntimeError, NotImplementedError, AttributeError, AssertionError) as error:
            said = (str(error).splitlines() or [""])[0]
            print(f"{name} is left out: {type(error).__name__}: {said}")


def _contender(
    family: str, name: str, nbytes: int, weight: Tensor, make: Callable[[], Callable[[Tensor], Tensor]]
) -> Contender:
    """Of products in bfloat16, as many as together are larger than the cache."""
    copies = min(MOST_COPIES, max(1, -(-int(BEYOND_CACHE * cache_bytes()) // nbytes)))
    products = [make() for _ in range(copies)]
    rows = checked_rows(len(weight))

    def run(x: Tensor, calls: int) -> None:
        for call in range(calls):
            products[call % copies](x)

    return Contender(
        family,
        name,
        8 * nbytes / weight.numel(),
        "bfloat16",
        nbytes,
        copies,
        torch.bfloat16,
        run,
        products[-1],
        lambda: (rows.to(weight.device), weight[rows.to(weight.device)]),
    )


def _bf16(weight: Tensor) -> Callable[[Tensor], Tensor]:
    return partial(linear, weight=weight.clone())


def _bivlm(packed: Any) -> Callable[[Tensor], Tensor]:
    copy = replace(packed, tensors={name: tensor.clone() for name, tensor in packed.tensors.items()})
    product = kernel_for(packed.format, "cuda")(copy)
    if product.kernel != "triton":
        raise SystemExit(f"{packed.format} runs on the {product.kernel} kernel: {product.why}")
    return partial(product, bias=None)


def _torchao(weight: Tensor) -> Contender:
    """int4 weights in groups of 128, bfloat16 inputs."""
    from torchao.quantization import Int4WeightOnlyConfig, quantize_

    def make() -> torch.nn.Linear:
        module = torch.nn.Linear(
            weight.shape[1], weight.shape[0], bias=False, device="cuda", dtype=torch.bfloat16
        )
        module.weight = torch.nn.Parameter(weight.bfloat16(), requires_grad=False)
        quantize_(module, Int4WeightOnlyConfig(group_size=GROUP))
        return module

    decoded = make()(torch.eye(weight.shape[1], device="cuda", dtype=torch.bfloat16)).T.float()
    nbytes = weight.numel() // 2 + 4 * weight.numel() // GROUP  # a scale and a zero point of 16 bits
    return _contender("torchao", f"int4, groups of {GROUP}", nbytes, decoded, make)


def _bitsandbytes(weight: Tensor) -> Contender:
    """nf4 weights in blocks of 64, bfloat16 inputs."""
    import bitsandbytes
    from bitsandbytes.functional import dequantize_4bit

    def make() -> torch.nn.Module:
        module = bitsandbytes.nn.Linear4bit(
            weight.shape[1], weight.shape[0], bias=False, compute_dtype=torch.bfloat16, quant_type="nf4"
        )
        module.weight = bitsandbytes.nn.Params4bit(
            weight.bfloat16().cpu(), requires_grad=False, quant_type="nf4"
        )
        return module.cuda()

    made: Any = make()
    decoded = dequantize_4bit(made.weight.data, made.weight.quant_state).float()
    return _contender("bitsandbytes", "nf4", weight.numel() // 2 + weight.numel() // 64 * 4, decoded, make)
