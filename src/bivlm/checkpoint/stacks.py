"""One expert's matrix out of a stack of all experts, read from the disk by itself.

    stored as one tensor (E, …)      ─► a slice of it, in the file
    stored as one tensor (E, …) that transformers transposes ─► transformers' operations on the slice
    stored as a tensor per expert    ─► transformers' operations on the tensors of this expert

Only operations that treat every expert alike are run on one expert (`_treats_alike`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.core_model_loading import (
    Chunk,
    Concatenate,
    ConversionOps,
    ErnieFuseAndSplitTextVisionExperts,
    Interleave,
    MergeModulelist,
    Transpose,
)

from bivlm.checkpoint.conversion import ConvertedEntry, Entry, not_finite
from bivlm.checkpoint.shards import TensorEntry, read_tensors
from bivlm.families.experts import Layout, layout_of, split_experts


@dataclass(frozen=True)
class ExpertEntry:
    """The weight or the bias of one projection of expert `index`: a slice of `stack`, which is (expert, …);
    `transposed` says that a linear's weight is the slice's transpose.
    """

    stack: Entry
    index: int
    transposed: bool

    @property
    def dtype(self) -> torch.dtype:
        return self.stack.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        own = self.stack.shape[1:]
        return own[::-1] if self.transposed else own

    @property
    def nbytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    @property
    def shard(self) -> Path:
        """The shard of its first stored tensor, for messages."""
        return self._first.shard

    @property
    def key(self) -> str:
        """The key of its first stored tensor, for messages; with the expert's number if it holds several."""
        per_expert = isinstance(self.stack, ConvertedEntry) and _is_merged(self.stack)
        return self._first.key if per_expert else f"{self._first.key}[{self.index}]"

    @property
    def _first(self) -> TensorEntry:
        return self._sources()[0][1] if isinstance(self.stack, ConvertedEntry) else self.stack

    def read(self, *, copy: bool = True) -> Tensor:
        """The tensor in its stored dtype. With `copy` False it may be backed by the file."""
        if isinstance(self.stack, ConvertedEntry):
            tensor = self._converted(self.stack)
        else:
            tensor = read_tensors([self.stack], copy=False)[self.stack.key][self.index]
        if self.transposed:
            return tensor.T.contiguous()
        return tensor.clone() if copy or isinstance(self.stack, ConvertedEntry) else tensor

    def not_finite(self) -> tuple[TensorEntry, str, int] | None:
        """The first stored tensor of this expert alone that holds NaN or infinity, its key, and how many."""
        if isinstance(self.stack, ConvertedEntry) and _is_merged(self.stack):
            for _, entry in self._sources():
                if bad := not_finite(entry):
                    return entry, entry.key, bad
        return None

    def _sources(self) -> list[tuple[str, TensorEntry]]:
        """The stored tensors that hold something of this expert."""
        assert isinstance(self.stack, ConvertedEntry)
        sources = self.stack.conversion.sources
        if not _is_merged(self.stack):
            return sources
        by_pattern: dict[str, list[TensorEntry]] = {}
        for pattern, entry in sources:
            by_pattern.setdefault(pattern, []).append(entry)
        count = self.stack.shape[0]  # a list may hold the experts of several stacks, one after the other
        return [(pattern, one) for pattern, all_ in by_pattern.items() for one in all_[self.index :: count]]

    def _converted(self, stack: ConvertedEntry) -> Tensor:
        sources = self._sources()
        stored = read_tensors((entry for _, entry in sources), copy=False)
        tensors = [stored[entry.key] for _, entry in sources]
        if not _is_merged(stack):
            tensors = [tensor[self.index : self.index + 1] for tensor in tensors]
        one = torch.empty((1, *stack.shape[1:]), dtype=stack.dtype, device="meta")
        conversion = stack.conversion
        model = SimpleNamespace(get_parameter=lambda name: one, config=conversion.model.config)
        return conversion.convert(tensors, sources, model)[stack.name][0]


def split_source(
    model: nn.Module, entries: Mapping[str, Entry], full_precision: Collection[str]
) -> dict[str, Entry | ExpertEntry] | None:
    """Split all fused experts of `model`, whose parameters have these `entries`: the entries with those of
    the experts' linears in place of theirs. None, and nothing is split, if there are none, if one of the
    patterns `full_precision` names them, or if some cannot be read expert by expert.
    """
    layouts = {path: found for path, module in model.named_modules() if (found := layout_of(module))}
    fused = {f"{path}.{name}": path for path, layout in layouts.items() for name in layout.parameters}
    kept = any(fnmatchcase(place, pattern) for pattern in full_precision for place in {*layouts, *fused})
    if not fused or kept or not all(name in entries and _is_separable(entries[name]) for name in fused):
        return None
    split_experts(model)
    left, found = dict.fromkeys(layouts), dict[str, Entry | ExpertEntry]()
    for name, entry in entries.items():
        if name not in fused:
            found[name] = entry
        elif (path := fused[name]) in left:
            del left[path]
            found |= _split(path, layouts[path], entries)
    return found


def _split(path: str, layout: Layout, entries: Mapping[str, Entry]) -> dict[str, ExpertEntry]:
    """The entries of the linears of the experts at a path."""
    stacks = {name: entries[f"{path}.{name}"] for name in layout.parameters}
    count = next(iter(stacks.values())).shape[0]
    return {
        f"{path}.{index}.{projection}.{part}": ExpertEntry(
            stacks[name], index, part == "weight" and layout.transposed
        )
        for index in range(count)
        for name, (projection, part) in layout.parameters.items()
    }


def _is_merged(entry: ConvertedEntry) -> bool:
    """Whether the stored tensors are those of single experts."""
    first = entry.conversion.converter.operations[0]
    return isinstance(first, MergeModulelist | ErnieFuseAndSplitTextVisionExperts)


def _is_separable(entry: Entry) -> bool:
    """Whether one expert of a stack can be made without the others."""
    if not isinstance(entry, ConvertedEntry):
        return True
    converter, count = entry.conversion.converter, entry.shape[0]
    patterns = [pattern for pattern, _ in entry.conversion.sources]
    if _is_merged(entry):
        each = count * len(converter.target_patterns)
        own = all(patterns.count(pattern) == each for pattern in patterns)
    else:
        shapes = [one.shape for _, one in entry.conversion.sources]
        own = len({*patterns}) == len(patterns) and all(shape[:1] == (count,) for shape in shapes)
    return own and all(map(_treats_alike, converter.operations))


def _treats_alike(operation: ConversionOps) -> bool:
    """Whether an operation does with every expert, along the first dimension, the same."""
    one: Any = operation
    if isinstance(operation, MergeModulelist):
        return one.dim == 0
    if isinstance(operation, ErnieFuseAndSplitTextVisionExperts):
        return one.stack_dim == 0 < one.concat_dim
    if isinstance(operation, Transpose):
        return min(one.dim0, one.dim1) > 0
    return isinstance(operation, Concatenate | Chunk | Interleave) and one.dim > 0
