"""A LoRA adapter in a model folder, merged into the weights while they are read.

    W + scale · B A,    scale = alpha / r, or alpha / √r with rslora     (Hu et al., arXiv 2106.09685)

in float32, rounded once to the dtype in which the weight is stored, as peft's merge does. Adapters of another
kind, and settings of LoRA that change the product itself, are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from bivlm.checkpoint.conversion import Entry
from bivlm.checkpoint.shards import TensorEntry, read_entries, read_json, read_tensors
from bivlm.checkpoint.stacks import ExpertEntry
from bivlm.checkpoint.weight_files import ADAPTER_CONFIG
from bivlm.errors import InputError

ADAPTER_WEIGHTS = "adapter_model.safetensors"
PACKED_RECORD = "bivlm_adapter.json"  # next to an adapter that was trained on a packed model
PREFIX = "base_model.model."
_PAIR = re.compile(r"(.+)\.lora_(A|B)(?:\.default)?\.weight")
_EMBEDDING = re.compile(r"(.+)\.lora_embedding_(A|B)(?:\.default)?")
# settings that make more of the adapter than a product that is added to the weights
_REFUSED = {
    "use_dora": "DoRA",
    "modules_to_save": "whole modules",
    "fan_in_fan_out": "transposed weights",
    "use_qalora": "QA-LoRA",
    "target_parameters": "bare parameters",
    "alora_invocation_tokens": "an activation at certain tokens",
    "arrow_config": "Arrow routing",
}


@dataclass(frozen=True)
class Pair:
    """The two factors of one weight; of an embedding they are stored transposed."""

    a: TensorEntry
    b: TensorEntry
    scale: float
    embedding: bool

    def delta(self) -> Tensor:
        """What is added to the weight, (out, in) float32."""
        read = read_tensors([self.a, self.b])
        a, b = read[self.a.key].float(), read[self.b.key].float()
        return (b @ a).T * self.scale if self.embedding else (b @ a) * self.scale


@dataclass(frozen=True)
class Adapter:
    """The adapter of a model folder. `pairs` are its factors by the name of the weight in the model."""

    files: tuple[Path, ...]
    pairs: Mapping[str, Pair] = field(default_factory=dict)

    def merged(self, name: str, weight: Tensor) -> Tensor:
        """The weight with the adapter added, in its own dtype; the weight itself if the adapter leaves it."""
        if name not in self.pairs:
            return weight
        return (weight.float() + self.pairs[name].delta()).to(weight.dtype)


def read_adapter(folder: Path, wanted: Mapping[str, Entry | ExpertEntry]) -> Adapter:
    """The LoRA adapter in a folder, to be merged into its weights: `wanted` by their names. Raises InputError
    for an adapter that is missing, damaged, of another kind, for another model, or that was trained on a
    packed model.
    """
    if (folder / PACKED_RECORD).exists():
        raise InputError(
            f"{folder} holds an adapter that was trained on a packed model ({PACKED_RECORD}): it corrects the"
            " errors of those packed weights and cannot be merged; give it to them with --adapter"
        )
    path, weights = folder / ADAPTER_CONFIG, folder / ADAPTER_WEIGHTS
    if not path.is_file() or not weights.is_file():
        raise InputError(
            f"{folder} has no adapter to merge; it takes {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS} in the folder"
            " of the base model"
        )
    return Adapter(
        (path, weights), read_pairs(path, weights, {name: one.shape for name, one in wanted.items()})
    )


def read_pairs(path: Path, weights: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Pair]:
    """The pairs of factors of an adapter's two files, by the names of the weights, whose `shapes` are given.
    Raises InputError for an adapter that is damaged, of another kind, or for another model.
    """
    config = read_config(path)
    factors: dict[str, dict[str, TensorEntry]] = {}
    embeddings = set()
    for key, entry in read_entries([weights]).items():
        plain, embedded = _PAIR.fullmatch(key), _EMBEDDING.fullmatch(key)
        found = plain or embedded
        if found is None or not key.startswith(PREFIX):
            raise InputError(f"{weights}: the tensor {key} is no factor of a LoRA pair; merge it with peft")
        name = found.group(1).removeprefix(PREFIX)
        factors.setdefault(name, {})[found.group(2)] = entry
        if embedded:
            embeddings.add(name)
    pairs = {}
    for name, pair in factors.items():
        weight = weight_name(name, shapes, weights)
        pairs[weight] = _pair(weights, config, name, pair, shapes[weight], name in embeddings)
    return pairs


def read_config(path: Path) -> dict[str, Any]:
    """The adapter's settings. InputError for another kind of adapter, and for settings of LoRA that change
    the product itself.
    """
    config = read_json(path)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise InputError(f"{path} is an adapter of the kind {str(kind)[:60]!r}; only LORA is read here")
    advice = "merge it into the full-precision model with peft's merge_and_unload"
    for name, what in _REFUSED.items():
        if config.get(name):
            raise InputError(f"{path}: {name} is set ({what}); {advice}")
    if config.get("bias", "none") != "none":
        raise InputError(f"{path}: bias is {config['bias']!r}; {advice}")
    return config


def weight_name(name: str, wanted: Collection[str], weights: Path) -> str:
    """The weight that a pair belongs to: by its full name, or the one whose name ends so."""
    found = [full for full in wanted if full == f"{name}.weight" or full.endswith(f".{name}.weight")]
    if f"{name}.weight" in found:
        return f"{name}.weight"
    if len(found) != 1:
        raise InputError(
            f"{weights}: the model has {len(found)} weights {name}; the adapter is of another model"
        )
    return found[0]


def _pair(
    weights: Path,
    config: Mapping[str, Any],
    name: str,
    pair: Mapping[str, TensorEntry],
    shape: tuple[int, ...],
    embedding: bool,
) -> Pair:
    if sorted(pair) != ["A", "B"]:
        raise InputError(f"{weights}: {name} has only the factor {sorted(pair)[0]}; the file is incomplete")
    a, b = pair["A"], pair["B"]
    fits = len(a.shape) == len(b.shape) == len(shape) == 2 and a.shape[0] == b.shape[1] >= 1
    made = (b.shape[:1] + a.shape[1:])[:: -1 if embedding else 1]
    if not fits or made != shape:
        raise InputError(
            f"{weights}: the factors of {name} are {list(a.shape)} and {list(b.shape)}, and the weight is"
            f" {list(shape)}; the adapter is of another model"
        )
    return Pair(a, b, scale_of(weights, config, name, a.shape[0]), embedding)


def scale_of(weights: Path, config: Mapping[str, Any], name: str, rank: int) -> float:
    """What the product of a pair is multiplied with. InputError if the settings do not give a finite one."""
    alpha = _setting(config, "alpha_pattern", "lora_alpha", name)
    scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    if not math.isfinite(scale):
        raise InputError(f"{weights}: the scale of {name} is {scale}; needs a finite number")
    return scale


def _setting(config: Mapping[str, Any], pattern: str, name: str, module: str) -> float:
    """A number of the adapter: the first pattern that matches the module's name decides, as in peft."""
    patterns = config.get(pattern) or {}
    value = config.get(name)
    if isinstance(patterns, Mapping):
        value = next((one for key, one in patterns.items() if _matches(key, module)), value)
    if not isinstance(value, int | float):
        raise InputError(f"{ADAPTER_CONFIG}: {name} is {str(value)[:60]!r}; needs a number")
    return float(value)


def _matches(key: str, module: str) -> bool:
    """peft's rule: the pattern fits the whole name, or its end after a dot."""
    try:
        return re.match(rf"(.*\.)?({key})$", module) is not None
    except re.error as error:
        raise InputError(f"{ADAPTER_CONFIG}: the pattern {key[:60]!r} cannot be read ({error})") from error
