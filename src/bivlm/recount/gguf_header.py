"""The header of a GGUF file, without its data: key-value pairs, then name, shape, type and offset of tensors.

The package gguf maps a whole local file into memory; here a header is read front to back, so that a file on
the hub costs the bytes of its header, and a type that the package does not know still has its bytes.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO

from bivlm.errors import InputError, cut
from bivlm.recount.ggml_types import BLOCKS, NAMES
from bivlm.recount.stored import HEADER_LIMIT, Header, StoredTensor

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY = 8, 9  # the other kinds of a value
MOST_DIMS, MOST_NESTED = 8, 8
KEPT_ITEMS = 8  # of an array: most are vocabularies


@dataclass(frozen=True)
class _Entry:
    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


def read_gguf(file: BinaryIO, name: str, size: int) -> Header:
    """The header of an open file of `size` bytes. Raises InputError for one that is no GGUF, cut short, of a
    header without bounds, or whose tensors overlap or end after the file.
    """
    reader = _Reader(file, name)
    if reader.bytes(4) != b"GGUF":
        raise InputError(f"{name} is no GGUF file (it does not begin with GGUF); get the file again")
    version = struct.unpack("<I", reader.bytes(4))[0]
    if version & 0xFFFF == 0:
        reader.order, version = ">", version >> 24
    if version not in (2, 3):
        raise InputError(f"{name} is GGUF of version {version}; 2 and 3 are read: convert the model again")
    tensors, pairs = reader.number("Q"), reader.number("Q")
    metadata = {reader.text(): reader.value(reader.number("I")) for _ in range(pairs)}
    entries = list(reader.entries(tensors))
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise reader.damaged(f"general.alignment is {cut(str(alignment))}, and no power of two")
    start = -(-reader.at // alignment) * alignment
    found, remarks = _placed(entries, size - start, alignment, reader)
    return Header(name, found, metadata, remarks)


def _placed(
    entries: list[_Entry], room: int, alignment: int, reader: _Reader
) -> tuple[dict[str, StoredTensor], tuple[str, ...]]:
    """The tensors with their bytes: by ggml's blocks, or, for a type of a fork, up to the next tensor."""
    found: dict[str, StoredTensor] = {}
    guessed: dict[str, int] = {}
    order = sorted(entries, key=lambda entry: entry.offset)
    for entry, after in zip(order, [*(entry.offset for entry in order[1:]), room], strict=True):
        if entry.name in found:
            raise reader.damaged(f"tensor {cut(entry.name)} is there twice")
        space = after - entry.offset
        if space < 0 or entry.offset % alignment:
            raise reader.damaged(f"tensor {cut(entry.name)} begins at byte {entry.offset:,} of {room:,}")
        kind, nbytes = _size(entry, reader)
        if nbytes is None:
            guessed[kind] = guessed.get(kind, 0) + 1
            nbytes = space
        if nbytes > space:
            where = "ends after the file" if after == room else "overlaps the next one"
            raise reader.damaged(f"tensor {cut(entry.name)} {where}: {nbytes:,} bytes in {space:,}")
        found[entry.name] = StoredTensor(entry.name, kind, entry.shape, nbytes, reader.name)
    remarks = tuple(
        f"{count} tensors have {kind}, a type of a fork: their bytes reach to the next tensor, with at most"
        f" {alignment - 1} of padding each"
        for kind, count in guessed.items()
    )
    return found, remarks


def _size(entry: _Entry, reader: _Reader) -> tuple[str, int | None]:
    """Name of the type, and bytes of the tensor; None where only its place can say."""
    if entry.kind not in BLOCKS:
        return NAMES.get(entry.kind, f"type {entry.kind}"), None
    kind, block, nbytes = BLOCKS[entry.kind]
    row = entry.shape[-1] if entry.shape else 1
    if row % block:
        raise reader.damaged(f"tensor {cut(entry.name)} has rows of {row}, and {kind} has blocks of {block}")
    return kind, prod(entry.shape) // block * nbytes


class _Reader:
    """Reads a header front to back and counts its bytes."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.file, self.name, self.at, self.order = file, name, 0, "<"

    def bytes(self, count: int) -> bytes:
        self._step(count)
        found = self.file.read(count)
        if len(found) < count:
            raise self.damaged("it ends inside its header")
        return found

    def skip(self, count: int) -> None:
        self._step(count)
        self.file.seek(count, 1)

    def _step(self, count: int) -> None:
        self.at += count
        if self.at > HEADER_LIMIT:
            raise InputError(
                f"{self.name}: its header would have more than {HEADER_LIMIT:,} bytes, which is the most that"
                " is read; get the file again"
            )

    def number(self, form: str) -> Any:
        form = self.order + form
        return struct.unpack(form, self.bytes(struct.calcsize(form)))[0]

    def text(self) -> str:
        return self.bytes(self.number("Q")).decode(errors="replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        """The value of a pair; of an array, its first items."""
        if kind in NUMBERS:
            return self.number(NUMBERS[kind])
        if kind == TEXT:
            return self.text()
        if kind != ARRAY or depth > MOST_NESTED:
            raise self.damaged(f"a value has the kind {kind}, inside {depth} arrays")
        inner, count = self.number("I"), self.number("Q")
        kept = [self.value(inner, depth + 1) for _ in range(min(count, KEPT_ITEMS))]
        if inner in NUMBERS:
            self.skip((count - len(kept)) * struct.calcsize(self.order + NUMBERS[inner]))
            return kept
        for _ in range(count - len(kept)):
            if inner == TEXT:
                self.skip(self.number("Q"))
            else:
                self.value(inner, depth + 1)
        return kept

    def entries(self, count: int) -> Iterator[_Entry]:
        for _ in range(count):
            name, dims = self.text(), self.number("I")
            if dims > MOST_DIMS:
                raise self.damaged(f"tensor {cut(name)} has {dims} dimensions")
            shape = tuple(self.number("Q") for _ in range(dims))[::-1]
            yield _Entry(name, shape, self.number("I"), self.number("Q"))

    def damaged(self, why: str) -> InputError:
        return InputError(f"{self.name} is damaged or cut short ({why}); get the file again")
