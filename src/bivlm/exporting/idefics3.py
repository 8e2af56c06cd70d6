"""Idefics3 and SmolVLM: a SigLIP tower for tiles of an image, whose patches are folded into the channels."""

from __future__ import annotations

from typing import Any

from bivlm.exporting.plan import Plan
from bivlm.exporting.towers import named, siglip_metadata, siglip_tensors
from bivlm.exporting.weights import FolderWeights

TOWER = "model.vision_model."


def idefics3_vision(weights: FolderWeights, processor: Any) -> Plan:
    """The file of tower and connector."""
    config, vision = weights.config, weights.config.vision_config
    metadata = siglip_metadata(weights, processor, "idefics3")
    images = processor.image_processor
    longest = images.size if images.do_image_splitting else images.max_image_size
    metadata |= {
        "clip.vision.projector.scale_factor": config.scale_factor,
        "clip.vision.preproc_image_size": longest["longest_edge"],
    }
    names = {
        f"{TOWER}post_layernorm": "v.post_ln",
        "model.connector.modality_projection.proj": "mm.model.fc",
    }
    tensors = [*siglip_tensors(weights, TOWER, vision.num_hidden_layers), *named(weights, names)]
    return Plan("clip", metadata, tensors)
