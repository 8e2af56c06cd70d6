"""`rows`: every row belongs to a class, and the rows of a class are a packed weight of their own, in any
format and of any number of bits; those of at most one class are dropped, zeros.

    w[i, :] = the weight of the class of row i, its row n,      n the rows of this class before row i

The classes of the rows are symbols of an alphabet of as many letters as there are classes: one bit for each
row with two of them, 1.6 with three, 2.33 with five. docs/format.md has every byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from bivlm.errors import InputError
from bivlm.formats.base import PackedTensor, QuantizedWeight
from bivlm.formats.encoding import bits
from bivlm.formats.encoding.checks import (
    blaming,
    check_density,
    check_integer,
    check_slice,
    check_tensor,
    check_tensors,
    known_settings,
    require,
)
from bivlm.formats.nested import FORMAT, INSIDE, check_kinds, check_names, check_part, part_of, stored_part

MOST_CLASSES = 16
DROPPED = "none"  # the format of the class whose rows are dropped
CLASSES = "row_classes"


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
        check_tensor(CLASSES, self.row_classes, torch.uint8, (len(self.row_classes),))
        check_integer("classes", len(self.parts), 1, MOST_CLASSES)
        kept = {f"class{k}": part for k, part in enumerate(self.parts) if part is not None}
        check_kinds(kept)
        _check_dropped(len(self.parts), len(kept))
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
        return _counts(self.row_classes, len(self.parts))

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
        before = _counts(self.row_classes[:start], len(self.parts))
        inside = _counts(self.row_classes[start:stop], len(self.parts))
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
        tensors = {CLASSES: bits.pack_symbols(self.row_classes[None], _alphabet(len(self.parts)))[0]}
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
    def check_packed(cls, packed: PackedTensor) -> None:
        with blaming("rows"):
            parts, settings = classes_of(packed), dict(packed.settings)
            kept = {prefix: part for prefix, part in parts.items() if part is not None}
            check_names(packed, list(kept), [CLASSES])
            alphabet, rows = _alphabet(len(parts)), packed.shape[0]
            layout = {CLASSES: (torch.uint8, (bits.symbols_bytes(rows, alphabet),))}
            check_tensors({CLASSES: packed.tensors[CLASSES]}, layout)
            with blaming(f"'{CLASSES}'"):
                bits.check_symbols(packed.tensors[CLASSES][None], alphabet, rows)
                found = _counts(row_classes_of(packed), MOST_CLASSES)
                need = [int(settings[f"{prefix}rows"]) for prefix in parts]
                require(
                    found[: len(need)] == need and sum(need) == rows,
                    f"the rows of the classes are {found[: len(need)]}; needs {need}",
                )
            for prefix, part in kept.items():
                check_part(prefix, part)
            check_density(packed.shape, packed.nbytes)

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


def classes_of(packed: PackedTensor) -> Mapping[str, PackedTensor | None]:
    """The packed weight of each class by its prefix, None for the one that is dropped. Only settings and
    shape are looked at: ValueError where they cannot be those of a weight.
    """
    given = packed.settings if isinstance(packed.settings, Mapping) else {}
    count = given.get("classes")
    known = ["classes"]
    if type(count) is int and 1 <= count <= MOST_CLASSES:
        known += [f"class{k}_{name}" for k in range(count) for name in ("rows", FORMAT)]
    prefixes = tuple(f"class{k}_" for k in range((len(known) - 1) // 2))
    inside = [name for name in given if isinstance(name, str) and name.startswith(prefixes)]
    settings = known_settings(packed, "rows", known, [name for name in inside if prefixes])
    check_integer("classes", count, 1, MOST_CLASSES)
    parts: dict[str, PackedTensor | None] = {}
    for prefix in prefixes:
        rows = settings[f"{prefix}rows"]
        check_integer(f"{prefix}rows", rows, 1, packed.shape[0])
        if settings[f"{prefix}{FORMAT}"] == DROPPED:
            more = [name for name in inside if name.startswith(prefix) and name not in known]
            require(not more, f"'{more[0] if more else ''}' does not belong to a class that is dropped")
            parts[prefix] = None
        else:
            parts[prefix] = part_of(packed, prefix, (rows, packed.shape[1]), "rows")
    _check_dropped(len(parts), sum(part is not None for part in parts.values()))
    return parts


def row_classes_of(packed: PackedTensor) -> Tensor:
    """The class of every row (out,) uint8, of a packed weight whose stream is right."""
    alphabet = _alphabet(int(packed.settings["classes"]))
    return bits.unpack_symbols(packed.tensors[CLASSES][None], alphabet, packed.shape[0])[0]


def row_classes_nbytes(rows: int, classes: int) -> int:
    """The bytes of the classes of so many rows, exactly."""
    return bits.symbols_bytes(rows, _alphabet(classes))


def _alphabet(classes: int) -> int:
    """Letters of the stream of the rows' classes: a stream has two at least."""
    return max(2, classes)


def _counts(row_classes: Tensor, classes: int) -> list[int]:
    return torch.bincount(row_classes.long(), minlength=classes).tolist()


def _check_dropped(classes: int, kept: int) -> None:
    require(kept > 0, "every row is dropped; needs a class with a weight")
    require(classes - kept <= 1, f"{classes - kept} classes are dropped; at most one may be")
