"""GLM-4.1V: a vision tower that takes images of any size, a convolution that folds 2 x 2 patches into one
token, a merger, and GLM-4 with three-axis rotary positions.

    patches of all images in one row ─► visual.blocks ─► visual.downsample (a convolution) ─► visual.merger
        ─► language_model ─► lm_head

GLM-4.5V has the same modules, with experts in all language blocks but the first; the router is no linear.

Gate and up of a language block are one linear, `mlp.gate_up_proj`.

Kept in full precision: the embeddings and `lm_head`, the patch embedding and `downsample` (convolutions) and
the position embedding, a table that is interpolated to the image's size.

GLM-V Team, GLM-4.1V-Thinking and GLM-4.5V, 2025.
"""

from __future__ import annotations

from dataclasses import replace

from bivlm.families.base import Family, Stack
from bivlm.families.qwen2_vl import QWEN2_VL

GLM4V = Family(
    model_type="glm4v",
    stacks=(
        Stack("vision", "model.visual.blocks"),
        Stack("projector", "model.visual.merger"),
        Stack("language", "model.language_model.layers"),
    ),
    full_precision=(
        "lm_head",
        "model.language_model.embed_tokens",
        "model.visual.embeddings.*",
        "model.visual.patch_embed.*",
        "model.visual.downsample",
    ),
    image_token_id=lambda config: config.image_token_id,
    mixes_videos=False,
    patch_tokens=QWEN2_VL.patch_tokens,
    token_grids=QWEN2_VL.token_grids,
)
GLM4V_MOE = replace(GLM4V, model_type="glm4v_moe")
