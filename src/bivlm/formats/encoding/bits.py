"""Bit streams: fields of a fixed width, unary numbers, Rice codes, and symbols of any alphabet packed by
radix.

Bit k of a stream is bit k % 8 of byte k // 8; the lowest bit of a field comes first; the unused bits of the
last byte are zero. A stream is a uint8 tensor. Streams of many rows are (rows, bytes): every row begins on a
byte of its own.

No Python loop runs over elements: the loops below run over the few fields of one period (after lcm(width, 8)
bits the pattern of shifts repeats) or over blocks of rows. Every `unpack` is the exact inverse of its `pack`
and raises ValueError for bytes that no `pack` writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd

import torch
from torch import Tensor
from torch.nn.functional import pad

from bivlm.formats.encoding.streams import (
    NOT_A_COLUMN,
    RADIX,
    RICE_MAX,
    check_stream,
    check_words,
    row_blocks,
    stream_bytes,
    symbols_bytes,
)


def pack_fields(fields: Tensor, width: int) -> Tensor:
    """Fields (rows, n), any integer dtype, each in 0 … 2^width - 1, to streams (rows, ceil(n * width / 8)).
    `width` is 1 … 32.
    """
    rows, count = fields.shape
    if fields.numel() and not 0 <= int(fields.min()) <= int(fields.max()) < 1 << width:
        raise ValueError(f"a field lies outside 0 … 2^{width} - 1")
    period, period_bytes = _period(width)
    periods = -(-count // period)
    lanes = (
        pad(fields, (0, periods * period - count)).to(_working_dtype(width)).unflatten(1, (periods, period))
    )
    stream = torch.zeros(rows, periods, period_bytes, dtype=torch.uint8, device=fields.device)
    for field, byte, shift in _overlaps(width):
        part = lanes[..., field] << shift if shift >= 0 else lanes[..., field] >> -shift
        stream[..., byte] |= part.to(torch.uint8)  # keeps the low 8 bits; the rest belongs to the next byte
    return stream.flatten(1)[:, : stream_bytes(count, width)].contiguous()


def unpack_fields(stream: Tensor, width: int, count: int) -> Tensor:
    """The inverse of `pack_fields`: (rows, count) in the narrowest of uint8, int32, int64 that holds a field
    and a byte's shift.
    """
    check_stream(stream, width, count)
    rows, size = stream.shape
    period, period_bytes = _period(width)
    periods = -(-count // period)
    lanes = pad(stream, (0, periods * period_bytes - size)).unflatten(1, (periods, period_bytes))
    dtype = _working_dtype(width)
    fields = torch.zeros(rows, periods, period, dtype=dtype, device=stream.device)
    for field, byte, shift in _overlaps(width):
        part = lanes[..., byte].to(dtype)
        fields[..., field] |= part >> shift if shift >= 0 else part << -shift
    if width < 8 * fields.element_size():
        fields &= (1 << width) - 1
    return fields.flatten(1)[:, :count]


def _period(width: int) -> tuple[int, int]:
    """Fields and bytes after which fields begin on a byte again."""
    if not 1 <= width <= 32:
        raise ValueError(f"a field has 1 to 32 bits, not {width}")
    return 8 // gcd(width, 8), width // gcd(width, 8)


def _working_dtype(width: int) -> torch.dtype:
    """Wide enough for a field shifted by up to 7 bits; the bits that a uint8 drops on the left go into the
    next byte.
    """
    return torch.uint8 if width <= 8 else torch.int32 if width <= 24 else torch.int64


def _overlaps(width: int) -> Iterator[tuple[int, int, int]]:
    """(field, byte, shift) of one period for every field that has bits in a byte: bit 0 of the field is bit
    `shift` of the byte.
    """
    period, _ = _period(width)
    for field in range(period):
        first = field * width
        for byte in range(first // 8, (first + width - 1) // 8 + 1):
            yield field, byte, first - 8 * byte


def pack_unary(numbers: Tensor) -> Tensor:
    """Numbers (n,) int64 >= 0 to a stream: each number q is q zeros, then a one."""
    if numbers.numel() == 0:
        return torch.zeros(0, dtype=torch.uint8, device=numbers.device)
    ends = (numbers + 1).cumsum(0) - 1
    flags = torch.zeros(1, int(ends[-1]) + 1, dtype=torch.uint8, device=numbers.device)
    flags[0, ends] = 1
    return pack_fields(flags, 1)[0]


def rice_parameter(numbers: Tensor) -> int:
    """The smallest k in 0 … 32 for which the Rice codes of the numbers (n,) int64 >= 0 take the fewest
    bytes.
    """
    count = numbers.numel()
    best, best_bytes = 0, stream_bytes(count + int(numbers.sum()), 1)
    for k in range(1, RICE_MAX + 1):
        low_bytes = stream_bytes(count, k)
        if (
            low_bytes + stream_bytes(count, 1) >= best_bytes
        ):  # no larger k can win: its low bits alone cost as much
            break
        total = low_bytes + stream_bytes(count + int((numbers >> k).sum()), 1)
        if total < best_bytes:
            best, best_bytes = k, total
    return best


def pack_rice(numbers: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Numbers (n,) int64 >= 0 to two streams: the k low bits of each as fields, and number >> k in unary. The
    first is empty for k = 0.
    """
    low = (
        pack_fields((numbers & ((1 << k) - 1))[None], k)[0]
        if k
        else torch.zeros(0, dtype=torch.uint8, device=numbers.device)
    )
    return low, pack_unary(numbers >> k)


