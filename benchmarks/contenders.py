"""Whoever multiplies in bench_kernels.py: torch's own products, this package's, and llama.cpp's, each with as
many copies of its weight as it takes.

A model's next call is to another weight, so that a kernel finds its weight in memory and not in the cache.
Here each product goes round among copies that together take 1.5 times the last-level cache.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import linear

from bivlm.formats import FORMATS
from bivlm.formats.base import PackedTensor
from bivlm.kernels.codes import FactorsProduct
from bivlm.kernels.table import KERNELS
from bivlm.kernels.trellis import TrellisProduct
from bivlm.native import library as native
from ggml import TYPES, Ggml, GgmlWeight
from random_weights import WIDTHS, random_weight

BEYOND_CACHE = 1.5
LARGEST_CACHE = 128 << 20  # a virtual machine reports its host's, and the copies would take all memory
INT4_GROUPS = (128, 64, 32)
KINDS = ("float32", "bfloat16", "int8")  # what x is; int8: bfloat16 that the kernel rounds
CHECKED_ROWS = 512
Inputs = dict[torch.dtype, Tensor]


@dataclass(frozen=True)
class Contender:
    """`run(x, calls)` makes so many products, with another copy of the weight each; `output(x)` is one of
    them, (tokens, out).
    """

    family: str  # torch, bivlm, llama.cpp
    name: str
    bits: float  # per weight, all that is stored counted
    activations: str
    nbytes: int  # that one product reads of its weight
    copies: int
    dtype: torch.dtype  # of x
    run: Callable[[Tensor, int], None]
    output: Callable[[Tensor], Tensor]
    weight: Callable[[], tuple[Tensor, Tensor]]  # which rows, and the weight there, to check the output by


def cache_bytes() -> int:
    """Size of the last-level cache as the system tells it; 32 MiB where it does not, and at most
    LARGEST_CACHE.
    """
    sizes = [
        path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    ]
    found = max((int(size[:-1]) << {"K": 10, "M": 20}[size[-1]] for size in sizes), default=32 << 20)
    return min(found, LARGEST_CACHE)


def copies_of(nbytes: int) -> int:
    return max(1, -(-int(BEYOND_CACHE * cache_bytes()) // nbytes))


def checked_rows(count: int) -> Tensor:
    """Which rows are checked: all of a small weight, every so many-th of a large one."""
    return torch.arange(0, count, max(1, count // CHECKED_ROWS))


def _contender(
    family: str,
    name: str,
    activations: str,
    nbytes: int,
    weight: Tensor,
    products: list[Callable[[Tensor], Tensor]],
) -> Contender:
    """Of products that torch calls one by one."""
    rows = checked_rows(len(weight))

    def run(x: Tensor, calls: int) -> None:
        for product in products[:calls]:
            product(x)

    dtype = torch.float32 if activations == "float32" else torch.bfloat16
    chosen = weight[rows]
    return Contender(
        family,
        name,
        8 * nbytes / weight.numel(),
        activations,
        nbytes,
        len(products),
        dtype,
        run,
        products[-1],
        lambda: (rows, chosen),
    )


def torch_contenders(shape: tuple[int, int]) -> Iterator[Contender]:
    """Full precision, and the quantized products that this torch has on this processor."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * shape[1] ** -0.5
    for dtype, name in ((torch.float32, "float32"), (torch.bfloat16, "bfloat16")):
        rounded = weight.to(dtype)
        products = [partial(linear, weight=rounded.clone()) for _ in range(copies_of(rounded.nbytes))]
        yield _contender("torch", name, name, rounded.nbytes, rounded.float(), products)
    for contender in (_int8_dynamic, _int8_weight, _int4_weight):
        try:
            yield contender(weight)
        except (RuntimeError, AttributeError, NotImplementedError) as error:
            print(f"torch has no {contender.__name__.strip('_')} here: {str(error).splitlines()[0]}")


def _int8_dynamic(weight: Tensor) -> Contender:
    """int8 weights, one scale each layer, and x rounded by the call."""
    scale = float(weight.abs().max() / 127)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch will drop its quantized tensors
        stored = torch.quantize_per_tensor(weight, scale, 0, torch.qint8)
    prepared = [torch.ops.quantized.linear_prepack(stored, None) for _ in range(copies_of(weight.numel()))]
    products = [partial(_dynamic, prepack=prepack) for prepack in prepared]
    products[0](torch.zeros(1, weight.shape[1]))
    made = _contender("torch", "int8, dynamic", "int8", weight.numel(), stored.dequantize(), products)
    return replace(made, dtype=torch.float32)  # it takes no other


def _dynamic(x: Tensor, prepack: torch.ScriptObject) -> Tensor:
    return torch.ops.quantized.linear_dynamic(x, prepack, reduce_range=False)


