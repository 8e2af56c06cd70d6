"""Qwen2-VL: a vision tower that takes images of any size, a merger, and Qwen2 with three-axis rotary positions.

    patches of all images in one row ─► visual.blocks ─► visual.merger (2 x 2 patches become one token) ─► language_model ─► lm_head

The patches of a batch share one sequence, cut by `cu_seqlens`; query, key and value of a vision block are one linear, `attn.qkv`.

Kept in full precision: the embeddings and `lm_head`, and the patch embedding, a convolution over space and time.
"""

from __future__ import annotations

from bivlm.families.base import Family, Stack

QWEN2_VL = Family(
    model_type="qwen2_vl",
    stacks=(
        Stack("vision", "model.visual.blocks"),
        Stack("projector", "model.visual.merger"),
        Stack("language", "model.language_model.layers"),
    ),
    keep=("lm_head", "model.language_model.embed_tokens", "model.visual.patch_embed.*"),
    image_token_id=lambda config: config.image_token_id,
    prompt=(
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|>{image}<|vision_end|>{question}<|im_end|>\n<|im_start|>assistant\n"
    ),
)
