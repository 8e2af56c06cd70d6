"""Llama-3.2-Vision: tiles through two vision transformers; the language model sees the image through
cross-attention alone.

    tiles ─► transformer ─ last output ─► global_transformer ─┐
                 └─ outputs of intermediate_layers_indices ───┴─► multi_modal_projector
        ─► keys and values of cross-attention

The prompt has no visual tokens: one `<|image|>` marks the position after which the text can attend to the
image. The language blocks named in `cross_attention_layers` have no self-attention. Their `cross_attn.k_proj`
and `cross_attn.v_proj` receive visual tokens alone, their queries text alone. Text-only prompts skip them.
Text before the first image attends to every image slot of the batch, empty ones too (transformers masks
nothing in such rows), so questions with different numbers of images do not share a batch.

Kept in full precision: the embeddings and `lm_head`, the patch embedding (a convolution), and the embeddings
of tile, aspect ratio and position with their gates. The projector is a lone linear and is quantized.
"""

from __future__ import annotations

from bivlm.families.base import Family, Stack

MLLAMA = Family(
    model_type="mllama",
    stacks=(
        Stack("vision", "model.vision_model.transformer.layers"),
        Stack("vision", "model.vision_model.global_transformer.layers"),
        Stack("projector", "model.multi_modal_projector"),
        Stack(
            "language",
            "model.language_model.layers",
            visual_linears=("cross_attn.k_proj", "cross_attn.v_proj"),
        ),
    ),
    full_precision=(
        "lm_head",
        "model.language_model.embed_tokens",
        "model.vision_model.patch_embedding",
        "model.vision_model.gated_positional_embedding",
        "model.vision_model.*_tile_positional_embedding",
    ),
    image_token_id=lambda config: None,
    prompt="{image}{bos}{question}",
    mixed_batches=False,
)
