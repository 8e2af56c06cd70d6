"""The packed modules of a `quantization_config`, read strictly: every field has its type and range before
anything is made from it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from bivlm.checkpoint.groups import members
from bivlm.checkpoint.shards import ITEM_BYTES, TensorEntry, torch_dtype
from bivlm.errors import InputError
from bivlm.formats.base import PackedTensor
from bivlm.formats.checks import CHECKS

if TYPE_CHECKING:  # the entries are read without torch
    import torch

FORMAT_VERSION = 2  # of a folder without experts
EXPERTS_VERSION = 3  # of one with packed experts: the newest that is read
FIELDS = {"key", "format", "shape", "settings", "tensors", "kind", "head", "shared"}  # of a module's entry
KINDS = ("linear", "embedding", "head")
KEYS_ARE_NAMES = "names"  # the value of the field `keys` where tensors are named as in the model
SPLIT = "split"  # the value of the field `experts` where every expert has linears of its own
LARGEST = 1 << 40  # of a dimension: beyond every file
_TENSOR_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


def is_packed(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is of a folder that bivlm packed."""
    quantization = config.get("quantization_config")
    return isinstance(quantization, Mapping) and quantization.get("quant_method") == "bivlm"


def keys_are_names(quantization: Mapping[str, Any]) -> bool:
    """Whether a packed folder names its tensors as the model in memory does, so that nothing is renamed or
    converted when it is loaded. InputError for another value of the field `keys`.
    """
    return _is_given(quantization, "keys", KEYS_ARE_NAMES)


def experts_are_split(quantization: Mapping[str, Any]) -> bool:
    """Whether the fused experts of the model are linears of their own in a packed folder. InputError for
    another value of the field `experts`.
    """
    return _is_given(quantization, "experts", SPLIT)


def _is_given(quantization: Mapping[str, Any], field: str, value: str) -> bool:
    given = quantization.get(field)
    if given not in (None, value):
        raise InputError(
            f"quantization_config: {field} is {_shown(given)}; this bivlm knows {value!r}: pip install -U"
            " bivlm"
        )
    return given is not None


