"""Language models: the metadata and the names of llama.cpp's architectures, one entry of KINDS each.

The names of the tensors are those of the package gguf (tensor_mapping.py). What an architecture of llama.cpp
fixes in its code, and what transformers reads from the config, is compared, and a difference refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bivlm.errors import InputError
from bivlm.exporting.plan import Plan, Planned, Value, require
from bivlm.exporting.weights import FolderWeights

GEMMA_EVERY = 6  # blocks until one sees everything
SMOLLM_EVERY = 4  # blocks until one knows no order
QWEN3_SECTIONS = (24, 20, 20)  # where a config of Qwen3-VL does not say


@dataclass(frozen=True)
class TextKind:
    """One model_type of a language model.

    architecture   llama.cpp's name, also in capitals in gguf.MODEL_ARCH
    neighbours     rotary embeddings turn pairs of neighbours, where transformers turns halves
    one_added      norms multiply by 1 + weight, and llama.cpp by what is stored
    more           further metadata, from the weights' folder and the text's config; checks what is fixed
    """

    architecture: str
    neighbours: bool = False
    one_added: bool = False
    more: Callable[[FolderWeights, Any], Mapping[str, Value]] = lambda weights, config: {}


def language_plan(weights: FolderWeights, prefix: str = "model.") -> Plan:
    """The file of a language model, alone or inside a model whose blocks lie at `prefix`; without the
    tokenizer's metadata. InputError for an architecture, or a setting, that has no place there.
    """
    config = weights.config.get_text_config()
    kind = KINDS.get(config.model_type)
    if kind is None:
        known = ", ".join(KINDS)
        raise InputError(
            f"{weights.folder}: its language model is a {config.model_type}, which has no exporter; those"
            f" that have one: {known}"
        )
    metadata = _sizes(weights, config, kind) | dict(kind.more(weights, config))
    tensors = [*_rotary(weights, config), *_tensors(weights, config, kind, prefix)]
    return Plan(kind.architecture, metadata, tensors)


def head_width(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _sizes(weights: FolderWeights, config: Any, kind: TextKind) -> dict[str, Value]:
    """The metadata that all architectures share."""
    width, rope = head_width(config), _rope(config)
    require(rope.get("partial_rotary_factor", 1.0) == 1.0, weights, "only a part of each head is rotated")
    activation = getattr(config, "hidden_act", None) or config.hidden_activation
    expected = "gelu_pytorch_tanh" if kind.one_added else "silu"
    require(activation == expected, weights, f"its language model computes {activation}")
    name = kind.architecture
    found: dict[str, Value] = {
        f"{name}.vocab_size": config.vocab_size,
        f"{name}.context_length": config.max_position_embeddings,
        f"{name}.embedding_length": config.hidden_size,
        f"{name}.block_count": config.num_hidden_layers,
        f"{name}.feed_forward_length": config.intermediate_size,
        f"{name}.attention.head_count": config.num_attention_heads,
        f"{name}.attention.head_count_kv": config.num_key_value_heads,
        f"{name}.attention.key_length": width,
        f"{name}.attention.value_length": width,
        f"{name}.attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        f"{name}.rope.dimension_count": width,
        f"{name}.rope.freq_base": float(rope["rope_theta"]),
    }
    kind_of_rope = rope.get("rope_type", "default")
    if kind_of_rope == "linear":
        found[f"{name}.rope.scaling.type"] = "linear"
        found[f"{name}.rope.scaling.factor"] = float(rope["factor"])
    known = ("default", "linear", "llama3", "mrope")
    require(kind_of_rope in known, weights, f"its rotary embedding is {kind_of_rope}")
    return found


def _rope(config: Any) -> Mapping[str, Any]:
    """The rotary embedding of the blocks that see everything."""
    rope = config.rope_parameters
    return rope.get("full_attention", rope)


def _rotary(weights: FolderWeights, config: Any) -> Iterator[Planned]:
    """The factors by which Llama 3 divides its rotary frequencies (transformers, modeling_rope_utils.py:
    _compute_llama3_parameters).
    """
    rope = _rope(config)
    if rope.get("rope_type") != "llama3":
        return
    half = head_width(config) // 2
    waves = 2 * math.pi * rope["rope_theta"] ** (torch.arange(half, device="cpu").double() / half)
    old, factor = rope["original_max_position_embeddings"], rope["factor"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    share = ((old / waves - low) / (high - low)).clamp(0, 1)
    yield Planned("rope_freqs.weight", value=(1 / (share + (1 - share) / factor)).float())


def _tensors(weights: FolderWeights, config: Any, kind: TextKind, prefix: str) -> Iterator[Planned]:
    """The tensors of the language model, in the model's order."""
    import gguf

    architecture = gguf.MODEL_ARCH[kind.architecture.upper()]
    known = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for name in weights.names:
        if name != "lm_head.weight" and not name.startswith(prefix):
            continue
        stem, _, ending = name.removeprefix(prefix).rpartition(".")
        target = known.get_name(stem if name == "lm_head.weight" else f"model.{stem}")
        if target is None:
            raise InputError(
                f"{weights.folder}: llama.cpp's {kind.architecture} has no place for {name}, so this model"
                " cannot be exported"
            )
        change = _plus_one if kind.one_added and target.endswith("norm") else None
        rows = rows_in_file(name, config) if kind.neighbours else None
        yield Planned(f"{target}.{ending}", name, rows, change)