def pack_symbols(symbols: Tensor, alphabet: int) -> Tensor:
    """Symbols (rows, columns) uint8, each below `alphabet`, to streams (rows, bytes) of radix words, the
    first symbol the lowest digit.
    """
    rows, columns = symbols.shape
    if symbols.numel() and int(symbols.max()) >= alphabet:
        raise ValueError(f"a symbol is {int(symbols.max())} in an alphabet of {alphabet}")
    packed = torch.empty(rows, symbols_bytes(columns, alphabet), dtype=torch.uint8, device=symbols.device)
    for block in row_blocks(rows, columns):
        packed[block] = pack_fields(_words(symbols[block], alphabet), RADIX[alphabet][1])
    return packed


def unpack_symbols(packed: Tensor, alphabet: int, columns: int) -> Tensor:
    """The inverse of `pack_symbols`: (rows, columns) uint8."""
    per_word, width = RADIX[alphabet]
    words = -(-columns // per_word)
    symbols = torch.empty(packed.shape[0], columns, dtype=torch.uint8, device=packed.device)
    for block in row_blocks(packed.shape[0], columns):
        digits = _digits(unpack_fields(packed[block], width, words), alphabet)
        if bool(digits[:, columns:].any()):
            raise ValueError(NOT_A_COLUMN)
        symbols[block] = digits[:, :columns]
    return symbols


def _words(symbols: Tensor, alphabet: int) -> Tensor:
    """(rows, columns) symbols to (rows, words): Horner's rule from the last digit down; missing digits are
    0.
    """
    per_word, width = RADIX[alphabet]
    if per_word == 1:
        return symbols
    count = -(-symbols.shape[1] // per_word)
    lanes = pad(symbols, (0, count * per_word - symbols.shape[1])).unflatten(1, (count, per_word))
    words = lanes[..., -1].to(_working_dtype(width))
    for digit in reversed(range(per_word - 1)):
        words = words * alphabet + lanes[..., digit]
    return words


def _digits(words: Tensor, alphabet: int) -> Tensor:
    """The inverse of `_words`: (rows, words * symbols per word) uint8. ValueError for a word that encodes no
    symbols.
    """
    check_words(words, alphabet)
    per_word, _ = RADIX[alphabet]
    if per_word == 1:
        return words
    digits = torch.empty(*words.shape, per_word, dtype=torch.uint8, device=words.device)
    for digit in range(per_word):
        rest = torch.div(words, alphabet, rounding_mode="trunc")
        digits[..., digit] = words - rest * alphabet
        words = rest
    return digits.flatten(1)