@dataclass(frozen=True)
class ModuleSpec:
    """A packed module as `config.json` describes it.

    `key` begins the names of its tensors in the shards; `stored` are the names of their dtypes and their
    shapes by name, `tensors` the same with torch's dtypes; `shape` is (out, in) of the weight; `shared` has
    the whole keys of tensors that lie with another module; `head` names the language head that shares an
    embedding's weight. `entry` is the name of its entry, which several experts may share, `raw` what it says.
    """

    key: str
    format: str
    shape: tuple[int, int]
    settings: Mapping[str, Any]
    stored: Mapping[str, tuple[str, tuple[int, ...]]]
    kind: str = "linear"
    head: str | None = None
    shared: Mapping[str, str] = field(default_factory=dict)
    entry: str = ""
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def tensors(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Dtype and shape of its tensors by name."""
        return {name: (torch_dtype(dtype), shape) for name, (dtype, shape) in self.stored.items()}

    @property
    def nbytes(self) -> int:
        """The bytes of its own tensors: shared ones count where they lie."""
        return sum(
            math.prod(shape) * ITEM_BYTES[dtype]
            for name, (dtype, shape) in self.stored.items()
            if name not in self.shared
        )

    def stored_at(self, tensor: str) -> str:
        """The key of one of its tensors in the shards."""
        return self.shared.get(tensor, self.key + tensor)

    def check_stored(self, entries: Mapping[str, TensorEntry]) -> None:
        """ValueError unless the shards hold exactly these tensors under this key."""
        for name, (dtype, shape) in self.stored.items():
            key = self.stored_at(name)
            entry = entries.get(key)
            if entry is None:
                raise ValueError(f"the tensor {key} is not in the files")
            if (entry.dtype_name, entry.shape) != (dtype, shape):
                raise ValueError(
                    f"the tensor {key} is torch.{entry.dtype_name} {list(entry.shape)} in {entry.shard.name},"
                    f" and torch.{dtype} {list(shape)} in config.json"
                )


def entries_of(
    packed: Mapping[str, PackedTensor], base_of: Callable[[str], str]
) -> dict[str, dict[str, Any]]:
    """The entries of packed linears of one unit in `config.json`, by name; `base_of` says what the keys of a
    linear's tensors begin with. What several of them share has the keys of the first.
    """
    from bivlm.formats.lowrank import shared_tensors  # needs torch, which reading does without

    shared = shared_tensors(packed)
    entries: dict[str, dict[str, Any]] = {}
    for name, weight in packed.items():
        entries[name] = {
            "key": base_of(name),
            "format": weight.format,
            "shape": list(weight.shape),
            "settings": dict(weight.settings),
            "tensors": {
                tensor: [str(value.dtype).removeprefix("torch."), list(value.shape)]
                for tensor, value in weight.tensors.items()
            },
        }
        if shared[name]:
            entries[name]["shared"] = {
                tensor: base_of(other) + tensor for tensor, other in shared[name].items()
            }
    return entries


def packed_of(entry: Mapping[str, Any], stored: Mapping[str, torch.Tensor]) -> PackedTensor:
    """The packed weight of an entry, from the tensors of its shard by their keys."""
    shared = entry.get("shared", {})
    tensors = {name: stored[shared.get(name, entry["key"] + name)] for name in entry["tensors"]}
    return PackedTensor(entry["format"], tuple(entry["shape"]), tensors, entry["settings"])


def read_modules(quantization: Any) -> dict[str, ModuleSpec]:
    """The packed modules of a `quantization_config` by their names. Raises InputError, naming the field, for
    anything that is not as docs/format.md says, and for a newer format.
    """
    with _blaming("quantization_config"):
        _need(isinstance(quantization, Mapping), f"it is {_shown(quantization)}; needs an object")
        version = quantization.get("format_version")
        _need(type(version) is int and version >= 1, f"format_version is {_shown(version)}; needs a number")
        if version > EXPERTS_VERSION:
            raise InputError(
                f"this checkpoint has format version {version}, and this bivlm reads up to {EXPERTS_VERSION}:"
                " pip install -U bivlm"
            )
        modules = quantization.get("modules")
        _need(isinstance(modules, Mapping), f"modules is {_shown(modules)}; needs an object")
        found: dict[str, ModuleSpec] = {}
        for entry, spec in modules.items():
            module = _module(entry, spec)
            for name, own in _each(entry, module):
                _need(name not in found, f"the module {name[:120]} is described twice")
                found[name] = own
        return found


def _each(entry: str, module: ModuleSpec) -> Iterator[tuple[str, ModuleSpec]]:
    """The modules of an entry by name."""
    if "[" not in entry and "[" not in module.key:
        yield entry, module
        return
    try:
        names, keys = members(entry), members(module.key)
    except ValueError as error:
        raise InputError(f"{error}") from error
    _need(len(names) == len(keys), f"the module {entry[:120]}: its key stands for {len(keys)} keys")
    for name, key in zip(names, keys, strict=True):
        yield name, replace(module, key=key)


def _module(name: str, spec: Any) -> ModuleSpec:
    with _blaming(f"the module {name[:120]}"):
        _need(isinstance(spec, Mapping), f"it is {_shown(spec)}; needs an object")
        unknown = sorted(
            {*spec} - {"key", "format", "shape", "settings", "tensors", "kind", "head", "shared"}
        )
        _need(not unknown, f"its field {unknown[0]!r} is not known" if unknown else "")
        key, settings, tensors = spec.get("key"), spec.get("settings"), spec.get("tensors")
        kind, head = spec.get("kind", "linear"), spec.get("head")
        _need(
            isinstance(key, str) and key[-1:] in ("", "."), f"key is {_shown(key)}; needs a prefix with a dot"
        )
        _need(kind in KINDS, f"kind is {_shown(kind)}; needs one of {', '.join(KINDS)}")
        _need(head is None or isinstance(head, str), f"head is {_shown(head)}; needs a module's name")
        _need(isinstance(settings, Mapping), f"settings is {_shown(settings)}; needs an object")
        _need(
            isinstance(tensors, Mapping) and bool(tensors), f"tensors is {_shown(tensors)}; needs an object"
        )
        assert isinstance(key, str)
        assert isinstance(tensors, Mapping)
        shared = spec.get("shared", {})
        fits = isinstance(shared, Mapping) and all(isinstance(other, str) for other in shared.values())
        _need(
            fits and set(shared) <= set(tensors) and not ("[" in key and shared),
            f"shared is {_shown(shared)}; needs keys of other modules' tensors by the names of its own",
        )
        return ModuleSpec(
            key,
            _format(spec.get("format")),
            _weight_shape(spec.get("shape")),
            dict(settings or {}),
            {part: _tensor(part, stored) for part, stored in tensors.items()},
            kind,
            head,
            dict(shared),
            name,
            dict(spec),
        )


def _format(name: Any) -> str:
    _need(isinstance(name, str), f"format is {_shown(name)}; needs a name")
    if name not in CHECKS:
        raise InputError(
            f"this checkpoint uses the format {name[:80]!r}, which this bivlm does not know: pip install -U"
            " bivlm"
        )
    return name


def _weight_shape(shape: Any) -> tuple[int, int]:
    fits = (
        isinstance(shape, list | tuple) and len(shape) == 2 and all(map(_is_size, shape)) and 0 not in shape
    )
    _need(fits, f"shape is {_shown(shape)}; needs [out, in], each at least 1")
    return tuple(shape)


def _tensor(part: str, stored: Any) -> tuple[str, tuple[int, ...]]:
    fits = isinstance(stored, list | tuple) and len(stored) == 2 and isinstance(stored[1], list | tuple)
    fits = fits and _TENSOR_NAME.fullmatch(part) is not None and all(map(_is_size, stored[1]))
    fits = fits and isinstance(stored[0], str) and stored[0] in ITEM_BYTES
    _need(fits, f"the tensor {part[:80]!r} is {_shown(stored)}; needs [dtype, [sizes]]")
    return stored[0], tuple(stored[1])


def _is_size(number: Any) -> bool:
    return type(number) is int and 0 <= number <= LARGEST


def _shown(value: Any) -> str:
    """A value of any size and kind, for a message."""
    return "missing" if value is None else repr(value)[:60]


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


@contextmanager
def _blaming(what: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"{what}: {error}") from error
