"""A value as bytes for another process: pickled, with its tensors next to the pickle as they lie in memory.

A tensor arrives with the strides, and at the place within 64 bytes, that it had: products depend on both in
their last bits. What is one tensor here is one tensor there.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import torch
from torch import Tensor

ALIGNED = 64  # bytes, as torch's own allocator aligns


class _Pickler(pickle.Pickler):
    """A pickler that puts tensors aside, each once."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.places: dict[int, int] = {}
        self.tensors: list[Tensor] = []

    def persistent_id(self, obj: Any) -> int | None:
        if not isinstance(obj, Tensor):
            return None
        if id(obj) not in self.places:
            self.places[id(obj)] = len(self.tensors)
            self.tensors.append(obj)
        return self.places[id(obj)]


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, tensors: list[Tensor]) -> None:
        super().__init__(file)
        self.tensors = tensors

    def persistent_load(self, pid: Any) -> Tensor:
        return self.tensors[pid]


def to_bytes(value: Any) -> Tensor:
    """A value as one tensor of bytes, (n,) uint8, n a multiple of ALIGNED."""
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(value)
    end, starts, layouts, parts = 0, dict[int, int](), [], list[tuple[int, Tensor]]()
    for tensor in pickler.tensors:
        storage = tensor.detach().untyped_storage()
        if storage.data_ptr() not in starts:
            starts[storage.data_ptr()] = end
            parts.append((end, torch.empty(0, dtype=torch.uint8).set_(storage)))
            end = _up(end + storage.nbytes())
        start = starts[storage.data_ptr()]
        layouts.append((start, tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset()))
    head = pickle.dumps((layouts, file.getvalue()), protocol=pickle.HIGHEST_PROTOCOL)
    first = _up(8 + len(head))
    found = torch.empty(first + end, dtype=torch.uint8, device="cpu")
    found[:8] = torch.tensor([len(head)], dtype=torch.int64).view(torch.uint8)
    found[8 : 8 + len(head)] = torch.frombuffer(bytearray(head), dtype=torch.uint8)
    for start, part in parts:
        found[first + start : first + start + len(part)] = part
    return found


def from_bytes(content: Tensor) -> Any:
    """The value of `to_bytes`. Its tensors are views of `content`."""
    length = int(content[:8].view(torch.int64))
    layouts, pickled = pickle.loads(content[8 : 8 + length].numpy().tobytes())
    first = _up(8 + length)
    tensors = [
        content.view(dtype).as_strided(shape, stride, (first + start) // dtype.itemsize + offset)
        for start, dtype, shape, stride, offset in layouts
    ]
    return _Unpickler(io.BytesIO(pickled), tensors).load()


def as_it_lies(tensor: Tensor) -> Tensor:
    """A copy with the same strides, at the same place within 64 bytes."""
    copied = tensor.detach().untyped_storage().clone()
    empty = torch.empty(0, dtype=tensor.dtype, device="cpu")
    return empty.set_(copied, tensor.storage_offset(), tensor.shape, tensor.stride())


def _up(count: int) -> int:
    return -(-count // ALIGNED) * ALIGNED
