"""LLaVA: a CLIP or SigLIP tower up to one of its blocks, two linears, a language model.

CLIP's class token comes first, and llama.cpp's graph puts it last and takes the others' places as they were
(github.com/ggml-org/llama.cpp/issues/25814). The file has CLIP's own order, for the day when this is right
there; `REMARK` is said until then.

transformers takes the states before the tower's last norm (vision_feature_layer), so that one and the blocks
after the chosen one are not exported.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bivlm.exporting.plan import Plan, Planned, require
from bivlm.exporting.towers import named, siglip_metadata, siglip_tensors
from bivlm.exporting.weights import FolderWeights

TOWER, PROJECTOR = "model.vision_tower.", "model.multi_modal_projector."
REMARK = (
    "llama.cpp takes the tokens of a CLIP tower one place too far (its issue 25814), so answers differ from"
    " those here until it is corrected there"
)
KNOWN = {"clip_vision_model": "default", "siglip_vision_model": "full"}  # and which of its states are taken


def llava_vision(weights: FolderWeights, processor: Any) -> Plan:
    """The file of tower and projector."""
    config, vision = weights.config, weights.config.vision_config
    require(vision.model_type in KNOWN, weights, f"its vision tower is a {vision.model_type}")
    strategy = config.vision_feature_select_strategy
    require(strategy == KNOWN[vision.model_type], weights, f"its features are selected by {strategy!r}")
    layer = config.vision_feature_layer
    require(isinstance(layer, int), weights, "it joins features of several blocks")
    activation = config.projector_hidden_act
    require(activation == "gelu", weights, f"its projector computes {activation}")
    blocks = layer if layer >= 0 else vision.num_hidden_layers + 1 + layer
    metadata = siglip_metadata(weights, processor, "mlp", blocks)
    metadata["clip.vision.feature_layer"] = [blocks]
    tensors = [
        *_embeddings_of_clip(weights),
        *siglip_tensors(weights, TOWER, blocks),
        *named(weights, {f"{PROJECTOR}linear_1": "mm.0", f"{PROJECTOR}linear_2": "mm.2"}),
    ]
    unused = [f"{TOWER}encoder.layers.{index}." for index in range(blocks, vision.num_hidden_layers)]
    remark = REMARK if vision.model_type == "clip_vision_model" else ""
    return Plan("clip", metadata, tensors, (f"{TOWER}post_layernorm.", f"{TOWER}head.", *unused), remark)


def _embeddings_of_clip(weights: FolderWeights) -> Iterator[Planned]:
    """The class token, and the norm before the blocks."""
    if f"{TOWER}embeddings.class_embedding" in weights.names:
        yield Planned("v.class_embd", f"{TOWER}embeddings.class_embedding")
        yield from named(weights, {f"{TOWER}pre_layrnorm": "v.pre_ln"})
