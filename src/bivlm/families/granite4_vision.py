"""Granite 4 Vision: SigLIP on tiles, many small projectors, and Granite, which gets visual features before
several of its blocks.

    tiles ─► vision_tower ─┬─ hidden states named by deepstack_layer_map ─► layerwise_projectors (one each)
                           └─ the one of spatial_vision_layer ─► spatial_projectors (4: the corners of 2 x 2)
        ─► added at the visual tokens before the language blocks that the maps name ─► lm_head

A projector is a Q-Former on windows of patches: a few queries per window attend to its patches. The visual
tokens enter the language model as zeros; what the projectors give is added to them before the block that
deepstack_layer_map or spatial_target_layers names. Tiles are arranged as in LLaVA-NeXT: padding is cut off
and a learned vector ends each row.

Kept in full precision: as in LLaVA-1.5. The projectors' queries and positions, and the row-end vector, are
separate parameters, no linears.
"""

from __future__ import annotations

from bivlm.families.base import Family, Stack
from bivlm.families.llava import LLAVA

GRANITE4_VISION = Family(
    model_type="granite4_vision",
    stacks=(
        Stack("vision", "model.vision_tower.encoder.layers"),
        Stack("projector", "model.layerwise_projectors"),
        Stack("projector", "model.spatial_projectors"),
        Stack("language", "model.language_model.layers"),
    ),
    full_precision=LLAVA.full_precision,
    image_token_id=lambda config: config.image_token_id,
    vision_types=LLAVA.vision_types,
)
