"""Which stored tensors a parameter is made of, as transformers' own mapping says: one tensor under another
name, or several that transformers converts while it loads them.

    stored key ─► rename_source_key ─┬─ name                 TensorEntry: the tensor itself
                                     └─ name and converter   ConvertedEntry: one target of a Conversion

Checkpoints keep, for instance, one tensor for each expert where the model in memory has one tensor for all of
them, or query, key and value as one tensor where the model has three. The rules are transformers'
(conversion_mapping.py, core_model_loading.py: `convert_and_load_state_dict_in_model`), and its own operations
compute. A conversion reads the tensors of its own targets, of one layer as a rule, and no others. Shapes and
dtypes of the targets are found by running the operations on tensors without values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

from bivlm.checkpoint.shards import TensorEntry, is_finite, read_tensors
from bivlm.errors import InputError
from bivlm.families.linears import is_linear


@dataclass(frozen=True, eq=False)
class Conversion:
    """Stored tensors of which transformers makes parameters. `first` is the first target's name, `sources`
    has the tensors in transformers' order, each with the pattern of `converter` that its key matches.
    """

    model: PreTrainedModel = field(repr=False)
    first: str
    converter: WeightConverter
    sources: list[tuple[str, TensorEntry]] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Bytes of the stored tensors."""
        return sum(entry.nbytes for _, entry in self.sources)

    @property
    def operations(self) -> str:
        """The names of transformers' operations, for messages."""
        return ", ".join(type(operation).__name__ for operation in self.converter.operations)

    def targets(self) -> dict[str, Tensor]:
        """The targets by their names in the model, on the meta device. InputError, naming the operations, if
        they need more than shapes.
        """
        empty = [torch.empty(entry.shape, dtype=entry.dtype, device="meta") for _, entry in self.sources]
        _, entry = self.sources[0]
        try:
            return self.convert(empty)
        except Exception as error:  # whatever an operation raises
            words = str(error).strip().splitlines() or [type(error).__name__]
            raise InputError(
                f"{entry.shard}: {entry.key} is converted by transformers while loading ({self.operations}),"
                f" and this cannot be done block by block ({words[0][:200]}); get the model in another form"
            ) from error

    def make(self, *, copy: bool = True) -> dict[str, Tensor]:
        """The targets by their names, in the dtype that the stored tensors have. With `copy` False those that
        are a stored tensor as it is stay in the file.
        """
        stored = read_tensors((entry for _, entry in self.sources), copy=False)
        tensors = [stored[entry.key] for _, entry in self.sources]
        in_file = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        made = self.convert(tensors)
        return {
            name: tensor.clone()
            if tensor.untyped_storage().nbytes() != tensor.nbytes
            or (copy and tensor.untyped_storage().data_ptr() in in_file)
            else tensor
            for name, tensor in made.items()
        }

    def convert(
        self,
        tensors: Sequence[Tensor],
        sources: Sequence[tuple[str, TensorEntry]] | None = None,
        model: Any = None,
    ) -> dict[str, Tensor]:
        """Run transformers' operations on the sources' values, in the sources' order; or on some of the
        `sources`, where `model` has the shapes that these make.
        """
        converter = deepcopy(self.converter)  # it collects tensors
        for (pattern, entry), tensor in zip(sources or self.sources, tensors, strict=True):
            converter.collected_tensors[pattern].append(tensor)  # pyright: ignore[reportArgumentType]
            converter.layer_targets[self.first].add(entry.key)
        made = converter.convert(self.first, model=model or self.model, config=self.model.config)
        return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}


@dataclass(frozen=True)
class ConvertedEntry:
    """A parameter that is made while it is read, with the dtype and the shape that it will have."""

    conversion: Conversion
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def not_finite(self) -> tuple[TensorEntry, str, int] | None:
        """The first stored tensor that holds NaN or infinity, its key, and how many."""
        for _, entry in self.conversion.sources:
            if bad := not_finite(entry):
                return entry, entry.key, bad
        return None

    @property
    def shard(self) -> Path:
        """The shard of its first stored tensor, for messages."""
        return self.conversion.sources[0][1].shard

    @property
    def key(self) -> str:
        """The key of its first stored tensor, for messages."""
        return self.conversion.sources[0][1].key


Entry = TensorEntry | ConvertedEntry


