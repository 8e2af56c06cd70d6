"""A model folder that is read block by block: the model is on the meta device, and a module has its weights
only while it is needed.

transformers' own mapping says which stored tensors belong to a parameter, so older hub layouts work, and
checkpoints that transformers converts while loading (conversion.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate.utils import set_module_tensor_to_device
from torch import Tensor, nn

from bivlm.checkpoint.adapter import Adapter, read_adapter
from bivlm.checkpoint.conversion import Conversion, ConvertedEntry, Entry, KeyMap
from bivlm.checkpoint.guards import check_depth, check_files, folder_blamed
from bivlm.checkpoint.shards import TensorEntry, is_finite, read_entries, read_json, read_tensors
from bivlm.checkpoint.stacks import ExpertEntry, split_source
from bivlm.checkpoint.weight_files import check_no_adapter, weight_files
from bivlm.checkpoint.weightless import no_weights
from bivlm.errors import InputError
from bivlm.families import Family, remote_code
from bivlm.families.found.entrance import check_model_type, family_in
from bivlm.families.linears import is_linear


class SourceModel:
    """A Hugging Face model folder whose weights stay on the disk.

    `model` has every parameter on the meta device, and every computed buffer (rotary frequencies and the
    like) in memory. `entries` maps each parameter's name in the model to its place in the shards, or to the
    stored tensors that it is made of. Fused experts are split into linears (`has_split_experts`), unless the
    family keeps them or they cannot be read one by one. `extra` has stored tensors that the model does not
    have; they are copied like the others. An `adapter` in the folder is merged into what is read if
    `merge_adapter` says so, and refused otherwise. Code in the folder is run only with `trust_remote_code`.
    Raises InputError for a folder that is missing, empty, incomplete, damaged, of an unsupported architecture
    (unless its `family` is given), or already quantized.
    """

    def __init__(self, folder: Path, *, merge_adapter: bool = False, trust_remote_code: bool = False) -> None:
        self.folder, self.trust_remote_code = folder, trust_remote_code
        self.config = read_config(folder, trust_remote_code)
        if not merge_adapter:
            check_no_adapter(folder)
        self.shards = weight_files(folder)
        stored = read_entries(self.shards)
        self.dtype: torch.dtype = self._model_dtype(stored)
        check_depth(folder, self.config, (entry.shape for entry in stored.values()))
        self.family: Family = family_in(folder, self.config, trust_remote_code)
        with folder_blamed(folder), no_weights():
            self.model: transformers.PreTrainedModel = self.family.auto_model.from_config(
                self.config, dtype=self.dtype
            )
        self.model.eval()
        # bounds (Gemma 4 clips at them) that the model's own code sets to an infinity
        self._unbounded = {
            name: buffer.clone() for name, buffer in self.model.named_buffers() if bool(buffer.isinf().any())
        }
        if (folder / "generation_config.json").is_file():  # which tokens end an answer
            with folder_blamed(folder):
                self.model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
        found = KeyMap(folder, self.model, stored)
        keys_are_names = found.keys_are_names
        split = split_source(self.model, found.entries, self.family.full_precision)
        self.has_split_experts: bool = split is not None
        self.entries: Mapping[str, Entry | ExpertEntry] = split or found.entries
        self.extra: Mapping[str, TensorEntry] = found.extra
        self.keys_are_names: bool = keys_are_names or self.has_split_experts
        self.adapter = read_adapter(folder, self.entries) if merge_adapter else Adapter(())

    def _model_dtype(self, stored: Mapping[str, TensorEntry]) -> torch.dtype:
        """The dtype in which `from_pretrained` computes: the config's dtype, or that of the first
        floating-point weight.
        """
        declared = self.config.dtype
        if isinstance(declared, torch.dtype):
            return declared
        return next(
            (entry.dtype for entry in stored.values() if entry.dtype.is_floating_point), torch.float32
        )

    @cached_property
    def file_bytes(self) -> int:
        """Size of the folder's files, weights included."""
        return sum(path.stat().st_size for path in self.folder.iterdir() if path.is_file())

    @cached_property
    def conversion_bytes(self) -> int:
        """Memory that the largest conversion takes besides what it makes: its stored tensors, and a step
        between.
        """
        conversions = {_conversion(entry) for entry in self.entries.values()} - {None}
        return max((2 * one.nbytes for one in conversions if one is not None), default=0)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the weights: the shards, and those of the adapter."""
        return (*self.shards, *self.adapter.files)

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of every one of `files`, by its name: what the hub shows for them, too."""
        found = {}
        for path in self.files:
            with path.open("rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
        return found

    def read(self, names: Collection[str], *, copy: bool = True) -> dict[str, Tensor]:
        """The stored tensors of some parameters and buffers, by name, in their stored dtype. InputError if
        one is not finite; an infinity may stand in a buffer where the model's own code puts the same one, and
        never in a parameter.

        With `copy` False they are backed by the file: good for tensors that are only written again.
        """
        tensors = self._stored(names, copy=copy)
        for name, tensor in tensors.items():
            if not is_finite(tensor) and not self._is_bound(name, tensor):
                entry, bad = self._place(name), int((~tensor.isfinite()).sum())
                key = entry.key
                if not isinstance(entry, TensorEntry):
                    entry, key, bad = entry.not_finite() or (entry, key, bad)
                raise InputError(
                    f"{entry.shard}: {key} holds {bad} values that are NaN or infinite; such a weight"
                    " cannot be quantized: get the model again"
                )
        return tensors

    def _is_bound(self, name: str, tensor: Tensor) -> bool:
        """Whether all that is not finite in a buffer is what it holds in a new model."""
        new = self._unbounded.get(name)
        same_shape = new is not None and new.shape == tensor.shape
        return same_shape and bool((tensor.isfinite() | (tensor == new)).all())

    def key_of(self, name: str) -> str:
        """The key under which a parameter is written into a packed folder: the source's own, or its name."""
        return name if self.keys_are_names else self._place(name).key

    def _place(self, name: str) -> Entry | ExpertEntry:
        return self.entries[name] if name in self.entries else self.extra[name]

    def _stored(self, names: Collection[str], *, copy: bool) -> dict[str, Tensor]:
        places = {name: self._place(name) for name in names}
        plain = {name: entry for name, entry in places.items() if isinstance(entry, TensorEntry)}
        by_key = read_tensors(plain.values(), copy=copy)
        found = {name: by_key[entry.key] for name, entry in plain.items()}
        found |= {
            name: entry.read(copy=copy) for name, entry in places.items() if isinstance(entry, ExpertEntry)
        }
        for conversion in dict.fromkeys(map(_conversion, places.values())):
            if conversion is not None:
                made = conversion.make(copy=copy)
                found |= {name: tensor for name, tensor in made.items() if name in places}
        return {name: self.adapter.merged(name, found[name]) for name in names}

    def parameter_names(self, module: str) -> list[str]:
        """Names of the stored parameters and buffers at or below a module path."""
        return [name for name in self.entries if name.startswith(f"{module}.")]

    def materialize(self, names: list[str], *, copy: bool = True) -> None:
        """Give some parameters their weights, in the model's dtype. With `copy` False those that are stored
        in it stay in the file: of an embedding only the rows that are read come into memory.
        """
        for together in self._read_together(names):
            if isinstance(self._place(together[0]), ExpertEntry):
                self._materialize_experts(together)
                continue
            tensors = self.read(together, copy=copy)
            if not copy and isinstance(self._place(together[0]), TensorEntry):
                # the check has touched all of it: take a fresh view, of which nothing is in memory
                del tensors
                tensors = self._stored(together, copy=False)
            for name in together:
                tensor = tensors.pop(name)
                value = tensor.to(self.dtype) if tensor.is_floating_point() else tensor
                set_module_tensor_to_device(self.model, name, "cpu", value=value)

    def drop_embedding_rows(self) -> None:
        """Take fresh views of the embeddings that stay in the file: the rows that were read, which can be all
        of them, take no memory any longer, and are read again when they are needed.
        """
        tables = [path for path, one in self.model.named_modules() if isinstance(one, nn.Embedding)]
        for name in (f"{path}.weight" for path in tables):
            place = self.entries.get(name)
            stays = isinstance(place, TensorEntry) and place.dtype == self.dtype
            if stays and not self.model.get_parameter(name).is_meta:
                value = self._stored([name], copy=False)[name]
                set_module_tensor_to_device(self.model, name, "cpu", value=value)
        self.model.tie_weights()

    def _materialize_experts(self, names: list[str]) -> None:
        """Give the same parameter of several experts its weights, all in one piece of memory: many pieces of
        a few megabytes, with others between them that are freed again, leave the heap half empty.
        """
        place = self._place(names[0])
        dtype = self.dtype if place.dtype.is_floating_point else place.dtype
        whole = torch.empty((len(names), *place.shape), dtype=dtype, device="cpu")
        for own, name in zip(whole, names, strict=True):
            own.copy_(self.read([name], copy=False)[name])
            set_module_tensor_to_device(self.model, name, "cpu", value=own)

    def _read_together(self, names: Collection[str]) -> list[list[str]]:
        """The names one by one, but those that one conversion makes together, and the experts of a layer."""
        groups: dict[object, list[str]] = {}
        for name in names:
            place = self._place(name)
            key = id(place.stack) if isinstance(place, ExpertEntry) else _conversion(place)
            groups.setdefault(key or name, []).append(name)
        return list(groups.values())

    def release(self, names: list[str]) -> None:
        """Take the weights away again."""
        for name in names:
            set_module_tensor_to_device(self.model, name, "meta")

    @contextmanager
    def present(self, module: str) -> Iterator[nn.Module]:
        """The module at a path with its weights, while the context lasts. Afterwards it is as before, and
        packed linears are removed from it.
        """
        names = self.parameter_names(module)
        originals = {
            name: child
            for name, child in self.model.get_submodule(module).named_modules()
            if is_linear(child)
        }
        self.materialize(names)
        try:
            yield self.model.get_submodule(module)
        finally:
            for name, child in originals.items():
                self.model.set_submodule(f"{module}.{name}" if name else module, child)
            self.release(names)

    @contextmanager
    def surroundings(self, blocks: Collection[str], *, head: bool = False) -> Iterator[None]:
        """Within this context the modules outside `blocks` (paths) have their weights, also those that share
        the weight of another. An untied language head has its weight only if `head` says so.
        """
        inside = {name for block in blocks for name in self.parameter_names(block)}
        left_out = frozenset() if head else self.family.untied_head(self.model)
        around = [name for name in self.entries if name not in inside and name not in left_out]
        self.materialize(around, copy=False)
        # files hold a shared weight once; torch computes with one that stays on meta, and gives any numbers
        self.model.tie_weights()
        try:
            yield
        finally:
            self.release(around)
            self.model.tie_weights()  # a tied weight is released together with the other one


def _conversion(entry: Entry | ExpertEntry) -> Conversion | None:
    return entry.conversion if isinstance(entry, ConvertedEntry) else None


def read_config(folder: Path, trust_remote_code: bool = False) -> Any:
    """The configuration of a full-precision model folder; InputError if there is none, if it is damaged, if
    it is quantized already, or if it needs the folder's code and `trust_remote_code` is not given.
    """
    if not folder.exists():
        raise InputError(
            f"there is no folder {folder}; MODEL is a Hugging Face model folder or a model id of the hub"
        )
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; MODEL is the folder that holds config.json and the weights")
    path = folder / "config.json"
    if not path.exists():
        content = "is empty" if not any(folder.iterdir()) else "has no config.json"
        raise InputError(
            f"{folder} {content}; MODEL is a Hugging Face model folder with config.json and weights in"
            " safetensors"
        )
    check_files(folder)
    config = read_json(path)
    quantization = config.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method") if isinstance(quantization, Mapping) else None
        raise InputError(
            f"{folder} is quantized already (quant_method {method!r}); give the full-precision model"
        )
    if not isinstance(config.get("model_type"), str):
        raise InputError(f"{path} names no model_type; is this a transformers model?")
    check_model_type(folder, config, trust_remote_code)
    with folder_blamed(folder):
        return remote_code.read_config(folder, config, trust_remote_code)
