"""The weights of a model folder, packed or not, read one at a time under the names that they have in the
model in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from bivlm.checkpoint.complete import check_model_folder
from bivlm.checkpoint.conversion import Entry, KeyMap
from bivlm.checkpoint.guards import folder_blamed
from bivlm.checkpoint.modules import is_packed, keys_are_names, read_modules
from bivlm.checkpoint.seal import read_seal
from bivlm.checkpoint.shards import TensorEntry, read_entries, read_json, read_tensors
from bivlm.checkpoint.source import SourceModel
from bivlm.checkpoint.verify import verify_modules, verify_shards
from bivlm.checkpoint.weight_files import weight_files
from bivlm.checkpoint.weightless import no_weights
from bivlm.errors import InputError
from bivlm.families import Family
from bivlm.families.remote_code import read_config
from bivlm.formats import PackedTensor, format_named
from bivlm.packed.hf import put_modules, share_tensors
from bivlm.packed.module import PackedModule, packed_modules


class FolderWeights:
    """A complete model folder whose weights stay on the disk.

    `model` has every parameter on the meta device; `names` are its parameters, a packed weight among them by
    the name of the weight that it replaces ("….q_proj.weight"). Raises InputError for a folder that
    `bivlm.load` refuses, and for a packed one whose bytes have changed.
    """

    def __init__(self, folder: Path, trust_remote_code: bool = False) -> None:
        self.folder = folder
        self.family: Family = check_model_folder(folder, trust_remote_code=trust_remote_code)
        self._packed: Mapping[str, PackedModule] = {}
        self._shared: Mapping[str, Mapping[str, str]] = {}
        content = read_json(folder / "config.json")
        if is_packed(content):
            with folder_blamed(folder):
                self.config = read_config(folder, content, trust_remote_code)
            self.model, self._entries = self._packed_model(content["quantization_config"])
        else:
            self._source = SourceModel(folder, trust_remote_code=trust_remote_code)
            self.config, self.model = self._source.config, self._source.model
            self._entries = dict(self._source.entries)
        owners = tuple(f"{name}." for name in self._packed)
        plain = (name for name in self._entries if not name.startswith(owners) or name.endswith(".bias"))
        tied = self.model.all_tied_weights_keys
        self.names: tuple[str, ...] = (
            *(name for name in plain if name not in tied or tied[name] not in self._entries),
            *(f"{name}.weight" for name in self._packed),
        )

    def _packed_model(self, quantization: Mapping[str, Any]) -> tuple[Any, Mapping[str, Entry]]:
        """The model with empty packed modules, and where the tensors of its state are."""
        modules, shards = read_modules(quantization), weight_files(self.folder)
        verify_shards(shards)
        stored = read_entries(shards)
        verify_modules(self.folder, modules, read_seal(self.folder), stored)
        with folder_blamed(self.folder):
            with no_weights():
                model = self.family.auto_model.from_config(self.config)
            self._shared = put_modules(model, modules)
            share_tensors(model, self._shared)
        self._packed = packed_modules(model)
        return model, KeyMap(self.folder, model, stored, convert=not keys_are_names(quantization)).entries

    @property
    def is_packed(self) -> bool:
        """Whether bivlm packed the folder."""
        return bool(self._packed)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a weight or parameter."""
        module = self._packed.get(name.removesuffix(".weight"))
        return self._entries[name].shape if module is None else (module.rows, module.columns)

    def packed(self, name: str) -> PackedTensor | None:
        """The packed tensors of a weight; None for one in full precision. InputError if they are damaged."""
        owner = name.removesuffix(".weight")
        module = self._packed.get(owner)
        if module is None:
            return None
        elsewhere = self._shared.get(owner, {})
        places = {part: self._entries[f"{elsewhere.get(part, owner)}.{part}"] for part in module.tensor_names}
        stored = read_tensors([place for place in places.values() if isinstance(place, TensorEntry)])
        tensors = {part: stored[place.key] for part, place in places.items()}
        packed = PackedTensor(module.format, (module.rows, module.columns), tensors, module.settings)
        try:
            format_named(module.format).check_packed(packed)
        except ValueError as error:
            raise InputError(f"the packed weight {name} is damaged: {error}") from error
        return packed

    def read(self, name: str) -> Tensor:
        """A weight or parameter in float32."""
        packed = self.packed(name)
        if packed is not None:
            return format_named(packed.format).decode(packed).dequantize()
        if self._packed:
            entry = self._entries[name]
            assert isinstance(entry, TensorEntry), name
            return read_tensors([entry])[entry.key].float()
        return self._source.read([name])[name].float()
