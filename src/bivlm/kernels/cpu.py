"""The CPU kernel: the native library where it is there and knows the weight, the reference kernel elsewhere.

Few tokens: one call of the library, which decodes each weight where it is used. Many tokens: tiles of rows are unpacked into a small scratch, and
torch's matrix product does the rest, so that the whole weight is never there at once.

    factors:  y = diag(row_scale · 2^e) A (diag(middle_scale) B (column_scale ⊙ x)),  two products one after the other
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from bivlm.formats.base import PackedTensor
from bivlm.kernels import native, reference
from bivlm.kernels.base import Product
from bivlm.kernels.native import Library
from bivlm.kernels.prepared import NativeWeight, prepare, prepare_factors, why_not

FEW_TOKENS = 16  # up to here the library multiplies; beyond, unpacking pays (docs/performance.md)
SCRATCH_BYTES = 1 << 22
CPU = torch.device("cpu")
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


def product(packed: PackedTensor) -> Product:
    """The fastest product that this machine has for a weight. ValueError for tensors that contradict themselves."""
    library = native.library()
    if library is None or why_reference(packed):
        return reference.ReferenceProduct(packed, why_reference(packed))
    if packed.format == "factors":
        left, right = (NativeProduct(library, packed, weight) for weight in prepare_factors(packed))
        return FactorsProduct(left, right, packed)
    return NativeProduct(library, packed, prepare(packed))


def why_reference(packed: PackedTensor) -> str:
    """Why a weight is left to the reference kernel; empty when it is not. Only the settings are looked at: tensors may be on the meta device."""
    return native.status().why if native.library() is None else why_not(packed)


class NativeProduct:
    """The product with one weight that the library knows. x float32, bfloat16 or float16; any other dtype goes to the reference kernel."""

    kernel, why = "native", ""

    def __init__(self, library: Library, packed: PackedTensor, weight: NativeWeight) -> None:
        self.packed, self.weight, self.added_bytes = packed, weight, weight.added_bytes
        self.rows, self.columns = weight.shape
        self._linear, self._unpack = partial(library.linear, weight.address), partial(library.unpack, weight.address)

    def __call__(self, x: Tensor, bias: Tensor | None, int8: bool = False) -> Tensor:
        dtype = DTYPES.get(x.dtype)
        if dtype is None:
            return reference.linear(x, self.packed, bias)
        *leading, columns = x.shape
        if columns != self.columns:
            raise ValueError(f"the input is {list(x.shape)}; this linear takes (…, {self.columns})")
        if bias is not None and bias.dtype != x.dtype:
            bias = bias.to(x.dtype)
        y = torch.empty(*leading, self.rows, dtype=x.dtype, device=CPU)
        tokens = x.numel() // columns
        if tokens > FEW_TOKENS:
            self._many(x.reshape(tokens, self.columns), bias, y.view(tokens, self.rows), dtype)
        elif tokens:
            x = x if x.is_contiguous() else x.contiguous()
            threads, place = torch.get_num_threads(), None if bias is None else bias.data_ptr()
            _succeed(self._linear(x.data_ptr(), self.columns, tokens, dtype, y.data_ptr(), place, int8, threads))
        return y

    def _many(self, x: Tensor, bias: Tensor | None, y: Tensor, dtype: int) -> None:
        """x (tokens, in) into y (tokens, out), a tile of rows at a time."""
        step = max(1, min(self.rows, SCRATCH_BYTES // (self.columns * x.element_size())))
        scratch, threads = x.new_empty(step, self.columns), torch.get_num_threads()
        for start in range(0, self.rows, step):
            end = min(start + step, self.rows)
            _succeed(self._unpack(start, end, scratch.data_ptr(), dtype, threads))
            tile, into = scratch[: end - start].t(), y[:, start:end]
            if bias is None:
                torch.mm(x, tile, out=into)
            else:
                torch.addmm(bias[start:end], x, tile, out=into)


class FactorsProduct:
    """Two products of signs. Between them stands float32, or, for many tokens in bfloat16, bfloat16: its matrix product is several times faster."""

    kernel, why = "native", ""

    def __init__(self, left: NativeProduct, right: NativeProduct, packed: PackedTensor) -> None:
        self.left, self.right, self.packed = left, right, packed
        self.column_scale = packed.tensors["column_scale"].float()
        self.added_bytes = left.added_bytes + right.added_bytes + self.column_scale.nbytes

    def __call__(self, x: Tensor, bias: Tensor | None, int8: bool = False) -> Tensor:
        if x.dtype not in DTYPES:
            return reference.linear(x, self.packed, bias)
        scaled = x * self.column_scale
        if x.dtype == torch.bfloat16 and x.numel() > FEW_TOKENS * self.right.columns:
            scaled = scaled.to(x.dtype)
        between = self.right(scaled, None, int8)
        return self.left(between, bias, int8).to(x.dtype)


def _succeed(code: int) -> None:
    if code:
        raise RuntimeError(
            f"the native kernel refused a weight that it should know (error {code}): please report it; BIVLM_KERNEL=reference avoids it"
        )
