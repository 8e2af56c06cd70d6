"""`trellis`: one of 2^L levels for every weight, chosen by a window on a bit stream. The window moves by K
bits from weight to weight.

    W = diag(row_scale) T R,     T[i, j] = table_K[window]

The windows of neighbouring weights overlap, so that K bits per weight choose among 2^L levels (trellis-coded
quantization: Marcellin and Fischer, IEEE Trans. Commun. 38, 82 (1990); the bit-shift trellis for weights:
QTIP, arXiv 2406.11235). R is the rotation of the inputs (encoding/rotation.py), which makes the weights of
every row nearly Gaussian.

Rows are cut into strips of 64. The stream of a strip goes down its columns, one after the other. The columns
are grouped in runs of 16, and every run has its own K, 0 … 4. So the mean of K can be any number, and the
columns that need more bits can have them. docs/format.md has every byte.

Whole strips of a weight are a weight of their own, and so are the columns of whole blocks of the rotation.
Streams go on from column to column, so the streams of a slice begin with the 16 bits before its first column.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from bivlm.formats.base import PackedTensor, QuantizedWeight
from bivlm.formats.encoding import bits
from bivlm.formats.encoding.checks import (
    blaming,
    check_slice,
    own_copy,
)
from bivlm.formats.encoding.rotation import rotate_back, signs_of
from bivlm.formats.encoding.trellis_checks import (
    LEAD,
    MOST_BITS,
    OPTIONAL,
    RUN,
    STRIP,
    check_fields,
    checked,
    strips,
)
from bivlm.formats.encoding.trellis_code import UNIT, standard_tables

_BLOCK = 1 << 18  # weights at a time, when windows are extracted or rows rotated back


@dataclass(frozen=True, eq=False)
class TrellisWeight(QuantizedWeight):
    """A weight of (out, in) in `trellis`.

    codes      (bytes,) uint8: the streams of the strips, one after the other, as `pack_symbols` makes them
    columns    in
    bits       (ceil(in / 16),) uint8: K of every run of 16 columns, 0 … 4; with 0 the weights are 0
    row_scale  (out,) float16: factor of level · 2^exponent / 32
    table      (4, 2^window) int8: the levels for K = 1 … 4; empty (0, 0): those of `standard_tables`
    window     L: 8, 12 or 16
    rotated    whether R is the rotation of `seed`, or the identity; only for a width whose prime factors are
               at most LARGEST_PRIME
    seed       0 … 2^63 - 1
    exponent   -126 … 126
    blocks     equal diagonal blocks of R; if there are several, each has a multiple of 16 columns
    first_column  the column of the whole weight at which this slice of it begins: a multiple of 16, and of
               the columns of a block of R; the signs are those of the columns from there on

    All tensors are on one device. ValueError, naming the field, for anything else.
    """

    format: ClassVar[str] = "trellis"
    row_step: ClassVar[int] = STRIP

    codes: Tensor
    columns: int
    bits: Tensor
    row_scale: Tensor
    table: Tensor
    window: int
    rotated: bool
    seed: int
    exponent: int
    blocks: int = 1
    first_column: int = 0

    def check(self) -> None:
        numbers = {name: getattr(self, name) for name in ("window", "rotated", "seed", "exponent", *OPTIONAL)}
        check_fields(self.columns, self.codes, self.bits, self.row_scale, self.table, **numbers)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.row_scale), self.columns

    @property
    def tables(self) -> Tensor:
        """The levels for K = 1 … 4: (4, 2^window) int8."""
        return self.table if self.table.numel() else standard_tables(self.window).to(self.codes.device)

    def values(self) -> Tensor:
        """T (out, in), int8."""
        widths, tables = column_bits(self.bits, self.columns), self.tables
        before, size = widths.cumsum(0) - widths, strip_bytes(STRIP, widths)
        values = torch.empty(self.shape, dtype=torch.int8, device=self.codes.device)
        for i, held in enumerate(strips(self.shape[0])):
            codes, into = self.codes[i * size :], values[i * STRIP : (i + 1) * STRIP]
            row = torch.arange(1, len(into) + 1, dtype=torch.int64, device=codes.device)
            for start in range(0, self.columns, _BLOCK // STRIP):
                columns = slice(start, start + _BLOCK // STRIP)
                end = 8 * LEAD + held * before[columns, None] + widths[columns, None] * row
                into[:, columns] = _values_at(codes, end, widths[columns], tables, self.window).T
        return values

    def rotated_weight(self) -> Tensor:
        """diag(row_scale) T: the weight for rotated inputs, (out, in) float32."""
        return self.values().float().mul_(row_factors(self.row_scale, self.exponent)[:, None])

    def dequantize(self) -> Tensor:
        return self._turned_back(self.rotated_weight())

    def some_rows(self, index: Tensor) -> Tensor:
        """The rows of `dequantize()` that `index` (n,) int64 names, (n, in) float32: every window is
        extracted from its place in the stream.
        """
        widths, tables = column_bits(self.bits, self.columns), self.tables
        before, size = (widths.cumsum(0) - widths)[:, None], strip_bytes(STRIP, widths)
        whole, last = self.shape[0] // STRIP, strips(self.shape[0])[-1]
        weight = torch.empty(len(index), self.columns, dtype=torch.float32, device=self.codes.device)
        for rows, into in zip(
            *(tensor.split(max(1, _BLOCK // self.columns)) for tensor in (index, weight)), strict=True
        ):
            strip = rows // STRIP
            begin, held = 8 * (size * strip + LEAD), torch.where(strip < whole, STRIP, last)
            for start in range(0, self.columns, _BLOCK):  # more than once for a single row only
                columns = slice(start, start + _BLOCK)
                end = begin + held * before[columns] + widths[columns, None] * (rows % STRIP + 1)
                into[:, columns] = _values_at(self.codes, end, widths[columns], tables, self.window).T
        return self._turned_back(weight.mul_(row_factors(self.row_scale[index], self.exponent)[:, None]))

    def _turned_back(self, weight: Tensor) -> Tensor:
        """The rotation undone, in place and some rows at a time: their temporaries stay small."""
        if self.rotated:
            signs = self.signs().to(weight)
            for rows in weight.split(max(1, _BLOCK // self.columns)):
                rows.copy_(rotate_back(rows, signs, self.blocks))
        return weight

    def signs(self) -> Tensor:
        """The signs of the rotation: (in,) float32, on the CPU."""
        return signs_of(self.seed, self.columns, self.first_column)

    def slice_rows(self, start: int, stop: int) -> Self:
        check_slice("rows", start, stop, self.shape[0], self.row_step)
        size, rows = strip_bytes(STRIP, column_bits(self.bits, self.columns)), self.shape[0]
        end = len(self.codes) if stop == rows else stop // STRIP * size
        codes, scale = self.codes[start // STRIP * size : end], self.row_scale[start:stop]
        return replace(self, codes=codes, row_scale=scale)

    def slice_columns(self, start: int, stop: int) -> Self:
        """As `QuantizedWeight.slice_columns`: between blocks of the rotation, or between runs without one."""
        check_slice(
            "columns", start, stop, self.columns, self.columns // self.blocks if self.rotated else RUN
        )
        widths, held = column_bits(self.bits, self.columns), strips(self.shape[0])
        before, inside = (int(widths[some].sum()) for some in (slice(start), slice(start, stop)))
        pieces, begin = [], 0
        for height in held:
            first = begin + before * height // 8
            pieces.append(self.codes[first : first + LEAD + inside * height // 8])
            begin += strip_bytes(height, widths)
        return replace(
            self,
            codes=torch.cat(pieces),
            columns=stop - start,
            bits=self.bits[start // RUN : -(-stop // RUN)],
            blocks=max(1, self.blocks * (stop - start) // self.columns),
            first_column=self.first_column + start,
        )

    def encode(self) -> PackedTensor:
        tensors = {
            "codes": own_copy(self.codes),
            "bits": own_copy(self.bits),
            "row_scale": own_copy(self.row_scale),
        }
        if self.table.numel():
            tensors["table"] = own_copy(self.table)
        settings = {
            "window": self.window,
            "rotated": self.rotated,
            "seed": self.seed,
            "exponent": self.exponent,
            "fitted": self.table.numel() > 0,
        }
        settings |= {
            name: getattr(self, name) for name, usual in OPTIONAL.items() if getattr(self, name) != usual
        }
        return PackedTensor(self.format, self.shape, tensors, settings)

    @classmethod
    def decode(cls, packed: PackedTensor) -> Self:
        """The inverse of `encode`. The tensors are shared with `packed`, not copied."""
        with blaming("trellis"):
            settings, tensors = checked(packed), packed.tensors
        table = (
            tensors["table"]
            if settings.pop("fitted")
            else torch.zeros(0, 0, dtype=torch.int8, device=tensors["codes"].device)
        )
        return cls(
            tensors["codes"], packed.shape[1], tensors["bits"], tensors["row_scale"], table, **settings
        )

    @classmethod
    def unpack_rows(cls, packed: PackedTensor, index: Tensor) -> Tensor:
        return cls.decode(packed).some_rows(index)


def pack_symbols(symbols: Tensor, run_bits: Tensor) -> Tensor:
    """The streams of all strips, (bytes,) uint8: `symbols` (in, held) uint8 are the K bits that each weight
    adds, `run_bits` (ceil(in / 16),) the K.

    `held` is the number of rows with the last strip's rounded up to a multiple of 16.
    """
    whole = symbols.shape[1] // STRIP
    strips_of = (
        symbols[:, : whole * STRIP].unflatten(1, (whole, STRIP)),
        symbols[:, whole * STRIP :].unsqueeze(1),
    )
    return torch.cat([_pack_strips(held, run_bits).flatten() for held in strips_of if held.numel()])


def _pack_strips(symbols: Tensor, run_bits: Tensor) -> Tensor:
    """The streams (strips, bytes) of strips of the same height, from their symbols (in, strips, held)."""
    pieces = [symbols.new_zeros(symbols.shape[1], LEAD)]
    for columns, width in zip(runs(len(symbols)), run_bits.tolist(), strict=True):
        if width:
            pieces.append(bits.pack_fields(symbols[columns].transpose(0, 1).flatten(1), width))
    return torch.cat(pieces, 1)


def trellis_nbytes(shape: tuple[int, int], run_bits: Tensor, fitted_window: int = 0) -> int:
    """The bytes that `encode` writes for a weight whose runs have these bits (ceil(in / 16),), exactly.
    `fitted_window`: L of a stored table.
    """
    rows, columns = shape
    widths = column_bits(run_bits, columns)
    return (
        stream_bytes(rows, widths)
        + len(run_bits)
        + 2 * rows
        + (MOST_BITS << fitted_window if fitted_window else 0)
    )


def runs(columns: int) -> list[slice]:
    """The columns of every run."""
    return [slice(start, min(start + RUN, columns)) for start in range(0, columns, RUN)]


def column_bits(run_bits: Tensor, columns: int) -> Tensor:
    """K of every column (in,), int64."""
    return run_bits.long().repeat_interleave(RUN)[:columns]


def strip_bytes(held: int, widths: Tensor) -> int:
    """Bytes of the stream of a strip of `held` rows whose columns have these K."""
    return LEAD + int(widths.sum()) * held // 8


def stream_bytes(rows: int, widths: Tensor) -> int:
    """Bytes of all streams of a weight with `rows` rows, whose columns have these K."""
    held = strips(rows)
    return LEAD * len(held) + int(widths.sum()) * sum(held) // 8


def row_factors(row_scale: Tensor, exponent: int) -> Tensor:
    """The factor of each row's int8 values: (out,) float32."""
    return row_scale.float() * (2.0**exponent / UNIT)


def _values_at(codes: Tensor, end: Tensor, widths: Tensor, tables: Tensor, window: int) -> Tensor:
    """The values (in, n) int8 of the windows before the bits `end` (in, n) of `codes`; `widths` (in,) is K of
    the columns.
    """
    begin = end - window
    byte = begin >> 3
    last = len(codes) - 1
    word = (
        codes[byte].long()
        | codes[(byte + 1).clamp_(max=last)].long() << 8
        | codes[(byte + 2).clamp_(max=last)].long() << 16
    )
    number = word >> (begin & 7) & ((1 << window) - 1)
    values = tables.reshape(-1)[((widths[:, None] - 1).clamp(min=0) << window) + number]
    return torch.where(widths[:, None] > 0, values, 0)
