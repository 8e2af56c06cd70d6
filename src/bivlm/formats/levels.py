"""`levels`: a dense code of a few bits per weight into a small table of levels, and a sparse list for the
tail of large weights.

    w[i, j] = scale * table[row group of i, column group of j][codes[i, j]]          dense
    w[i, j] = scale * tail_scale[i] * tail_levels[tail_codes[n]]    where (i, j) is tail_positions[n]
    w[i, j] = scale * tail_values[n]                                or, of a weight that has them

Products are taken in float32, from left to right. In the file the codes are radix words, the tail's positions
are Rice codes of the gaps between them, and the tail's codes take the place of the dense codes that a tail
entry does not need. docs/format.md has every byte.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from bivlm.formats.base import PackedTensor
from bivlm.formats.encoding import bits, streams
from bivlm.formats.encoding.checks import own_copy
from bivlm.formats.encoding.level_checks import (
    TAIL_KIND,
    VALUES,
    check_dense,
    check_tail,
    tail_code_bits_outside,
    tail_positions,
)
from bivlm.formats.encoding.positions import (
    pack_positions,
    positions_inside,
    positions_nbytes,
)
from bivlm.formats.grouped import GroupedWeight

_BLOCK = 1 << 18  # weights that are expanded at a time: their int32 indices stay in the cache


@dataclass(frozen=True, eq=False)
class LevelsWeight(GroupedWeight):
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
    tail_codes      (n,) uint8, 0…3; empty when the entries have values
    tail_levels     (4,) float16, ascending; zeros when there are no tail codes
    tail_scale      (out,) float16; empty when there are no tail codes
    tail_values     (n,) float16, relative to `scale`; empty when the entries have codes

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
    tail_values: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float16, device="cpu"))

    def check(self) -> None:
        check_dense(self)
        check_tail(self)

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
        elif self.tail_values.numel():
            weight.view(-1)[self.tail_positions] = self.tail_values.float() * self.scale
        return weight

    def _part(self, rows: slice, columns: slice, groups: slice, group_size: int) -> Self:
        kept, positions = positions_inside(self.tail_positions, self.shape[1], rows, columns)
        coded = bool(len(positions)) and self.tail_codes.numel() > 0
        return replace(
            self,
            codes=self.codes[rows, columns],
            levels=(self.levels[rows] if len(self.levels) > 1 else self.levels)[:, groups],
            group_size=group_size,
            tail_positions=positions,
            tail_codes=self.tail_codes[kept] if coded else self.tail_codes[:0],
            tail_levels=self.tail_levels if coded else torch.zeros_like(self.tail_levels),
            tail_scale=self.tail_scale[rows] if coded else self.tail_scale[:0],
            tail_values=self.tail_values[kept] if self.tail_values.numel() else self.tail_values,
        )

    def encode(self) -> PackedTensor:
        tail, rice, codes = self.tail_positions.numel(), 0, self.codes
        tensors = {"levels": own_copy(self.levels), "scale": own_copy(self.scale).view(1)}
        if tail:
            tensors["tail_low"], tensors["tail_high"], rice = pack_positions(self.tail_positions)
        if self.tail_values.numel():
            tensors["tail_values"] = own_copy(self.tail_values)
        elif tail:
            shared = tail_code_bits_outside(self.alphabet)
            codes = codes.clone(memory_format=torch.contiguous_format)
            codes.view(-1)[self.tail_positions] = self.tail_codes >> shared
            tensors["tail_levels"] = own_copy(self.tail_levels)
            tensors["tail_scale"] = own_copy(self.tail_scale)
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
        if self.tail_values.numel():
            settings[TAIL_KIND] = VALUES
        return PackedTensor(self.format, self.shape, tensors, settings)

    @classmethod
    def decode(cls, packed: PackedTensor) -> Self:
        """The inverse of `encode`. The small tables are shared with `packed`, not copied."""
        cls.check_packed(packed)
        settings: dict[str, Any] = dict(packed.settings)
        tensors, alphabet = packed.tensors, settings["alphabet"]
        codes = bits.unpack_symbols(tensors["codes"], alphabet, packed.shape[1])
        positions, tail_codes, tail_levels, tail_scale, values = _no_tail(codes.device)
        if settings["tail"]:
            positions = tail_positions(packed)
        if TAIL_KIND in settings:
            values = tensors["tail_values"]
        elif settings["tail"]:
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
            tail_values=values,
        )


def levels_nbytes(
    shape: tuple[int, int],
    alphabet: int,
    symmetric: bool,
    group_size: int,
    rows_of_tables: int,
    tail: int,
    values: bool = False,
) -> int:
    """An upper bound of the bytes that `encode` writes for a weight of this kind with at most `tail` entries
    at any positions; `values` says that the entries have values.

    Only the bytes of the positions are a bound (`streams.rice_bytes_bound`). The rest is exact, and so is the
    result without a tail.
    """
    rows, columns = shape
    table = alphabet // 2 if symmetric else alphabet
    dense = (
        rows * streams.symbols_bytes(columns, alphabet)
        + 2 * rows_of_tables * -(-columns // group_size) * table
        + 4
    )
    if not tail:
        return dense
    if values:
        return dense + positions_nbytes(tail, rows * columns) + 2 * tail
    outside = streams.stream_bytes(tail, tail_code_bits_outside(alphabet))
    return dense + positions_nbytes(tail, rows * columns) + outside + 2 * 4 + 2 * rows


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


def _no_tail(device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """positions, codes, levels, row scales and values of a weight without a tail."""
    return (
        torch.zeros(0, dtype=torch.int64, device=device),
        torch.zeros(0, dtype=torch.uint8, device=device),
        torch.zeros(4, dtype=torch.float16, device=device),
        torch.zeros(0, dtype=torch.float16, device=device),
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
