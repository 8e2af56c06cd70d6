"""Qwen2.5-VL: Qwen2-VL with windowed attention and a gated MLP in the vision tower.

Most vision blocks attend within windows, those in `fullatt_block_indexes` over the whole image: the same
blocks are called with other `cu_seqlens`. The patches are sorted by window before the first block and sorted
back after the merger, so the merger is the last thing that runs on them.

Kept in full precision: as in Qwen2-VL.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.vision_utils import get_vision_window_index

from bivlm.families.base import Family
from bivlm.families.qwen2_vl import QWEN2_VL


def patch_tokens(config: PretrainedConfig, inputs: Mapping[str, Tensor], rows: int, patches: int) -> Tensor:
    """The patches of a token are consecutive, and the tokens are in the order of their windows."""
    vision = config.vision_config
    order, _ = get_vision_window_index(
        inputs["image_grid_thw"], vision.spatial_merge_size, vision.window_size, vision.patch_size
    )
    return order.cpu()[torch.arange(patches) // vision.spatial_merge_size**2][None]


QWEN2_5_VL = Family(
    model_type="qwen2_5_vl",
    stacks=QWEN2_VL.stacks,
    full_precision=QWEN2_VL.full_precision,
    image_token_id=lambda config: config.image_token_id,
    prompt=QWEN2_VL.prompt,
    image_place=QWEN2_VL.image_place,
    patch_tokens=patch_tokens,
    token_grids=QWEN2_VL.token_grids,
)