def not_finite(entry: TensorEntry) -> int:
    """How many values of a stored tensor are NaN or infinite."""
    tensor = read_tensors([entry], copy=False)[entry.key]
    return 0 if is_finite(tensor) else int((~tensor.isfinite()).sum())


class KeyMap:
    """Stored tensors and the parameters of a model that they become.

    `entries` are the parameters by name; `extra` are stored tensors that the model does not have, by the name
    under which transformers would look for them, or by their keys if it would convert them. Without `convert`
    tensors have the names of the model already. Raises InputError for tensors that do not make the model's
    parameters.
    """

    def __init__(
        self,
        folder: Path,
        model: PreTrainedModel,
        stored: Mapping[str, TensorEntry],
        *,
        convert: bool = True,
    ) -> None:
        self._folder, self._model, self._wanted = folder, model, model.state_dict()
        mapping = get_model_conversion_mapping(model) if convert else []
        self._renamings = [change for change in mapping if isinstance(change, WeightRenaming)]
        self._converters = [change for change in mapping if isinstance(change, WeightConverter)]
        self.entries: dict[str, Entry] = {}
        self.extra: dict[str, TensorEntry] = {}
        conversions = self._map(stored)
        for conversion in conversions.values():
            self._add_targets(conversion)
        self._check(stored)

    @cached_property
    def keys_are_names(self) -> bool:
        """Whether a packed folder of this model names its tensors as the model does: something was converted,
        or the keys of a packed weight would be renamed differently from those of the weight itself.
        """
        if any(isinstance(entry, ConvertedEntry) for entry in self.entries.values()):
            return True
        modules = dict(self._model.named_modules())
        for name, entry in self.entries.items():
            owner, _, last = name.rpartition(".")
            if last != "weight" or not (is_linear(modules[owner]) or type(modules[owner]) is nn.Embedding):
                continue
            if self._name(entry.key.removesuffix("weight") + "packed")[0] != f"{owner}.packed":
                return True
        return False

    def _name(self, key: str) -> tuple[str, str | None]:
        """A key's name in the model, and the converter's pattern that it matches."""
        prefix = self._model.base_model_prefix
        found = rename_source_key(key, self._renamings, self._converters, prefix, self._wanted)
        if found[0] not in self._wanted and key in self._wanted:
            return rename_source_key(key, [], [], prefix, self._wanted)
        return found

    def _map(self, stored: Mapping[str, TensorEntry]) -> dict[str, Conversion]:
        """Fill `entries` and `extra` with what is only renamed; returns what is converted."""
        converter_of = {
            pattern: converter for converter in self._converters for pattern in converter.source_patterns
        }
        conversions: dict[str, Conversion] = {}
        for key in sorted(stored, key=dot_natural_key):  # some renamings and all stacks depend on the order
            name, pattern = self._name(key)
            if pattern is None:
                (self.entries if name in self._wanted else self.extra).setdefault(name, stored[key])
            elif name in self._wanted:
                made = conversions.setdefault(name, Conversion(self._model, name, converter_of[pattern]))
                made.sources.append((pattern, stored[key]))
            else:
                self.extra[key] = stored[key]
        return conversions

    def _add_targets(self, conversion: Conversion) -> None:
        for name, tensor in conversion.targets().items():
            entry = ConvertedEntry(conversion, name, tensor.dtype, tuple(tensor.shape))
            if name in self.entries or name not in self._wanted:
                there = "is stored as well" if name in self.entries else "the model does not have"
                raise InputError(
                    f"{entry.shard}: {entry.key} makes {name} ({conversion.operations}), which {there}; the"
                    " files do not belong together: get the model again"
                )
            self.entries[name] = entry

    def _check(self, stored: Mapping[str, TensorEntry]) -> None:
        """InputError for a parameter of another shape, and for one that is missing."""
        for name, entry in self.entries.items():
            asked = tuple(self._wanted[name].shape)
            if asked != entry.shape:
                made = ""
                if isinstance(entry, ConvertedEntry):
                    made = f" makes {name}, with {len(entry.conversion.sources)} tensors in all, and it"
                raise InputError(
                    f"{entry.shard}: {entry.key}{made} has the shape {entry.shape}, but config.json asks for"
                    f" {asked}"
                )
        tied = self._model.all_tied_weights_keys
        missing = [name for name in self._wanted if name not in self.entries and name not in tied]
        if missing:
            raise InputError(
                f"{self._folder}: the shards lack {missing[0]} ({len(missing)} tensors of the model are"
                " missing); get the model again"
            )
