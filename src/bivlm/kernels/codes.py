"""The CPU kernel of the formats with codes: the native library if it is installed, otherwise the reference
kernel.

factors:  y = diag(row_scale · 2^e) A (diag(middle_scale) B (column_scale ⊙ x)),  two products in sequence
"""

from __future__ import annotations

import torch
from torch import Tensor

from bivlm.formats.base import PackedTensor
from bivlm.kernels import reference
from bivlm.kernels.base import Product, check_width
from bivlm.kernels.native_product import FewTokens, Functions, NativeProduct
from bivlm.native.build import NativeWeight
from bivlm.native.library import Library, library, status, warn_of_reference
from bivlm.native.structs import DTYPES
from bivlm.native.weights import prepare, prepare_factors

FEW_TOKENS = {"avx512": FewTokens(full=128, short=16, rounded=48)}
FEW_ELSEWHERE = FewTokens(16, 16, 16)


def product(packed: PackedTensor) -> Product:
    """The fastest product that this machine has for a weight. ValueError for tensors that contradict each
    other.
    """
    native = library()
    if native is None:
        warn_of_reference()
        return reference.ReferenceProduct(packed, why_reference())
    if packed.format == "factors":
        left, right = (CodesProduct(native, packed, weight) for weight in prepare_factors(packed))
        return FactorsProduct(left, right, packed)
    return CodesProduct(native, packed, prepare(packed))


def why_reference() -> str:
    """Why weights run on the reference kernel; empty if they do not."""
    return status().why if library() is None else ""


class CodesProduct(NativeProduct):
    """The product with one weight."""

    def __init__(self, native: Library, packed: PackedTensor, weight: NativeWeight) -> None:
        self.weight, self.added_bytes = weight, weight.added_bytes
        few = FEW_TOKENS.get(native.instruction_set, FEW_ELSEWHERE)
        if weight.struct.planes:  # their inputs are never rounded
            few = few._replace(rounded=few.short)
        super().__init__(
            packed,
            weight.shape,
            few,
            Functions(weight.address, native.linear, native.linear_many, native.unpack),
        )


class FactorsProduct:
    """Two products of signs. The intermediate result is float32, or bfloat16 for many tokens in bfloat16,
    whose matrix product is several times faster.
    """

    kernel, why = "native", ""

    def __init__(self, left: CodesProduct, right: CodesProduct, packed: PackedTensor) -> None:
        self.left, self.right, self.packed = left, right, packed
        self.column_scale = packed.tensors["column_scale"].float()
        self.added_bytes = left.added_bytes + right.added_bytes + self.column_scale.nbytes

    def __call__(self, x: Tensor, bias: Tensor | None, int8: bool = False) -> Tensor:
        if x.dtype not in DTYPES:
            return reference.linear(x, self.packed, bias)
        check_width(x, self.right.columns)
        scaled = x * self.column_scale
        if x.dtype == torch.bfloat16 and x.numel() > self.right.few.short * self.right.columns:
            scaled = scaled.to(x.dtype)
        between = self.right(scaled, None, int8)
        return self.left(between, bias, int8).to(x.dtype)
