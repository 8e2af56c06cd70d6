"""`planes`: one sign bit per weight and a scale for each group, with the additions of binary methods: parts,
means, salient columns, column scales, a tail.

    ordinary column    w[i, j] = [mean +] (scale * 2^e [* column_scale[j]]) * sign
    salient column     w[i, j] = [mean +] (scale_1 * 2^e [* column_scale_1[j]]) * sign_1 + (scale_2 * 2^e [*
                       column_scale_2[j]]) * sign_2
    tail entry         w[i, j] = tail_scale[i] * 2^e * (code - tail_zero[i])

The numbers are those of the weight's row, column group and part; a mean is multiplied by 2^e as well. All in
float32, from left to right. In the file every plane holds only the columns that use it. A weight with only
signs and float16 scales is stored in blocks; in groups of 128 these are ggml's Q1_0. docs/format.md has every
byte.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from bivlm.formats.base import PackedTensor
from bivlm.formats.encoding import bits
from bivlm.formats.encoding.checks import dtype_name, own_copy
from bivlm.formats.encoding.numbers import NumberBits, Numbers
from bivlm.formats.encoding.plane_checks import (
    check_weight,
    columns_of_scales,
    is_plain,
    layout,
    layout_nbytes,
    scale_count,
)
from bivlm.formats.encoding.plane_fields import parted_columns, read_planes
from bivlm.formats.encoding.positions import pack_positions, positions_inside, positions_nbytes
from bivlm.formats.grouped import GroupedWeight

_BLOCK = 1 << 18  # weights that are expanded at a time: their temporaries stay in the cache


@dataclass(frozen=True, eq=False)
class PlanesWeight(GroupedWeight):
    """A weight of (out, in) in `planes`. A column is ordinary or salient; `partition` says to which part of
    its kind of column a weight belongs.

    signs           (out, in) bool, the first plane: True is +1; False under the tail (the format stores a bit
                    of the tail's code there)
    parts           1 or 2: the parts of ordinary columns
    salient_parts   0, 1 or 2: the parts of salient columns; 0 exactly when there are no salient columns
    partition       (out, in) bool: the part; False in columns whose kind has one
    salient         (in,) bool
    second_signs    (out, in) bool, the second plane of salient columns; False elsewhere
    scales          (out, G, S), S = parts + 2 * salient_parts, any sign: ordinary part p has p; salient part
                    q and plane r have parts + 2q + r
    means           (out, G, parts + salient_parts) or None: ordinary part p has p; salient part q has parts +
                    q
    column_scales   (S, in) float16, +0.0 where the column is of the other kind; (0, 0) for none
    tail_positions  (n,) int64, ascending and unique, row-major positions i * in + j; only with one part and
                    no salient columns
    tail_codes      (n,) uint8
    tail_scale      (out,) float16; (0,) when there is no tail
    tail_zero       (out,) float16, in units of the codes; (0,) when there is no tail
    group_size      columns that share their numbers, 1…in; the last group may be shorter
    exponent        -126…126: scales, means and tail_scale are relative to 2^exponent

    G = ceil(in / group_size). All tensors are on one device. ValueError, naming the field, for anything else.
    """

    format: ClassVar[str] = "planes"

    signs: Tensor
    parts: int
    salient_parts: int
    partition: Tensor
    salient: Tensor
    second_signs: Tensor
    scales: Numbers
    means: Numbers | None
    column_scales: Tensor
    tail_positions: Tensor
    tail_codes: Tensor
    tail_scale: Tensor
    tail_zero: Tensor
    group_size: int
    exponent: int

    def check(self) -> None:
        check_weight(self)

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.signs.shape
        return rows, columns

    def dequantize(self) -> Tensor:
        rows, columns = self.shape
        scales = self.scales.expand() * 2.0**self.exponent
        means = None if self.means is None else self.means.expand() * 2.0**self.exponent
        salient = self.salient.nonzero()[:, 0]
        weight = torch.empty(rows, columns, dtype=torch.float32, device=self.signs.device)
        step = max(1, _BLOCK // columns)
        for start in range(0, rows, step):
            block = slice(start, start + step)
            block_means = None if means is None else means[block]
            weight[block] = self._ordinary(block, scales[block], block_means)
            if salient.numel():
                weight[block, salient] = self._salient(block, salient, scales[block], block_means)
        if self.tail_codes.numel():
            row = self.tail_positions // columns
            distance = self.tail_codes.float() - self.tail_zero.float()[row]
            weight.view(-1)[self.tail_positions] = (self.tail_scale.float() * 2.0**self.exponent)[
                row
            ] * distance
        return weight

    def _ordinary(self, block: slice, scales: Tensor, means: Tensor | None) -> Tensor:
        """All columns of some rows as if they were ordinary: (rows, in)."""
        part = self.partition[block] if self.parts == 2 else None

        def spread(numbers: Tensor) -> Tensor:
            return (
                numbers[..., None]
                .expand(-1, -1, self.group_size)
                .reshape(len(numbers), -1)[:, : self.shape[1]]
            )

        value = _signed(self.signs[block], _chosen(part, lambda k: self._scaled(spread(scales[..., k]), k)))
        return value if means is None else _chosen(part, lambda k: spread(means[..., k])) + value

    def _salient(self, block: slice, columns: Tensor, scales: Tensor, means: Tensor | None) -> Tensor:
        """The salient columns of some rows: (rows, their number)."""
        part = self.partition[block, columns] if self.salient_parts == 2 else None
        group = columns // self.group_size

        def plane(signs: Tensor, r: int) -> Tensor:
            indices = [self.parts + 2 * q + r for q in range(self.salient_parts)]
            return _signed(
                signs[block, columns],
                _chosen(part, lambda q: self._scaled(scales[:, group, indices[q]], indices[q], columns)),
            )

        first = plane(self.signs, 0)
        if means is not None:
            first = _chosen(part, lambda q: means[:, group, self.parts + q]) + first
        return first + plane(self.second_signs, 1)

    def _scaled(self, scale: Tensor, index: int, columns: Tensor | None = None) -> Tensor:
        """Scales (rows, columns) of one index times their column scales, where there are any."""
        if not self.column_scales.numel():
            return scale
        column = self.column_scales[index].float()
        return scale * (column if columns is None else column[columns])

    def _part(self, rows: slice, columns: slice, groups: slice, group_size: int) -> Self:
        """The weights of some rows and columns, whose groups of columns are `groups`. Without salient columns
        their numbers are left out.
        """
        salient = self.salient[columns]
        salient_parts = self.salient_parts if bool(salient.any()) else 0
        kinds = slice(0, scale_count(self.parts, salient_parts))
        kept, positions = positions_inside(self.tail_positions, self.shape[1], rows, columns)
        tail_rows = rows if len(positions) else slice(0)
        return replace(
            self,
            signs=self.signs[rows, columns],
            salient_parts=salient_parts,
            partition=self.partition[rows, columns],
            salient=salient,
            second_signs=self.second_signs[rows, columns],
            scales=self.scales.some(rows, groups, kinds),
            means=self.means and self.means.some(rows, groups, slice(0, self.parts + salient_parts)),
            column_scales=self.column_scales[kinds, columns]
            if self.column_scales.numel()
            else self.column_scales,
            tail_positions=positions,
            tail_codes=self.tail_codes[kept],
            tail_scale=self.tail_scale[tail_rows],
            tail_zero=self.tail_zero[tail_rows],
            group_size=group_size,
        )

    def encode(self) -> PackedTensor:
        tail = self.tail_codes.numel()
        settings: dict[str, Any] = {
            "parts": self.parts,
            "salient_parts": self.salient_parts,
            "salient_columns": int(self.salient.sum()),
            "group_size": self.group_size,
            "exponent": self.exponent,
            "scales": dtype_name(self.scales.stored.dtype),
            "means": "none" if self.means is None else dtype_name(self.means.stored.dtype),
            "column_scales": self.column_scales.numel() > 0,
            "tail": tail,
            "tail_rice": 0,
        }
        if is_plain(settings, self.shape[1]):
            return PackedTensor(self.format, self.shape, {"blocks": self._blocks()}, settings)
        tensors = (
            self._packed_planes()
            | _packed_numbers("scale", self.scales)
            | _packed_numbers("mean", self.means)
        )
        if self.column_scales.numel():
            tensors["column_scales"] = self.column_scales[
                columns_of_scales(self.salient, self.parts, self.salient_parts)
            ]
        if tail:
            tensors["tail_low"], tensors["tail_high"], settings["tail_rice"] = pack_positions(
                self.tail_positions
            )
            tensors["tail_bits"] = bits.pack_fields((self.tail_codes >> 1)[None], 7)[0]
            tensors["tail_scale"], tensors["tail_zero"] = own_copy(self.tail_scale), own_copy(self.tail_zero)
        return PackedTensor(self.format, self.shape, tensors, settings)

    def _blocks(self) -> Tensor:
        """(out, G, 2 + group_size / 8) uint8: the float16 scale of each group, then its signs."""
        scale = own_copy(self.scales.stored).view(torch.uint8)
        return torch.cat([scale, _pack_plane(self.signs).view(*scale.shape[:2], -1)], -1)

    def _packed_planes(self) -> dict[str, Tensor]:
        signs = self.signs
        if self.tail_codes.numel():
            signs = own_copy(signs)
            signs.view(-1)[self.tail_positions] = (self.tail_codes & 1).bool()
        tensors = {"signs": _pack_plane(signs)}
        parted = parted_columns(self.salient, self.parts, self.salient_parts)
        if bool(parted.any()):
            tensors["partition"] = _pack_plane(self.partition[:, parted])
        if self.salient_parts:
            tensors["salient"] = _pack_plane(self.salient[None])[0]
            tensors["second_signs"] = _pack_plane(self.second_signs[:, self.salient])
        return tensors

    @classmethod
    def decode(cls, packed: PackedTensor) -> Self:
        """The inverse of `encode`. The numbers are shared with `packed`, not copied; planes that are not
        stored take no memory.
        """
        cls.check_packed(packed)
        return cls(**read_planes(packed.tensors, packed.shape, packed.settings))


def planes_nbytes(
    shape: tuple[int, int],
    *,
    group_size: int,
    parts: int,
    salient_parts: int,
    salient_columns: int,
    means: bool,
    column_scales: bool,
    scale_bits: NumberBits,
    tail: int,
) -> int:
    """An upper bound of the bytes that `encode` writes for a weight of this kind, with means in as many bits
    as scales.

    Only the bytes of the tail's positions are a bound (`streams.rice_bytes_bound`); without a tail the
    result is exact.
    """
    stored = {8: "uint8", 16: "float16", 32: "float32"}[scale_bits]
    settings: dict[str, Any] = {
        "parts": parts,
        "salient_parts": salient_parts,
        "salient_columns": salient_columns,
        "group_size": group_size,
        "exponent": 0,
        "scales": stored,
        "means": stored if means else "none",
        "column_scales": column_scales,
        "tail": tail,
        "tail_rice": 0,
    }
    positions = positions_nbytes(tail, shape[0] * shape[1]) if tail else 0
    return layout_nbytes(layout(shape, settings)) + positions


def _chosen(part: Tensor | None, of_part: Callable[[int], Tensor]) -> Tensor:
    """For each weight the value of its own part; with one part, the value of that part."""
    return of_part(0) if part is None else torch.where(part, of_part(1), of_part(0))


def _signed(signs: Tensor, scale: Tensor) -> Tensor:
    return torch.where(signs, scale, -scale)


def _pack_plane(flags: Tensor) -> Tensor:
    """(rows, n) bool to streams (rows, ceil(n / 8))."""
    return bits.pack_symbols(flags.view(torch.uint8), 2)


def _packed_numbers(name: str, numbers: Numbers | None) -> dict[str, Tensor]:
    if numbers is None:
        return {}
    tensors = {f"{name}s": own_copy(numbers.stored)}
    return tensors | ({f"{name}_unit": own_copy(numbers.unit)} if numbers.in_eight_bits else {})
