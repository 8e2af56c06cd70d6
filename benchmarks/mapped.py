"""Weights in a file that is mapped into memory: dropping it, and what of it is resident (Linux)."""

from __future__ import annotations

import ctypes
import mmap
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

PAGE = mmap.PAGESIZE
ENTRY = 8  # bytes of /proc/self/pagemap for a page
PRESENT = np.uint64(1 << 63)


@dataclass(frozen=True)
class Mapped:
    """The tensors of a file, all in its mapping."""

    path: Path
    tensors: dict[str, Tensor]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def rss(self) -> int:
        """The resident bytes of the mapping, as /proc/self/smaps has them."""
        found, ours = 0, False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if "-" in line.split()[0]:
                ours = line.endswith(str(self.path))
            elif ours and line.startswith("Rss:"):
                found += int(line.split()[1]) << 10
        return found


def write(path: Path, tensors: dict[str, Tensor]) -> Mapped:
    """A file of tensors, on the disk and mapped."""
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    with safe_open(path, "pt") as opened:
        return Mapped(path, {name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118


def pages_of(tensor: Tensor, margin: int = 0) -> range:
    """The addresses of the pages that lie within a tensor, `margin` bytes from both ends, as a range."""
    begin, end = tensor.data_ptr() + margin, tensor.data_ptr() + tensor.nbytes - margin
    return range(-(-begin // PAGE) * PAGE, end // PAGE * PAGE, PAGE)


def drop(file: Mapped) -> None:
    """Take a file out of this process's memory and out of the page cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    places = [tensor.untyped_storage() for tensor in file.tensors.values()]
    for place in {storage.data_ptr(): storage for storage in places}.values():
        begin = place.data_ptr() // PAGE * PAGE
        size = place.data_ptr() + place.nbytes() - begin
        if libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(size), mmap.MADV_DONTNEED):
            raise OSError(ctypes.get_errno(), "madvise")
    with file.path.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resident_bytes(tensor: Tensor, margin: int = 0) -> int:
    """The bytes of a tensor's pages that this process has in memory."""
    pages = pages_of(tensor, margin)
    if not len(pages):
        return 0
    with Path("/proc/self/pagemap").open("rb", buffering=0) as file:
        file.seek(pages[0] // PAGE * ENTRY)
        entries = np.frombuffer(file.read(len(pages) * ENTRY), dtype=np.uint64)
    return int(((entries & PRESENT) != 0).sum()) * PAGE
