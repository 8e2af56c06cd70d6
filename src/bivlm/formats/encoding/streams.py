"""The rules for bit streams, of tensors or numpy arrays: their lengths, and what may stand in them. bits.py
packs and unpacks them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bivlm.formats.encoding.arrays import Array, as_int64, count, table_like

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

NOT_A_COLUMN = "a symbol after the last column is not zero"

_BLOCK = 1 << 19  # symbols that are packed or unpacked at a time: temporaries stay small, and in the cache


def stream_bytes(count: int, width: int) -> int:
    """Bytes that `count` fields of `width` bits take."""
    return -(-count * width // 8)


def symbols_bytes(columns: int, alphabet: int) -> int:
    """Bytes that one row of `columns` symbols takes."""
    per_word, width = RADIX[alphabet]
    return stream_bytes(-(-columns // per_word), width)


def rice_bytes_bound(count: int, total: int) -> int:
    """An upper bound of the bytes of the Rice codes of any `count` numbers whose sum is at most `total`.

    For every k the low bits take n * k bits exactly, and the unary part n + Σ floor(number / 2^k) <= n +
    floor(total / 2^k); the writer takes the best k. With total + count fixed (the places of a matrix) the
    bound never falls as `count` grows.
    """
    return min(stream_bytes(count, k) + stream_bytes(count + (total >> k), 1) for k in range(RICE_MAX + 1))


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Some rows of `columns` symbols at a time."""
    step = max(1, _BLOCK // max(1, columns))
    return (slice(start, start + step) for start in range(0, rows, step))


def check_stream(stream: Array, width: int, count: int) -> None:
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


def check_symbols(packed: Array, alphabet: int, columns: int) -> None:
    """Raises ValueError for the streams (rows, bytes) that `unpack_symbols` refuses. Only words that could be
    too large are unpacked, a block of rows at a time.
    """
    per_word, width = RADIX[alphabet]
    words = -(-columns // per_word)
    check_stream(packed, width, words)
    if alphabet**per_word == 1 << width:
        return
    for block in row_blocks(packed.shape[0], words):
        found = packed[block] if width == 8 else fields(packed[block], width, words)
        check_words(found, alphabet)
        if int(found[:, -1].max()) >= alphabet ** (columns - (words - 1) * per_word):
            raise ValueError(NOT_A_COLUMN)


def check_words(words: Array, alphabet: int) -> None:
    """ValueError for a word that encodes no symbols."""
    per_word, width = RADIX[alphabet]
    if alphabet**per_word < 1 << width and count(words) and int(words.max()) >= alphabet**per_word:
        raise ValueError(
            f"a word is {int(words.max())} where {per_word} symbols of {alphabet} stay below"
            f" {alphabet**per_word}"
        )


def fields(stream: Array, width: int, count: int) -> Array:
    """The fields (rows, count) of streams (rows, bytes), as `bits.unpack_fields` gives them, or int64."""
    if isinstance(stream, np.ndarray):
        check_stream(stream, width, count)
        flags = np.unpackbits(stream, axis=1, count=count * width, bitorder="little")
        return flags.reshape(len(stream), count, width) @ (1 << np.arange(width, dtype=np.int64))
    from bivlm.formats.encoding.bits import unpack_fields  # needs torch

    return unpack_fields(stream, width, count)


def symbols(packed: Array, alphabet: int, columns: int) -> Array:
    """The symbols (rows, columns) of the streams (rows, bytes) of `bits.pack_symbols`. Raises ValueError for
    those that it does not write.
    """
    if not isinstance(packed, np.ndarray):
        from bivlm.formats.encoding.bits import unpack_symbols  # needs torch

        return unpack_symbols(packed, alphabet, columns)
    check_symbols(packed, alphabet, columns)
    per_word, width = RADIX[alphabet]
    words = fields(packed, width, -(-columns // per_word))
    digits = words[..., None] // alphabet ** np.arange(per_word) % alphabet
    return digits.reshape(len(packed), -1)[:, :columns]


def unpack_unary(stream: Array, count: int) -> Array:
    """The inverse of `bits.pack_unary`: (count,) int64, from the places of the ones."""
    ends = _ones(stream)
    if len(ends) != count:
        raise ValueError(f"{len(ends)} ones where there are {count} numbers")
    needed = int(ends[-1]) // 8 + 1 if count else 0
    if len(stream) != needed:
        raise ValueError(f"{len(stream)} bytes where the last one lies in byte {needed - 1}")
    ends[1:] -= ends[:-1] + 1
    return ends


def symbols_at(packed: Array, alphabet: int, row: Array, column: Array) -> Array:
    """Single symbols of the streams (rows, bytes) of `bits.pack_symbols`, at the places (n,) int64: (n,)
    int64.
    """
    per_word, width = RADIX[alphabet]
    flat, bit = packed.reshape(-1), column // per_word * width
    byte, last = row * packed.shape[1] + (bit >> 3), count(packed) - 1
    word = as_int64(flat[byte])
    for further in range(1, (width + 14) // 8):
        word |= as_int64(flat[(byte + further).clip(max=last)]) << 8 * further
    word = word >> (bit & 7) & ((1 << width) - 1)
    if per_word == 1:
        return word
    place = table_like(word, [alphabet**digit for digit in range(per_word)])
    return word // place[column % per_word] % alphabet


def _ones(stream: Array) -> Array:
    """The places of the ones of a stream (bytes,): (n,) int64, ascending; memory of its own."""
    if isinstance(stream, np.ndarray):
        return np.flatnonzero(np.unpackbits(stream, bitorder="little"))
    return fields(stream[None], 1, 8 * len(stream))[0].nonzero()[:, 0].clone()
