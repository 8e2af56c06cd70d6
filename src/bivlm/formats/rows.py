"""`rows`: every row belongs to a class, and the rows of a class are a packed weight of their own, in any
format and of any number of bits; those of at most one class are dropped, zeros.

    w[i, :] = the weight of the class of row i, its row n,      n the rows of this class before row i

The classes of the rows are symbols of an alphabet of as many letters as there are classes: one bit for each
row with two of them, 1.6 with three, 2.33 with five. docs/format.md has every byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from bivlm.errors import InputError
from bivlm.formats.base import PackedTensor, QuantizedWeight
from bivlm.formats.encoding import bits, streams
from bivlm.formats.encoding.checks import check_integer, check_slice, check_tensor, require
from bivlm.formats.encoding.row_checks import (
    CLASSES,
    DROPPED,
    FORMAT,
    MOST_CLASSES,
    alphabet_of,
    check_dropped,
    classes_of,
    counts_of,
    row_classes_of,
)
from bivlm.formats.nested import INSIDE, check_kinds, stored_part


@dataclass(frozen=True, eq=False)
class RowsWeight(QuantizedWeight):
    """A weight of (out, in) in `rows`.

    row_classes  (out,) uint8: the class of every row; every class has a row
    parts        for each class the weight of its rows, (its rows, in), in their order; None drops them. There
                 are 1 … 16, at most one of them None, and at least one not

    All tensors are on one device. ValueError, naming the field, for anything else.
    """

    format: ClassVar[str] = "rows"

    row_classes: Tensor
    parts: tuple[QuantizedWeight | None, ...]

    def check(self) -> None:
        require(
            self.row_classes.dim() == 1 and self.row_classes.numel() > 0,
            f"'{CLASSES}' is {list(self.row_classes.shape)}; needs (out,), at least 1",
        )
        check_tensor(CLASSES, self.row_classes, "uint8", (len(self.row_classes),))
        check_integer("classes", len(self.parts), 1, MOST_CLASSES)
        kept = {f"class{k}": part for k, part in enumerate(self.parts) if part is not None}
        check_kinds(kept)
        check_dropped(len(self.parts), len(kept))
        require(
            int(self.row_classes.max()) < len(self.parts),
            f"'{CLASSES}' holds {int(self.row_classes.max())}; there are {len(self.parts)} classes",
        )
        columns = next(iter(kept.values())).shape[1]
        for k, (rows, part) in enumerate(zip(self.counts, self.parts, strict=True)):
            require(rows > 0, f"no row has the class {k}")
            found = None if part is None else part.shape
            require(found in (None, (rows, columns)), f"'class{k}' is {found}; needs {(rows, columns)}")

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.row_classes), next(part.shape[1] for part in self.parts if part is not None)

    @property
    def counts(self) -> list[int]:
        """The rows of every class."""
        return counts_of(self.row_classes, len(self.parts))

    def dequantize(self) -> Tensor:
        weight = torch.zeros(self.shape, dtype=torch.float32, device=self.row_classes.device)
        for k, part in enumerate(self.parts):
            if part is not None:
                weight[self.row_classes == k] = part.dequantize()
        return weight

    def slice_rows(self, start: int, stop: int) -> Self:
        """Rows of the classes that they have; InputError where a class's format cannot be cut there, and for
        rows that are all dropped.
        """
        check_slice("rows", start, stop, self.shape[0], 1)
        before = counts_of(self.row_classes[:start], len(self.parts))
        inside = counts_of(self.row_classes[start:stop], len(self.parts))
        left = [k for k, rows in enumerate(inside) if rows]
        if all(self.parts[k] is None for k in left):
            raise InputError(f"the rows {start} … {stop} are all dropped: there is nothing to store of them")
        parts = [
            None if part is None else part.slice_rows(before[k], before[k] + inside[k])
            for k in left
            for part in (self.parts[k],)
        ]
        number = torch.zeros(len(self.parts), dtype=torch.uint8, device=self.row_classes.device)
        number[left] = torch.arange(len(left), dtype=torch.uint8, device=number.device)
        return type(self)(number[self.row_classes[start:stop].long()], tuple(parts))

    def slice_columns(self, start: int, stop: int) -> Self:
        check_slice("columns", start, stop, self.shape[1], 1)
        parts = (None if part is None else part.slice_columns(start, stop) for part in self.parts)
        return type(self)(self.row_classes, tuple(parts))

    def encode(self) -> PackedTensor:
        tensors = {CLASSES: bits.pack_symbols(self.row_classes[None], alphabet_of(len(self.parts)))[0]}
        settings: dict[str, Any] = {"classes": len(self.parts)}
        for k, (rows, part) in enumerate(zip(self.counts, self.parts, strict=True)):
            settings[f"class{k}_rows"] = rows
            if part is None:
                settings[f"class{k}_{FORMAT}"] = DROPPED
                continue
            found, numbers = stored_part(f"class{k}_", part.encode())
            tensors |= found
            settings |= numbers
        return PackedTensor(self.format, self.shape, tensors, settings)

    @classmethod
    def decode(cls, packed: PackedTensor) -> Self:
        """The inverse of `encode`. Numbers of the parts are shared with `packed`, not copied."""
        cls.check_packed(packed)
        parts = (
            None if part is None else INSIDE[part.format].decode(part) for part in classes_of(packed).values()
        )
        return cls(row_classes_of(packed), tuple(parts))

    @classmethod
    def unpack_rows(cls, packed: PackedTensor, index: Tensor) -> Tensor:
        """The rows of each class are unpacked as its format does it."""
        cls.check_packed(packed)
        classes = row_classes_of(packed)
        unpacked = torch.zeros(len(index), packed.shape[1], dtype=torch.float32, device=classes.device)
        for k, part in enumerate(classes_of(packed).values()):
            mine = classes[index] == k
            if part is not None and bool(mine.any()):
                place = (classes == k).cumsum(0)[index[mine]] - 1
                unpacked[mine] = INSIDE[part.format].unpack_rows(part, place)
        return unpacked


def row_classes_nbytes(rows: int, classes: int) -> int:
    """The bytes of the classes of so many rows, exactly."""
    return streams.symbols_bytes(rows, alphabet_of(classes))