def _int8_weight(weight: Tensor) -> Contender:
    """int8 weights, one scale each row, x in bfloat16."""
    scales = (weight.abs().amax(1) / 127).bfloat16()
    stored = (weight / scales[:, None]).round().clamp(-127, 127).to(torch.int8)
    products = [
        partial(_times_int8, weight=stored.clone(), scales=scales) for _ in range(copies_of(stored.nbytes))
    ]
    products[0](torch.zeros(1, weight.shape[1], dtype=torch.bfloat16))
    return _contender(
        "torch",
        "int8, weights only",
        "bfloat16",
        stored.nbytes + scales.nbytes,
        stored.float() * scales[:, None].float(),
        products,
    )


def _times_int8(x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    return torch.ops.aten._weight_int8pack_mm(x, weight, scales)


def _int4_weight(weight: Tensor) -> Contender:
    """int4 weights in groups, x in bfloat16. w = (code - 8) * scale + zero."""
    rows, columns = weight.shape
    group = next(size for size in INT4_GROUPS if columns % size == 0)
    grouped = weight.view(rows, -1, group)
    low, high = grouped.amin(-1), grouped.amax(-1)
    scales = ((high - low) / 15).bfloat16()
    zeros = (low + 8 * scales.float()).bfloat16()
    codes = ((grouped - zeros[..., None].float()) / scales[..., None].float() + 8).round().clamp(0, 15)
    exact = ((codes - 8) * scales[..., None].float() + zeros[..., None].float()).view(rows, columns)
    prepared = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.view(rows, columns).int(), 1)
    both = torch.stack([scales, zeros], -1).transpose(0, 1).contiguous()
    products = [
        partial(_times_int4, weight=prepared.clone(), group=group, both=both.clone())
        for _ in range(copies_of(prepared.nbytes))
    ]
    products[0](torch.zeros(1, columns, dtype=torch.bfloat16))
    return _contender(
        "torch", f"int4, groups of {group}", "bfloat16", prepared.nbytes + both.nbytes, exact, products
    )


def _times_int4(x: Tensor, weight: Tensor, group: int, both: Tensor) -> Tensor:
    return torch.ops.aten._weight_int4pack_mm_for_cpu(x, weight, group, both)


def bivlm_contenders(shape: tuple[int, int], kinds: tuple[str, ...] = tuple(WIDTHS)) -> Iterator[Contender]:
    """Every kind and width of packed weight, with every kind of input."""
    for kind in kinds:
        for bits in WIDTHS[kind]:
            packed = random_weight(kind, bits, shape)
            weight = FORMATS[packed.format].decode(packed).dequantize()
            products = [KERNELS[packed.format, "cpu"](_copy(packed)) for _ in range(copies_of(packed.nbytes))]
            for activations in KINDS:
                calls = [partial(product, bias=None, int8=activations == "int8") for product in products]
                made = _contender("bivlm", kind, activations, _bytes_read(products[0], packed), weight, calls)
                yield replace(made, name=f"{kind}: {bits}", bits=packed.bits_per_weight())


def _copy(packed: PackedTensor) -> PackedTensor:
    return replace(packed, tensors={name: tensor.clone() for name, tensor in packed.tensors.items()})


def _bytes_read(product: object, packed: PackedTensor) -> int:
    """What a call reads: the tensors that the prepared weight points to, which for a tail are not those of
    the file.
    """
    if isinstance(product, TrellisProduct) or not native.library():
        return packed.nbytes
    parts = (product.left, product.right) if isinstance(product, FactorsProduct) else (product,)
    return sum(tensor.nbytes for part in parts for tensor in part.weight.kept)


def llama_contenders(ggml: Ggml, shape: tuple[int, int]) -> Iterator[Contender]:
    """Every type whose blocks divide the rows. Its inputs are float32, and its kernels round them to eight
    bits.
    """
    for kind in TYPES:
        if not ggml.fits(kind, shape[1]):
            continue
        nbytes = round(ggml.bits(kind) * shape[0] * shape[1] / 8)
        weight = GgmlWeight(ggml, kind, shape, copies_of(nbytes))
        rows = torch.arange(len(weight.drawn))
        yield Contender(
            "llama.cpp",
            f"{kind}, stored anew" if weight.repacked else kind,
            ggml.bits(kind),
            "int8",
            nbytes,
            len(weight.tensors),
            torch.float32,
            lambda x, calls, weight=weight: weight.graph(x, calls).run(),
            partial(_ggml_output, weight),
            lambda rows=rows, weight=weight: (rows, weight.dequantize()),
        )


def _ggml_output(weight: GgmlWeight, x: Tensor) -> Tensor:
    graph = weight.graph(x, 1)
    graph.run()
    return graph.output()
