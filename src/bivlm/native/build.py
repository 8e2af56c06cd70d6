"""A `bivlm_weight` under construction: its fields, and the tensors that its pointers point into."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from bivlm.formats.base import PackedTensor
from bivlm.native.pointers import pointer
from bivlm.native.structs import NUMBERS, NumbersStruct, WeightStruct


@dataclass(frozen=True, eq=False)
class NativeWeight:
    """`bivlm_weight` with the tensors that it points into; `added_bytes` counts those that are not part of
    the packed weight.
    """

    struct: WeightStruct
    kept: tuple[Tensor, ...]
    added_bytes: int

    @property
    def address(self) -> int:
        return ctypes.addressof(self.struct)

    @property
    def shape(self) -> tuple[int, int]:
        return self.struct.rows, self.struct.columns


class Build:
    """A `bivlm_weight` under construction: `point` sets a pointer and keeps its tensor alive."""

    def __init__(
        self,
        kind: int,
        width: int,
        shape: tuple[int, int],
        group_size: int,
        codes: Tensor,
        scale: float = 1.0,
    ) -> None:
        rows, columns = shape
        self.struct = WeightStruct(
            kind=kind, bits=width, rows=rows, columns=columns, group_size=group_size, scale=scale
        )
        self.struct.groups, self.struct.row_bytes, self.struct.alphabet = (
            -(-columns // group_size),
            codes.shape[1],
            1 << width,
        )
        self.kept: list[Tensor] = []
        self.point("codes", codes, torch.uint8, rows * codes.shape[1])

    def point(self, field: str, tensor: Tensor, dtype: torch.dtype, count: int) -> None:
        setattr(self.struct, field, self.keep(field, tensor, dtype, count))

    def numbers(self, name: str, stored: Tensor, unit: Tensor | None = None, kinds: int = 1) -> NumbersStruct:
        """Scales or means (rows, groups, kinds), and their units (rows, kinds)."""
        rows = self.struct.rows
        return NumbersStruct(
            self.keep(f"{name}s", stored, stored.dtype, rows * self.struct.groups * kinds),
            NUMBERS[stored.dtype],
            None if unit is None else self.keep(f"{name}_unit", unit, torch.float16, rows * kinds),
        )

    def keep(self, name: str, tensor: Tensor, dtype: torch.dtype, count: int) -> int:
        """The address of a tensor, made contiguous."""
        self.kept.append(tensor.contiguous())
        return pointer(name, self.kept[-1], dtype, count)

    def done(self, packed: PackedTensor) -> NativeWeight:
        stored = {tensor.untyped_storage().data_ptr() for tensor in packed.tensors.values()}
        added = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in self.kept
        }
        return NativeWeight(
            self.struct, tuple(self.kept), sum(size for place, size in added.items() if place not in stored)
        )
