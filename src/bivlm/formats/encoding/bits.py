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

RADIX: dict[int, tuple[int, int]] = {
    # alphabet: (symbols per word, bits per word). alphabet ** symbols <= 2 ** bits; the comment on the right
    # has the bits per symbol.
    2: (1, 1),  # 1
    3: (5, 8),  # 1.6
    4: (1, 2),  # 2
    5: (3, 7),  # 2.33
    6: (3, 8),  # 2.67
    7: (1, 3),  # 3
    8: (1, 3),  # 3
    9: (3, 10),  # 3.33
    10: (3, 10),  # 3.33
    11: (2, 7),  # 3.5
    12: (5, 18),  # 3.6
    13: (1, 4),  # 4
    14: (1, 4),  # 4
    15: (1, 4),  # 4
    16: (1, 4),  # 4
    32: (1, 5),
    64: (1, 6),
    128: (1, 7),
    256: (1, 8),
}

RICE_MAX = 32  # low bits of a Rice code: fields have at most 32 bits

_BLOCK = 1 << 19  # symbols that are packed or unpacked at a time: temporaries stay small, and in the cache

_NOT_A_COLUMN = "a symbol after the last column is not zero"


def stream_bytes(count: int, width: int) -> int:
    """Bytes that `count` fields of `width` bits take."""
    return -(-count * width // 8)


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


def check_stream(stream: Tensor, width: int, count: int) -> None:
    """Raises ValueError unless the streams (rows, bytes) have the length of `count` fields and zeros after
    them: what `unpack_fields` refuses, without unpacking.
    """
    size = stream.shape[1]
    if size != stream_bytes(count, width):
        raise ValueError(
            f"{size} bytes where {count} fields of {width} bits take {stream_bytes(count, width)}"
        )
    used = count * width % 8
    if used and bool((stream[:, -1] >> used).any()):
        raise ValueError("a bit after the last field is not zero")


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


def unpack_unary(stream: Tensor, count: int) -> Tensor:
    """The inverse of `pack_unary`: (count,) int64, from the places of the ones."""
    ends = unpack_fields(stream[None], 1, 8 * stream.numel())[0].nonzero()[:, 0]
    if ends.numel() != count:
        raise ValueError(f"{ends.numel()} ones where there are {count} numbers")
    needed = int(ends[-1]) // 8 + 1 if count else 0
    if stream.numel() != needed:
        raise ValueError(f"{stream.numel()} bytes where the last one lies in byte {needed - 1}")
    return ends.diff(prepend=ends.new_full((1,), -1)) - 1


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


def rice_bytes_bound(count: int, total: int) -> int:
    """An upper bound of the bytes of the Rice codes of any `count` numbers whose sum is at most `total`.

    For every k the low bits take n * k bits exactly, and the unary part n + Σ floor(number / 2^k) <= n +
    floor(total / 2^k); the writer takes the best k. With total + count fixed (the places of a matrix) the
    bound never falls as `count` grows.
    """
    return min(stream_bytes(count, k) + stream_bytes(count + (total >> k), 1) for k in range(RICE_MAX + 1))


def symbols_bytes(columns: int, alphabet: int) -> int:
    """Bytes that one row of `columns` symbols takes."""
    per_word, width = RADIX[alphabet]
    return stream_bytes(-(-columns // per_word), width)


def pack_symbols(symbols: Tensor, alphabet: int) -> Tensor:
    """Symbols (rows, columns) uint8, each below `alphabet`, to streams (rows, bytes) of radix words, the
    first symbol the lowest digit.
    """
    rows, columns = symbols.shape
    if symbols.numel() and int(symbols.max()) >= alphabet:
        raise ValueError(f"a symbol is {int(symbols.max())} in an alphabet of {alphabet}")
    packed = torch.empty(rows, symbols_bytes(columns, alphabet), dtype=torch.uint8, device=symbols.device)
    for block in _row_blocks(rows, columns):
        packed[block] = pack_fields(_words(symbols[block], alphabet), RADIX[alphabet][1])
    return packed


def unpack_symbols(packed: Tensor, alphabet: int, columns: int) -> Tensor:
    """The inverse of `pack_symbols`: (rows, columns) uint8."""
    per_word, width = RADIX[alphabet]
    words = -(-columns // per_word)
    symbols = torch.empty(packed.shape[0], columns, dtype=torch.uint8, device=packed.device)
    for block in _row_blocks(packed.shape[0], columns):
        digits = _digits(unpack_fields(packed[block], width, words), alphabet)
        if bool(digits[:, columns:].any()):
            raise ValueError(_NOT_A_COLUMN)
        symbols[block] = digits[:, :columns]
    return symbols


def check_symbols(packed: Tensor, alphabet: int, columns: int) -> None:
    """Raises ValueError for the streams (rows, bytes) that `unpack_symbols` refuses. Only words that could be
    too large are unpacked, a block of rows at a time.
    """
    per_word, width = RADIX[alphabet]
    words = -(-columns // per_word)
    check_stream(packed, width, words)
    if alphabet**per_word == 1 << width:
        return
    for block in _row_blocks(packed.shape[0], words):
        fields = packed[block] if width == 8 else unpack_fields(packed[block], width, words)
        _check_words(fields, alphabet)
        if int(fields[:, -1].max()) >= alphabet ** (columns - (words - 1) * per_word):
            raise ValueError(_NOT_A_COLUMN)


def symbols_at(packed: Tensor, alphabet: int, row: Tensor, column: Tensor) -> Tensor:
    """Single symbols of the streams (rows, bytes) of `pack_symbols`, at the places (n,) int64: (n,) int64."""
    per_word, width = RADIX[alphabet]
    flat, bit = packed.reshape(-1), column // per_word * width
    byte, last = row * packed.shape[1] + (bit >> 3), packed.numel() - 1
    word = flat[byte].long()
    for further in range(1, (width + 14) // 8):
        word |= flat[(byte + further).clamp_(max=last)].long() << 8 * further
    word = word >> (bit & 7) & ((1 << width) - 1)
    if per_word == 1:
        return word
    place = torch.tensor(
        [alphabet**digit for digit in range(per_word)], dtype=torch.int64, device=word.device
    )
    return word // place[column % per_word] % alphabet


def _row_blocks(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, _BLOCK // max(1, columns))
    return (slice(start, start + step) for start in range(0, rows, step))


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


def _check_words(words: Tensor, alphabet: int) -> None:
    """ValueError for a word that encodes no symbols."""
    per_word, width = RADIX[alphabet]
    if alphabet**per_word < 1 << width and words.numel() and int(words.max()) >= alphabet**per_word:
        raise ValueError(
            f"a word is {int(words.max())} where {per_word} symbols of {alphabet} stay below"
            f" {alphabet**per_word}"
        )


def _digits(words: Tensor, alphabet: int) -> Tensor:
    """The inverse of `_words`: (rows, words * symbols per word) uint8. ValueError for a word that encodes no
    symbols.
    """
    _check_words(words, alphabet)
    per_word, _ = RADIX[alphabet]
    if per_word == 1:
        return words
    digits = torch.empty(*words.shape, per_word, dtype=torch.uint8, device=words.device)
    for digit in range(per_word):
        rest = torch.div(words, alphabet, rounding_mode="trunc")
        digits[..., digit] = words - rest * alphabet
        words = rest
    return digits.flatten(1)
