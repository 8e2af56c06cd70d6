"""LFM2-VL: SigLIP 2 for images of any shape, a projector that folds 2 x 2 patches, and LFM2, whose blocks are
short convolutions and attention by turns.

    tiles and thumbnail, each a row of patches with its mask ─► vision_tower
        ─► multi_modal_projector: 2 x 2 (downsample_factor) neighbours side by side, two linears
        ─► visual tokens in place of <image> ─► language_model ─► lm_head

Images too large for one row become tiles and a thumbnail; each is a row of the tower, padded to the longest.
The model takes the neighbours out of the rows by their place before the projector, which sees the tokens of
all images as one row. A convolution block is `conv.in_proj`, a convolution over three tokens, and
`conv.out_proj`.

Kept in full precision: the embeddings and `lm_head`, the patch embedding (a linear on raw pixels) and the
position embedding of the tower, its pooling head where it has one (it is computed and never read), and the
convolutions, which are small.

Tokens cannot be dropped: the convolutions have no keys and values.
"""

from __future__ import annotations

from bivlm.families.base import Family, Stack
from bivlm.families.llava import LLAVA

LFM2_VL = Family(
    model_type="lfm2_vl",
    stacks=(
        Stack("vision", "model.vision_tower.encoder.layers"),
        Stack("projector", "model.multi_modal_projector"),
        Stack("language", "model.language_model.layers"),
    ),
    full_precision=LLAVA.full_precision,
    image_token_id=lambda config: config.image_token_id,
    vision_types=("siglip2_vision_model",),
)
