"""The CPU kernel of `trellis`: the native library if it is installed, otherwise the reference kernel.

    y = diag(row_scale) (T (R x)) + bias

For few tokens the library rotates the inputs itself. For many tokens the inputs are rotated once and
multiplied with unpacked rows of diag(row_scale) T. The weight is never rotated back.
"""

from __future__ import annotations

import ctypes
from functools import partial

import torch
from torch import Tensor

from bivlm.formats import trellis
from bivlm.formats.base import PackedTensor
from bivlm.formats.encoding.rotation import signs_of
from bivlm.formats.encoding.trellis_code import standard_tables
from bivlm.kernels import reference
from bivlm.kernels.base import Product
from bivlm.kernels.native_product import FewTokens, NativeProduct, succeed
from bivlm.native.library import Library, library, status
from bivlm.native.structs import DTYPES, TrellisStruct

FEW_TOKENS = {"avx512": FewTokens(full=1024, short=64, rounded=1024), "avx2": FewTokens(256, 24, 64)}
FEW_ELSEWHERE = FewTokens(24, 24, 64)


def product(packed: PackedTensor) -> Product:
    """The fastest product that this machine has for a weight in `trellis`. ValueError for tensors that
    contradict each other.
    """
    native = library()
    return (
        reference.ReferenceProduct(packed, status().why) if native is None else TrellisProduct(native, packed)
    )


class TrellisProduct(NativeProduct):
    """The product with one weight. `added_bytes` are the row scales and signs as float32; the standard levels
    are shared by all weights and not counted.
    """

    tile_rows = trellis.STRIP

    def __init__(self, native: Library, packed: PackedTensor) -> None:
        settings, tensors = trellis.checked(packed), packed.tensors
        rows, columns = packed.shape
        table = tensors["table"] if settings["fitted"] else standard_tables(settings["window"])
        self.row_scale = trellis.row_factors(tensors["row_scale"], settings["exponent"])
        self.signs = signs_of(settings["seed"], columns) if settings["rotated"] else None
        self.added_bytes = self.row_scale.nbytes + (0 if self.signs is None else self.signs.nbytes)
        self._kept = tuple(tensor.contiguous() for tensor in (tensors["codes"], tensors["bits"], table))
        codes, bits, table = self._kept
        self.struct = TrellisStruct(
            rows=rows,
            columns=columns,
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
        self._rotate, few = native.rotate, FEW_TOKENS.get(native.instruction_set, FEW_ELSEWHERE)
        super().__init__(
            packed,
            packed.shape,
            few,
            partial(native.trellis_linear, address),
            partial(native.trellis_unpack, address),
        )

    def unpacked_inputs(self, x: Tensor) -> Tensor:
        """R x for every x (tokens, in), rounded once to x's dtype."""
        if self.signs is None:
            return x
        turned = torch.empty(x.shape, dtype=torch.float32)
        threads, columns = torch.get_num_threads(), self.columns
        succeed(
            self._rotate(
                x.data_ptr(),
                columns,
                len(x),
                DTYPES[x.dtype],
                columns,
                self.signs.data_ptr(),
                turned.data_ptr(),
                threads,
            )
        )
        return turned.to(x.dtype)
