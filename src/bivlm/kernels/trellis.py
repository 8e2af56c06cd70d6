"""The CPU kernel of `trellis`: the native library where it is there, the reference kernel elsewhere.

    y = diag(row_scale) (T (R x)) + bias

Few tokens: one call of the library, which rotates the inputs and decodes each weight where it is used. Many tokens: the inputs are rotated once,
tiles of rows of diag(row_scale) T are unpacked into a small scratch, and torch's matrix product does the rest. The weight is never turned back.
"""

from __future__ import annotations

import ctypes
from functools import partial

import torch
from torch import Tensor

from bivlm.formats import trellis
from bivlm.formats.base import PackedTensor
from bivlm.formats.rotation import signs_of
from bivlm.formats.trellis_code import standard_tables
from bivlm.kernels import native, reference
from bivlm.kernels.base import Product
from bivlm.kernels.cpu import CPU, DTYPES, SCRATCH_BYTES
from bivlm.kernels.native import Library, TrellisStruct

# Tokens up to which the library multiplies, by the instruction set: float32 inputs, shorter ones, inputs that it may round. Beyond, unpacking pays.
FEW_TOKENS = {"avx512": (1024, 64, 1024), "avx2": (256, 24, 64)}
FEW_ELSEWHERE = (24, 24, 64)


def product(packed: PackedTensor) -> Product:
    """The fastest product that this machine has for a weight in `trellis`. ValueError for tensors that contradict themselves."""
    library = native.library()
    return reference.ReferenceProduct(packed, native.status().why) if library is None else TrellisProduct(library, packed)


def few_tokens(level: str, dtype: torch.dtype, int8: bool) -> int:
    """The most tokens for one call of the library."""
    full, short, rounded = FEW_TOKENS.get(level, FEW_ELSEWHERE)
    return rounded if int8 else full if dtype == torch.float32 else short


class TrellisProduct:
    """The product with one weight. x float32, bfloat16 or float16; any other dtype goes to the reference kernel.

    `added_bytes` are the row scales and signs as float32; the standard levels, which all weights share, are not counted.
    """

    kernel, why = "native", ""

    def __init__(self, library: Library, packed: PackedTensor) -> None:
        settings, tensors = trellis.checked(packed), packed.tensors
        self.packed, self.level, (self.rows, self.columns) = packed, library.level, packed.shape
        table = tensors["table"] if settings["fitted"] else standard_tables(settings["window"])
        self.row_scale = trellis.row_factors(tensors["row_scale"], settings["exponent"])
        self.signs = signs_of(settings["seed"], self.columns) if settings["rotated"] else None
        self.added_bytes = self.row_scale.nbytes + (0 if self.signs is None else self.signs.nbytes)
        self._kept = tuple(tensor.contiguous() for tensor in (tensors["codes"], tensors["bits"], table))
        codes, bits, table = self._kept
        self.struct = TrellisStruct(
            rows=self.rows,
            columns=self.columns,
            window=settings["window"],
            codes=codes.data_ptr(),
            code_bytes=len(codes),
            bits=bits.data_ptr(),
            table=table.data_ptr(),
            table_stride=table.stride(0),
            row_scale=self.row_scale.data_ptr(),
            signs=None if self.signs is None else self.signs.data_ptr(),
        )
        address = ctypes.addressof(self.struct)
        self._linear, self._unpack, self._rotate = partial(library.trellis_linear, address), partial(library.trellis_unpack, address), library.rotate

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
        tokens, x = x.numel() // columns, x.contiguous()
        if tokens > few_tokens(self.level, x.dtype, int8):
            self._many(self._rotated(x.view(tokens, columns), dtype), bias, y.view(tokens, self.rows), dtype)
        elif tokens:
            threads, place = torch.get_num_threads(), None if bias is None else bias.data_ptr()
            _succeed(self._linear(x.data_ptr(), columns, tokens, dtype, y.data_ptr(), place, int8, threads))
        return y

    def _rotated(self, x: Tensor, dtype: int) -> Tensor:
        """R x for every x (tokens, in), rounded once to x's dtype."""
        if self.signs is None:
            return x
        turned = torch.empty(x.shape, dtype=torch.float32)
        threads, columns = torch.get_num_threads(), self.columns
        _succeed(self._rotate(x.data_ptr(), columns, len(x), dtype, columns, self.signs.data_ptr(), turned.data_ptr(), threads))
        return turned.to(x.dtype)

    def _many(self, x: Tensor, bias: Tensor | None, y: Tensor, dtype: int) -> None:
        """Rotated x (tokens, in) into y (tokens, out), some strips at a time."""
        strips = max(1, SCRATCH_BYTES // (trellis.STRIP * self.columns * x.element_size()))
        step = min(self.rows, strips * trellis.STRIP)
        scratch, threads = x.new_empty(step, self.columns), torch.get_num_threads()
        for start in range(0, self.rows, step):
            end = min(start + step, self.rows)
            _succeed(self._unpack(start, end, scratch.data_ptr(), dtype, threads))
            tile, into = scratch[: end - start].t(), y[:, start:end]
            if bias is None:
                torch.mm(x, tile, out=into)
            else:
                torch.addmm(bias[start:end], x, tile, out=into)


def _succeed(code: int) -> None:
    if code:
        raise RuntimeError(f"the native kernel refused a trellis weight (error {code}): please report it; BIVLM_KERNEL=reference avoids it")
