"""The stored weights of one layer, gathered tensor by tensor while vLLM reads the files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bivlm.checkpoint.modules import ModuleSpec
from bivlm.errors import InputError
from bivlm.formats import format_named
from bivlm.formats.base import PackedTensor

PLAIN = "weight"  # the tensor of a weight that is not packed
SHARDS = {"q": 0, "k": 1, "v": 2}  # vLLM's own names of the outputs of qkv_proj
Shard = str | int | tuple[int, ...] | None


@dataclass(frozen=True)
class Stored:
    """The weights of a layer in the order of their outputs, each with its name; None is one in full
    precision. `owner` has the number of the weight of every output. `tensors` is filled by `put`.
    """

    weights: Sequence[tuple[str, ModuleSpec | None]]
    owner: Sequence[int]
    tensors: list[dict[str, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tensors.extend({} for _ in self.weights)

    @property
    def names(self) -> dict[str, torch.dtype | None]:
        """The tensors that are read, with their dtypes; None for the model's own."""
        found: dict[str, torch.dtype | None] = {}
        for _, spec in self.weights:
            kinds = {} if spec is None else spec.tensors
            found |= {name: kind for name, (kind, _) in kinds.items()} if kinds else {PLAIN: None}
        return found

    def put(self, shard: Shard, name: str, tensor: Tensor) -> None:
        """Keep a tensor of the output `shard` as vLLM calls it: a copy, since the file may be closed.
        InputError for an output that this layer has not.
        """
        first = shard[0] if isinstance(shard, tuple) else shard
        output = SHARDS.get(first, -1) if isinstance(first, str) else first or 0
        if (shard is None and len(self.weights) > 1) or not 0 <= output < len(self.owner):
            raise InputError(
                f"vLLM gives {name} of {self.weights[0][0]} to the output {shard!r}, which the plug-in does"
                f" not know; this layer has {len(self.owner)} outputs of {len(self.weights)} stored weights"
            )
        self.tensors[self.owner[output]][name] = tensor.clone()

    def take(self) -> list[PackedTensor | Tensor]:
        """All weights, checked; the tensors are handed over. InputError for what is missing, has another
        shape than config.json says, or is damaged.
        """
        found = [
            _weight(place, spec, tensors)
            for (place, spec), tensors in zip(self.weights, self.tensors, strict=True)
        ]
        self.tensors.clear()
        return found


def _weight(place: str, spec: ModuleSpec | None, tensors: dict[str, Tensor]) -> PackedTensor | Tensor:
    needed = {PLAIN} if spec is None else set(spec.tensors)
    if missing := sorted(needed - set(tensors)):
        raise InputError(
            f"the files lack {place}.{missing[0]}; the folder is incomplete: pack the model again"
        )
    if spec is None:
        return tensors[PLAIN]
    for name, (dtype, shape) in spec.tensors.items():
        tensor = tensors[name]
        if (tensor.dtype, tuple(tensor.shape)) != (dtype, shape):
            raise InputError(
                f"{place}.{name} is {tensor.dtype} {list(tensor.shape)} in the files, and {dtype}"
                f" {list(shape)} in config.json; the folder is damaged: get it again"
            )
    own = {name: tensors[name] for name in spec.tensors}
    packed = PackedTensor(spec.format, spec.shape, own, spec.settings)
    try:
        format_named(packed.format).check_packed(packed)
    except ValueError as error:
        raise InputError(f"the packed weight {place} is damaged: {error}") from error
    return packed
