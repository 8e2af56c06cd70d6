"""InternVL (the layout of transformers, "-hf" on the hub): an InternViT tower, patches folded into the
channels, a norm and two linears.

llama.cpp's graph puts the class token after the patches, so its row of the table of positions goes to the
end.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from bivlm.exporting.plan import Plan, Planned, require
from bivlm.exporting.towers import block_tensors, named, tower_metadata
from bivlm.exporting.weights import FolderWeights

TOWER, PROJECTOR = "model.vision_tower.", "model.multi_modal_projector."
BLOCK = {
    "attention.q_proj": "attn_q",
    "attention.k_proj": "attn_k",
    "attention.v_proj": "attn_v",
    "attention.q_norm": "attn_q_norm",
    "attention.k_norm": "attn_k_norm",
    "attention.projection_layer": "attn_out",
    "layernorm_before": "ln1",
    "layernorm_after": "ln2",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
    "lambda_1": "ls1",
    "lambda_2": "ls2",
}


def internvl_vision(weights: FolderWeights, processor: Any) -> Plan:
    """The file of tower and projector."""
    config, vision = weights.config, weights.config.vision_config
    images = processor.image_processor
    size, patch = vision.image_size, vision.patch_size
    require(size[0] == size[1] and patch[0] == patch[1], weights, "its tiles or patches are no squares")
    require(vision.use_mean_pooling or not vision.use_mask_token, weights, "its tower masks patches")
    metadata = tower_metadata(
        weights,
        processor,
        "internvl",
        size=size[0],
        patch=patch[0],
        width=vision.hidden_size,
        inner=vision.intermediate_size,
        blocks=vision.num_hidden_layers,
        heads=vision.num_attention_heads,
        epsilon=float(vision.layer_norm_eps),
        activation=vision.hidden_act,
    )
    cut = images.crop_to_patches
    metadata |= {
        "clip.vision.projector.scale_factor": int(1 / config.downsample_ratio),
        "clip.vision.preproc_min_tiles": images.min_patches if cut else 1,
        "clip.vision.preproc_max_tiles": images.max_patches if cut else 1,
    }
    positions = weights.shape(f"{TOWER}embeddings.position_embeddings")[1:]
    width = (vision.hidden_size,)
    names = {
        f"{TOWER}embeddings.patch_embeddings.projection": "v.patch_embd",
        f"{PROJECTOR}layer_norm": "mm.model.mlp.0",
        f"{PROJECTOR}linear_1": "mm.model.mlp.1",
        f"{PROJECTOR}linear_2": "mm.model.mlp.3",
    }
    tensors = [
        Planned("v.class_embd", f"{TOWER}embeddings.cls_token", change=_flat, shape=width),
        Planned(
            "v.position_embd.weight",
            f"{TOWER}embeddings.position_embeddings",
            change=_table,
            shape=positions,
            full=True,
        ),
        *block_tensors(weights, f"{TOWER}encoder.layer.", BLOCK, vision.num_hidden_layers),
        *named(weights, names),
    ]
    return Plan("clip", metadata, tensors)


def _flat(token: Tensor) -> Tensor:
    return token.reshape(-1)


def _table(positions: Tensor) -> Tensor:
    """The rows of the patches, and after them the class token's."""
    return positions[0].roll(-1, 0)
