"""`levels`: a dense code of a few bits per weight into a small table of levels, and a sparse list for the
tail of large weights.

    w[i, j] = scale * table[row group of i, column group of j][codes[i, j]]          dense
    w[i, j] = scale * tail_scale[i] * tail_levels[tail_codes[n]]    where (i, j) is tail_positions[n]

Products are taken in float32, from left to right. In the file the codes are radix words, the tail's positions
are Rice codes of the gaps between them, and the tail's codes take the place of the dense codes that a tail
entry does not need. docs/format.md has every byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from bivlm.formats.base import PackedTensor, QuantizedWeight
from bivlm.formats.encoding import bits
from bivlm.formats.encoding.checks import (
    Layout,
    blaming,
    check_boolean,
    check_integer,
    check_tensor,
    check_tensors,
    known_settings,
    own_copy,
    require,
)
from bivlm.formats.encoding.positions import pack_positions, positions_nbytes, unpack_positions

SETTINGS = ["alphabet", "group_size", "symmetric", "tail", "tail_rice"]

_BLOCK = 1 << 18  # weights that are expanded at a time: their int32 indices stay in the cache


@dataclass(frozen=True, eq=False)
class LevelsWeight(QuantizedWeight):
    """A weight of (out, in) in `levels`.

    codes           (out, in) uint8, each below `alphabet`, ascending in value; 0 under a tail entry (the
                    format stores the tail's code there)
    levels          (R, G, L) float16, relative to `scale`. R = 1 (one table per layer) or out (one per row);
                    G = 1 or ceil(in / group_size). symmetric: L = alphabet / 2 magnitudes, ascending; code c
                    means -levels[L-1-c] for c < L and +levels[c-L] otherwise. not symmetric: L = alphabet
                    levels, code c means levels[c].
    scale           () float32, above 0: keeps float16 tables in range for weights of any size
    group_size      columns per table; `in` when the whole row shares one (the last group may be shorter)
    tail_positions  (n,) int64, ascending and unique, row-major positions i * in + j
    tail_codes      (n,) uint8, 0…3
    tail_levels     (4,) float16, ascending; zeros when there is no tail
    tail_scale      (out,) float16; empty when there is no tail

    "Ascending" allows equal neighbours, except for positions. All tensors are on one device. ValueError,
    naming the field, for anything else.
    """

    format: ClassVar[str] = "levels"

    codes: Tensor
    levels: Tensor
    scale: Tensor
    alphabet: int
    symmetric: bool
    group_size: int
    tail_positions: Tensor
    tail_codes: Tensor
    tail_levels: Tensor
    tail_scale: Tensor

    def check(self) -> None:
        _check_dense(self)
        _check_tail(self)

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.codes.shape
        return rows, columns

    def dequantize(self) -> Tensor:
        rows, columns = self.shape
        tables = _signed_tables(self.levels, self.symmetric) * self.scale  # (R, G, alphabet)
        weight = torch.empty(rows, columns, dtype=torch.float32, device=self.codes.device)
        step = max(1, _BLOCK // columns)
        for start in range(0, rows, step):
            codes = self.codes[start : start + step]
            block_tables = tables if tables.shape[0] == 1 else tables[start : start + step]
            indices = codes.int() + _table_starts(block_tables, columns, self.group_size)
            torch.index_select(
                block_tables.reshape(-1), 0, indices.reshape(-1), out=weight[start : start + step].view(-1)
            )
        if self.tail_codes.numel():
            row_scale = self.tail_scale.float() * self.scale
            weight.view(-1)[self.tail_positions] = (
                row_scale[self.tail_positions // columns] * self.tail_levels.float()[self.tail_codes.int()]
            )
        return weight

    def encode(self) -> PackedTensor:
        tail = self.tail_codes.numel()
        tensors, rice = {"levels": own_copy(self.levels), "scale": own_copy(self.scale).view(1)}, 0
        codes = self.codes
        if tail:
            shared = tail_code_bits_outside(self.alphabet)
            codes = codes.clone(memory_format=torch.contiguous_format)
            codes.view(-1)[self.tail_positions] = self.tail_codes >> shared
            tensors["tail_low"], tensors["tail_high"], rice = pack_positions(self.tail_positions)
            tensors["tail_levels"], tensors["tail_scale"] = (
                own_copy(self.tail_levels),
                own_copy(self.tail_scale),
            )
            if shared:
                tensors["tail_bits"] = bits.pack_fields((self.tail_codes & 1)[None], 1)[0]
        tensors = {"codes": bits.pack_symbols(codes, self.alphabet), **tensors}
        settings = {
            "alphabet": self.alphabet,
            "symmetric": self.symmetric,
            "group_size": self.group_size,
            "tail": tail,
            "tail_rice": rice,
        }
        return PackedTensor(self.format, self.shape, tensors, settings)

    @classmethod
    def decode(cls, packed: PackedTensor) -> Self:
        """The inverse of `encode`. The small tables are shared with `packed`, not copied."""
        cls.check_packed(packed)
        settings: dict[str, Any] = dict(packed.settings)
        tensors, alphabet = packed.tensors, settings["alphabet"]
        codes = bits.unpack_symbols(tensors["codes"], alphabet, packed.shape[1])
        positions, tail_codes, tail_levels, tail_scale = _no_tail(codes.device)
        if settings["tail"]:
            positions = tail_positions(packed)
            tail_codes = _take_tail_codes(codes, positions, tensors, alphabet)
            tail_levels, tail_scale = tensors["tail_levels"], tensors["tail_scale"]
        return cls(
            codes=codes,
            levels=tensors["levels"],
            scale=tensors["scale"].view(()),
            alphabet=alphabet,
            symmetric=settings["symmetric"],
            group_size=settings["group_size"],
            tail_positions=positions,
            tail_codes=tail_codes,
            tail_levels=tail_levels,
            tail_scale=tail_scale,
        )

    @classmethod
    def check_packed(cls, packed: PackedTensor) -> None:
        with blaming("levels"):
            settings, tensors = checked(packed), packed.tensors
            with blaming("'codes'"):
                bits.check_symbols(tensors["codes"], settings["alphabet"], packed.shape[1])
            scale = tensors["scale"].view(())
            _check_levels(tensors["levels"], scale, settings["symmetric"])
            if settings["tail"]:
                _check_tail_tables(tensors["tail_levels"], tensors["tail_scale"], scale)
                _check_tail_streams(packed)


def checked(packed: PackedTensor) -> dict[str, Any]:
    """The settings; ValueError unless they match the dtype and shape of every tensor. The contents of the
    tensors are not read.
    """
    settings = _checked_settings(packed)
    check_tensors(packed.tensors, _layout(packed.shape, settings))
    (rows, columns), alphabet = packed.shape, settings["alphabet"]
    length = alphabet // 2 if settings["symmetric"] else alphabet
    _check_table_shape(packed.tensors["levels"], rows, -(-columns // settings["group_size"]), length)
    return settings


def tail_positions(packed: PackedTensor) -> Tensor:
    """The positions of the tail of a packed weight that has one: (n,) int64, ascending."""
    tensors, settings, (rows, columns) = packed.tensors, packed.settings, packed.shape
    return unpack_positions(
        tensors["tail_low"],
        tensors["tail_high"],
        int(settings["tail"]),
        int(settings["tail_rice"]),
        rows * columns,
    )


def levels_nbytes(
    shape: tuple[int, int], alphabet: int, symmetric: bool, group_size: int, rows_of_tables: int, tail: int
) -> int:
    """An upper bound of the bytes that `encode` writes for a weight of this kind with at most `tail` entries
    at any positions.

    Only the bytes of the positions are a bound (`bits.rice_bytes_bound`). The rest is exact, and so is the
    result without a tail.
    """
    rows, columns = shape
    table = alphabet // 2 if symmetric else alphabet
    dense = (
        rows * bits.symbols_bytes(columns, alphabet)
        + 2 * rows_of_tables * -(-columns // group_size) * table
        + 4
    )
    if not tail:
        return dense
    outside = bits.stream_bytes(tail, tail_code_bits_outside(alphabet))
    return dense + positions_nbytes(tail, rows * columns) + outside + 2 * 4 + 2 * rows


def tail_code_bits_outside(alphabet: int) -> int:
    """How many of a tail code's two bits do not fit the dense code at its place: they go to `tail_bits`."""
    return 0 if alphabet >= 4 else 1


def _signed_tables(levels: Tensor, symmetric: bool) -> Tensor:
    """The level of every code: (R, G, alphabet) float32, relative to `scale`."""
    levels = levels.float()
    return torch.cat((-levels.flip(-1), levels), dim=-1) if symmetric else levels


def _table_starts(tables: Tensor, columns: int, group_size: int) -> Tensor:
    """Where each weight's table begins in the flattened `tables` (R, G, alphabet): (R, columns) int32."""
    count, groups, alphabet = tables.shape
    column_group = torch.arange(columns, dtype=torch.int32, device=tables.device) // group_size
    row = torch.arange(count, dtype=torch.int32, device=tables.device)
    return (row[:, None] * groups + column_group) * alphabet


def _no_tail(device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """positions, codes, levels and row scales of a weight without a tail."""
    return (
        torch.zeros(0, dtype=torch.int64, device=device),
        torch.zeros(0, dtype=torch.uint8, device=device),
        torch.zeros(4, dtype=torch.float16, device=device),
        torch.zeros(0, dtype=torch.float16, device=device),
    )


def _take_tail_codes(codes: Tensor, positions: Tensor, tensors: Any, alphabet: int) -> Tensor:
    """Move the tail's codes out of `codes` (freshly unpacked, changed in place: zeros are left there)."""
    flat = codes.view(-1)
    tail_codes = flat[positions]
    if tail_code_bits_outside(alphabet):
        tail_codes = tail_codes << 1 | bits.unpack_fields(tensors["tail_bits"][None], 1, len(positions))[0]
    flat[positions] = 0
    return tail_codes


def _check_tail_streams(packed: PackedTensor) -> None:
    """The positions, the symbols of `codes` under them, and the bits next to these."""
    tensors, columns, alphabet = packed.tensors, packed.shape[1], int(packed.settings["alphabet"])
    positions = tail_positions(packed)
    found = bits.symbols_at(tensors["codes"], alphabet, positions // columns, positions % columns)
    outside = tail_code_bits_outside(alphabet)
    largest = 3 >> outside
    require(
        int(found.max()) <= largest, f"'codes' is {int(found.max())} under a tail entry; at most {largest}"
    )
    if outside:
        with blaming("'tail_bits'"):
            bits.check_stream(tensors["tail_bits"][None], 1, len(positions))


def _check_dense(weight: LevelsWeight) -> None:
    _check_numbers(weight.alphabet, weight.symmetric)
    require(
        weight.codes.dim() == 2 and weight.codes.numel() > 0,
        f"'codes' is {list(weight.codes.shape)}; needs (out, in), each at least 1",
    )
    rows, columns = weight.codes.shape
    check_tensor("codes", weight.codes, torch.uint8, (rows, columns))
    require(
        int(weight.codes.max()) < weight.alphabet,
        f"'codes' holds {int(weight.codes.max())}; the alphabet is {weight.alphabet}",
    )
    check_integer("group_size", weight.group_size, 1, columns)
    length = weight.alphabet // 2 if weight.symmetric else weight.alphabet
    _check_table_shape(weight.levels, rows, -(-columns // weight.group_size), length)
    check_tensor("scale", weight.scale, torch.float32, ())
    _check_levels(weight.levels, weight.scale, weight.symmetric)


def _check_table_shape(levels: Tensor, rows: int, groups: int, length: int) -> None:
    check_tensor(
        "levels", levels, torch.float16, (rows if levels.shape[:1] == (rows,) else 1, groups, length)
    )


def _check_levels(levels: Tensor, scale: Tensor, symmetric: bool) -> None:
    require(bool(levels.isfinite().all()), "'levels' holds NaN or infinity")
    require(bool((levels.diff(dim=-1) >= 0).all()), "'levels' must be ascending along the last dimension")
    require(
        not symmetric or bool((levels >= 0).all()),
        "'levels' of a symmetric weight are magnitudes; one is below 0",
    )
    require(
        bool(scale > 0) and bool(scale.isfinite()),
        f"'scale' is {float(scale)}; needs a finite number above 0",
    )
    require(
        bool((levels.float().abs().max() * scale).isfinite()),
        "'scale' times the largest of 'levels' overflows float32",
    )


def _check_tail(weight: LevelsWeight) -> None:
    rows, columns = weight.shape
    count = weight.tail_positions.numel()
    check_tensor("tail_positions", weight.tail_positions, torch.int64, (count,))
    check_tensor("tail_codes", weight.tail_codes, torch.uint8, (count,))
    check_tensor("tail_levels", weight.tail_levels, torch.float16, (4,))
    check_tensor("tail_scale", weight.tail_scale, torch.float16, (rows,) if count else (0,))
    if not count:
        require(
            not weight.tail_levels.view(torch.int16).any(),
            "'tail_levels' must be zeros when there is no tail",
        )
        return
    positions = weight.tail_positions
    require(
        int(positions[0]) >= 0 and int(positions[-1]) < rows * columns,
        f"'tail_positions' must lie in 0 … {rows * columns - 1}",
    )
    require(bool((positions.diff() > 0).all()), "'tail_positions' must be ascending and unique")
    require(
        int(weight.tail_codes.max()) <= 3, f"'tail_codes' holds {int(weight.tail_codes.max())}; at most 3"
    )
    require(not bool(weight.codes.reshape(-1)[positions].any()), "'codes' must be 0 under the tail")
    _check_tail_tables(weight.tail_levels, weight.tail_scale, weight.scale)


def _check_tail_tables(levels: Tensor, row_scale: Tensor, scale: Tensor) -> None:
    require(
        bool(levels.isfinite().all()) and bool((levels.diff() >= 0).all()),
        "'tail_levels' must be finite and ascending",
    )
    require(
        bool(row_scale.isfinite().all()) and bool((row_scale >= 0).all()),
        "'tail_scale' must be finite and not below 0",
    )
    largest = row_scale.float().max() * scale * levels.float().abs().max()
    require(
        bool(largest.isfinite()),
        "'scale' times the largest of 'tail_scale' and 'tail_levels' overflows float32",
    )


def _check_numbers(alphabet: Any, symmetric: Any) -> None:
    check_integer("alphabet", alphabet, 2, 16)
    check_boolean("symmetric", symmetric)
    require(not symmetric or alphabet % 2 == 0, f"a symmetric weight has an even alphabet, not {alphabet}")


def _checked_settings(packed: PackedTensor) -> dict[str, Any]:
    """The settings, after a check of their types and ranges and of the shape."""
    settings = known_settings(packed, LevelsWeight.format, SETTINGS)
    _check_numbers(settings["alphabet"], settings["symmetric"])
    rows, columns = packed.shape
    check_integer("group_size", settings["group_size"], 1, columns)
    check_integer("tail", settings["tail"], 0, rows * columns)
    check_integer("tail_rice", settings["tail_rice"], 0, bits.RICE_MAX if settings["tail"] else 0)
    return settings


def _layout(shape: tuple[int, int], settings: dict[str, Any]) -> Layout:
    """Dtype and shape of every tensor that the settings require."""
    (rows, columns), alphabet = shape, settings["alphabet"]
    tensors: dict[str, tuple[torch.dtype, tuple[int | None, ...]]] = {
        "codes": (torch.uint8, (rows, bits.symbols_bytes(columns, alphabet))),
        "levels": (torch.float16, (None, None, None)),  # R is the file's choice: see `checked`
        "scale": (torch.float32, (1,)),
    }
    if tail := settings["tail"]:
        tensors["tail_low"] = (torch.uint8, (bits.stream_bytes(tail, settings["tail_rice"]),))
        tensors["tail_high"] = (torch.uint8, (None,))
        tensors["tail_levels"] = (torch.float16, (4,))
        tensors["tail_scale"] = (torch.float16, (rows,))
        if tail_code_bits_outside(alphabet):
            tensors["tail_bits"] = (torch.uint8, (bits.stream_bytes(tail, 1),))
    return tensors
