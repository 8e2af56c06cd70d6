"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: a tower for images of any size, whose patches are merged two by two.

The kernel of the patches covers two frames; llama.cpp has one for each, and adds up what they make of an
image.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from bivlm.exporting.plan import Plan, Planned, Value, require
from bivlm.exporting.towers import block_tensors, named, tower_metadata
from bivlm.exporting.weights import FolderWeights

TOWER = "model.visual."
COMMON = {"norm1": "ln1", "norm2": "ln2", "attn.proj": "attn_out"}
QWEN2 = {**COMMON, "mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down"}
QWEN2_5 = {**COMMON, "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
QWEN3 = {**COMMON, "attn.qkv": "attn_qkv", "mlp.linear_fc1": "ffn_up", "mlp.linear_fc2": "ffn_down"}
MERGER = {f"{TOWER}merger.ln_q": "v.post_ln", f"{TOWER}merger.mlp.0": "mm.0", f"{TOWER}merger.mlp.2": "mm.2"}
MERGER3 = {"norm": "v.post_ln", "linear_fc1": "mm.0", "linear_fc2": "mm.2"}
EPSILON = 1e-6  # of all norms in these towers, written in transformers' code
USUAL_SIZE = 560  # pixels; only for the memory that llama.cpp asks for at the start
WINDOW = 112  # pixels of Qwen2.5-VL's windows, written in llama.cpp's code


def qwen2_vision(weights: FolderWeights, processor: Any) -> Plan:
    vision = weights.config.vision_config
    inner = int(vision.embed_dim * vision.mlp_ratio)
    metadata = _metadata(weights, processor, "qwen2vl_merger", vision.embed_dim, inner)
    return Plan("clip", metadata, [*_patches(weights), *_split(weights, QWEN2), *named(weights, MERGER)])


def qwen2_5_vision(weights: FolderWeights, processor: Any) -> Plan:
    vision = weights.config.vision_config
    require(vision.window_size == WINDOW, weights, f"its windows have {vision.window_size} pixels")
    every = vision.fullatt_block_indexes[0] + 1
    seeing_all = [index for index in range(vision.depth) if (index + 1) % every == 0]
    same = [*vision.fullatt_block_indexes] == seeing_all
    require(same, weights, f"not every {every}th of its vision blocks alone sees everything")
    metadata = _metadata(weights, processor, "qwen2.5vl_merger", vision.hidden_size, vision.intermediate_size)
    metadata["clip.vision.n_wa_pattern"] = every
    return Plan("clip", metadata, [*_patches(weights), *_split(weights, QWEN2_5), *named(weights, MERGER)])


def qwen3_vision(weights: FolderWeights, processor: Any) -> Plan:
    vision = weights.config.vision_config
    metadata = _metadata(weights, processor, "qwen3vl_merger", vision.hidden_size, vision.intermediate_size)
    side = int(vision.num_position_embeddings**0.5)
    metadata["clip.vision.image_size"] = side * vision.patch_size
    features = {block: index for index, block in enumerate(vision.deepstack_visual_indexes)}
    metadata["clip.vision.is_deepstack_layers"] = [index in features for index in range(vision.depth)]
    names = {f"{TOWER}patch_embed.proj": "v.patch_embd", f"{TOWER}pos_embed": "v.position_embd"}
    names |= {f"{TOWER}merger.{module}": place for module, place in MERGER3.items()}
    for block, index in features.items():
        for module, place in (("norm", "norm"), ("linear_fc1", "fc1"), ("linear_fc2", "fc2")):
            names[f"{TOWER}deepstack_merger_list.{index}.{module}"] = f"v.deepstack.{block}.{place}"
    others = [one for one in named(weights, names) if one.name != "v.patch_embd.weight"]
    blocks = block_tensors(weights, f"{TOWER}blocks.", QWEN3, vision.depth)
    return Plan("clip", metadata, [*_patches(weights), *blocks, *others])


def _metadata(
    weights: FolderWeights, processor: Any, projector: str, width: int, inner: int
) -> dict[str, Value]:
    vision, images = weights.config.vision_config, processor.image_processor
    frames = vision.temporal_patch_size
    require(frames == 2, weights, f"its patches cover {frames} frames")
    require(vision.spatial_merge_size == 2, weights, f"it merges {vision.spatial_merge_size} patches a side")
    found = tower_metadata(
        weights,
        processor,
        projector,
        size=USUAL_SIZE,
        patch=vision.patch_size,
        width=width,
        inner=inner,
        blocks=vision.depth,
        heads=vision.num_heads,
        epsilon=EPSILON,
        activation=vision.hidden_act,
    )
    return found | {
        "clip.vision.spatial_merge_size": vision.spatial_merge_size,
        "clip.vision.image_min_pixels": images.size["shortest_edge"],
        "clip.vision.image_max_pixels": images.size["longest_edge"],
    }


def _patches(weights: FolderWeights) -> Iterator[Planned]:
    """The kernel of the patches: one for each of its two frames."""
    source = f"{TOWER}patch_embed.proj.weight"
    shape = weights.shape(source)
    if len(shape) == 5:
        shape = (*shape[:2], *shape[3:])
        yield Planned("v.patch_embd.weight", source, change=_frame(0), shape=shape)
        yield Planned("v.patch_embd.weight.1", source, change=_frame(1), shape=shape)


def _frame(index: int) -> Any:
    def one(kernel: Tensor) -> Tensor:
        return kernel[:, :, index].contiguous()

    return one


def _split(weights: FolderWeights, names: dict[str, str]) -> Iterator[Planned]:
    """The tensors of the blocks, with queries, keys and values apart."""
    depth = weights.config.vision_config.depth
    yield from block_tensors(weights, f"{TOWER}blocks.", names, depth)
    for index in range(depth):
        for ending in ("weight", "bias"):
            source = f"{TOWER}blocks.{index}.attn.qkv.{ending}"
            third = weights.shape(source)[0] // 3
            for place, kind in enumerate(("attn_q", "attn_k", "attn_v")):
                rows = torch.arange(place * third, (place + 1) * third, device="cpu")
                yield Planned(f"v.blk.{index}.{kind}.{ending}", source, rows)
