"""Gemma 3: a SigLIP tower whose features are averaged over squares, normed and projected."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from bivlm.exporting.plan import Plan, Planned
from bivlm.exporting.towers import named, siglip_metadata, siglip_tensors
from bivlm.exporting.weights import FolderWeights

TOWER, PROJECTOR = "model.vision_tower.", "model.multi_modal_projector."


def gemma3_vision(weights: FolderWeights, processor: Any) -> Plan:
    """The file of tower and projector."""
    config, vision = weights.config, weights.config.vision_config
    metadata = siglip_metadata(weights, processor, "gemma3")
    side = vision.image_size // vision.patch_size
    metadata["clip.vision.projector.scale_factor"] = side // int(config.mm_tokens_per_image**0.5)
    tensors = [
        *siglip_tensors(weights, TOWER, vision.num_hidden_layers),
        *named(weights, {f"{TOWER}post_layernorm": "v.post_ln"}),
        Planned("mm.input_projection.weight", f"{PROJECTOR}mm_input_projection_weight", full=True),
        Planned("mm.soft_emb_norm.weight", f"{PROJECTOR}mm_soft_emb_norm.weight", change=_plus_one),
    ]
    return Plan("clip", metadata, tensors, (f"{TOWER}head.",))


def _plus_one(weight: Tensor) -> Tensor:
    return weight + 1
