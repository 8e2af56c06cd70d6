"""What config.json and its relatives say about the quantization: only used where shapes do not tell."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Settings:
    """`quantization` is the object quantization_config of config.json, or the file that stands for it;
    `config` all of config.json; `metadata` what the headers say besides tensors; `gguf` that they are GGUF's.
    """

    quantization: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    gguf: bool = False

    @property
    def method(self) -> str:
        """The name of the method ("gptq", "bitsandbytes"), lower case; "" if nothing says it."""
        found = self.quantization.get("quant_method") or self.quantization.get("quant_algo") or ""
        return str(found).lower()

    @property
    def bits(self) -> float | None:
        """Bits of a code, where one number holds for all; None otherwise."""
        said = set(self._numbers(_BITS))
        return said.pop() if len(said) == 1 else None

    @property
    def group_size(self) -> int | None:
        """Weights that share a scale, where one number holds for all; None otherwise, and for whole rows."""
        said = {int(value) for value in self._numbers(_GROUP)}
        return said.pop() if len(said) == 1 else None

    def for_module(self, name: str) -> Settings:
        """The settings of one module, where the config names it (MLX)."""
        own = self.quantization.get(name)
        return (
            replace(self, quantization={**_flat(self.quantization), **own}) if isinstance(own, dict) else self
        )

    @property
    def tied(self) -> bool:
        """Whether the config says that embedding and head share their weight."""
        nested = (self.config.get(key) for key in ("text_config", "llm_config", "language_config"))
        return any(
            isinstance(config, dict) and config.get("tie_word_embeddings") is True
            for config in (self.config, *nested)
        )

    def _numbers(self, key: re.Pattern[str]) -> Iterator[float]:
        for owner in _owners(self.quantization):
            for name, value in owner.items():
                if key.fullmatch(str(name)) and type(value) in (int, float) and 0 < value < MOST:
                    yield value


MOST = 1 << 20  # of bits and of a group's weights; what is larger, or no number, says nothing
_BITS = re.compile(r"bits|w_bit|wbits|num_bits|nbits|bit")
_GROUP = re.compile(r"group_size|q_group_size|groupsize|weight_block_size")


def _flat(quantization: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in quantization.items() if not isinstance(value, dict)}


def _owners(quantization: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The objects of a quantization_config that hold bits of weights: itself, the groups of
    compressed-tensors, the weights of HQQ.
    """
    yield quantization
    groups = quantization.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        if isinstance(weights, dict):
            yield weights
    hqq = quantization.get("quant_config")
    for owner in (hqq, hqq.get("weight_quant_params")) if isinstance(hqq, dict) else ():
        if isinstance(owner, dict):
            yield owner