def rows_in_file(name: str, config: Any) -> Tensor | None:
    """The rows of a query's or key's projection in the order of an architecture that turns pairs of
    neighbours; None for all other weights, whose rows stay.
    """
    counts = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    heads = next((count for kind, count in counts.items() if f".{kind}." in name), None)
    if heads is None:
        return None
    width = head_width(config)
    order = torch.arange(heads * width, device="cpu").view(heads, 2, width // 2)
    return order.transpose(1, 2).reshape(-1)


def _plus_one(weight: Tensor) -> Tensor:
    return weight + 1


def _llama(weights: FolderWeights, config: Any) -> Mapping[str, Value]:
    window = getattr(config, "sliding_window", None)
    unbounded = window is None or window >= config.max_position_embeddings
    require(unbounded, weights, f"its blocks see a window of {window} tokens")
    return {}


def _qwen(weights: FolderWeights, config: Any) -> Mapping[str, Value]:
    kinds = getattr(config, "layer_types", None) or ()
    require("sliding_attention" not in kinds, weights, "some of its blocks see a window of tokens")
    return {}


def _qwen_vl(name: str) -> Callable[[FolderWeights, Any], Mapping[str, Value]]:
    """Rotary embeddings by time, row and column; features of the tower that enter the first blocks."""

    def more(weights: FolderWeights, config: Any) -> Mapping[str, Value]:
        sections = [*_rope(config).get("mrope_section", QWEN3_SECTIONS), 0, 0][:4]
        found: dict[str, Value] = {**_qwen(weights, config), f"{name}.rope.dimension_sections": sections}
        features = getattr(weights.config.vision_config, "deepstack_visual_indexes", None)
        return found if features is None else found | {f"{name}.n_deepstack_layers": len(features)}

    return more


def _gemma3(weights: FolderWeights, config: Any) -> Mapping[str, Value]:
    layers = config.num_hidden_layers
    pattern = ["full_attention" if (i + 1) % GEMMA_EVERY == 0 else "sliding_attention" for i in range(layers)]
    same = list(config.layer_types) == pattern
    require(same, weights, "not every sixth of its blocks alone sees everything")
    scale = config.query_pre_attn_scalar
    expected = config.hidden_size // config.num_attention_heads if layers == 62 else head_width(config)
    require(scale == expected, weights, f"its attention is scaled by 1 / sqrt({scale})")
    local = config.rope_parameters["sliding_attention"]
    require(local.get("rope_type", "default") == "default", weights, "its local rotary embedding is scaled")
    require(config.attn_logit_softcapping is None, weights, "its attention is capped")
    require(config.final_logit_softcapping is None, weights, "its logits are capped")
    return {
        "gemma3.attention.sliding_window": config.sliding_window,
        "gemma3.rope.freq_base_swa": float(local["rope_theta"]),
    }


def _smollm3(weights: FolderWeights, config: Any) -> Mapping[str, Value]:
    ordered = [int((i + 1) % SMOLLM_EVERY != 0) for i in range(config.num_hidden_layers)]
    same = list(config.no_rope_layers) == ordered
    require(same, weights, "not every fourth of its blocks alone knows no order")
    return _qwen(weights, config)


KINDS: dict[str, TextKind] = {
    "llama": TextKind("llama", neighbours=True, more=_llama),
    "mistral": TextKind("llama", neighbours=True, more=_llama),
    "qwen2": TextKind("qwen2", more=_qwen),
    "qwen3": TextKind("qwen3", more=_qwen),
    "smollm3": TextKind("smollm3", neighbours=True, more=_smollm3),
    "gemma3_text": TextKind("gemma3", one_added=True, more=_gemma3),
    "qwen2_vl_text": TextKind("qwen2vl", more=_qwen_vl("qwen2vl")),
    "qwen2_5_vl_text": TextKind("qwen2vl", more=_qwen_vl("qwen2vl")),
    "qwen3_vl_text": TextKind("qwen3vl", more=_qwen_vl("qwen3vl")),
}
