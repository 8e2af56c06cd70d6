"""The CPU kernel of `trellis`: the native library if it is installed, otherwise the reference kernel.

    y = diag(row_scale) (T (R x)) + bias

For few tokens the library rotates the inputs itself. For many tokens the inputs are rotated once and
multiplied with unpacked rows of diag(row_scale) T. The weight is never rotated back.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from bivlm.formats import trellis
from bivlm.formats.base import PackedTensor
from bivlm.formats.encoding.trellis_checks import MOST_BITS
from bivlm.kernels import reference
from bivlm.kernels.base import Product
from bivlm.kernels.native_product import CPU, FewTokens, Functions, NativeProduct, succeed
from bivlm.native.library import Library, library, status, warn_of_reference
from bivlm.native.pointers import pointer
from bivlm.native.structs import DTYPES, TrellisStruct
from bivlm.native.weights import check_on_cpu

FEW_TOKENS = {"avx512": FewTokens(full=1024, short=64, rounded=1024), "avx2": FewTokens(256, 24, 64)}
FEW_ELSEWHERE = FewTokens(24, 24, 64)


def product(packed: PackedTensor) -> Product:
    """The fastest product that this machine has for a weight in `trellis`. ValueError for tensors that
    contradict each other.
    """
    native = library()
    if native is None:
        warn_of_reference()
        return reference.ReferenceProduct(packed, status().why)
    return TrellisProduct(native, packed)


class TrellisProduct(NativeProduct):
    """The product with one weight. `added_bytes` are the row scales and signs as float32; the standard levels
    are shared by all weights and not counted.
    """

    tile_rows = trellis.STRIP

    def __init__(self, native: Library, packed: PackedTensor) -> None:
        check_on_cpu(packed)
        weight, (rows, columns) = trellis.TrellisWeight.decode(packed), packed.shape
        self.row_scale = trellis.row_factors(weight.row_scale, weight.exponent)
        self.signs, self.blocks = weight.signs() if weight.rotated else None, weight.blocks
        self.added_bytes = self.row_scale.nbytes + (0 if self.signs is None else self.signs.nbytes)
        self._kept = tuple(tensor.contiguous() for tensor in (weight.codes, weight.bits, weight.tables))
        codes, bits, table = self._kept
        self.struct = TrellisStruct(
            rows=rows,
            columns=columns,
            window=weight.window,
            codes=pointer("codes", codes, torch.uint8, len(codes)),
            code_bytes=len(codes),
            bits=pointer("bits", bits, torch.uint8, -(-columns // trellis.RUN)),
            table=pointer("table", table, torch.int8, MOST_BITS << weight.window),
            table_stride=1 << weight.window,
            row_scale=pointer("row_scale", self.row_scale, torch.float32, rows),
            signs=self._signs_place(columns),
            blocks=self.blocks,
        )
        address = ctypes.addressof(self.struct)
        self._rotate, few = native.rotate, FEW_TOKENS.get(native.instruction_set, FEW_ELSEWHERE)
        super().__init__(
            packed,
            packed.shape,
            few,
            Functions(address, native.trellis_linear, native.trellis_linear_many, native.trellis_unpack),
        )

    def unpacked_inputs(self, x: Tensor) -> Tensor:
        """R x for every x (tokens, in), rounded once to x's dtype."""
        if self.signs is None:
            return x
        turned = torch.empty(x.shape, dtype=torch.float32, device=CPU)
        columns, count = self.columns, x.numel()
        succeed(
            self._rotate(
                pointer("x", x, x.dtype, count),
                columns,
                len(x),
                DTYPES[x.dtype],
                columns,
                self.blocks,
                self._signs_place(columns),
                pointer("turned", turned, torch.float32, count),
                torch.get_num_threads(),
            )
        )
        return turned.to(x.dtype)

    def _signs_place(self, columns: int) -> int | None:
        """The address of the rotation's signs; None without a rotation."""
        return None if self.signs is None else pointer("signs", self.signs, torch.float32, columns)
