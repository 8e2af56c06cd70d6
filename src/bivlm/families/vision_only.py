"""Models that see and do not speak: models that draw masks, and vision towers alone.

    image ─► vision encoder ─► features                                        a tower
    image ─► vision encoder ─► embedding ─┐
    boxes, points ─► prompt encoder ──────┴─► mask decoder ─► masks, scores     SAM, SAM-HQ, SAM 2

There is no prompt of words and no image token, and nothing is generated. The fused query, key and value of
SAM's encoders are one linear like any other. SAM 2 has blocks of several widths in one list.

Of a model that draws masks, the blocks of the two-way transformer in the mask decoder are the part
"projector": they are what joins the image and the marks. Kept in full precision: the last attention of the
decoder, the small networks that make the masks and the scores (a few rows each), and all convolutions. Of
towers: pooling heads.
"""

from __future__ import annotations

from bivlm.errors import InputError
from bivlm.families.base import Family, Stack

_SMALL = (
    "mask_decoder.transformer.final_attn_token_to_image.*",
    "mask_decoder.output_hypernetworks_mlps.*",
    "mask_decoder.iou_prediction_head.*",
)
MASKS: dict[str, tuple[str, tuple[str, ...]]] = {  # the encoder's blocks; what else stays
    "sam": ("vision_encoder.layers", ()),
    "sam_hq": ("vision_encoder.layers", ("mask_decoder.hq_mask_mlp.*",)),
    "sam2": ("vision_encoder.backbone.blocks", ("mask_decoder.pred_obj_score_head.*",)),
}
TOWERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "clip_vision_model": ("encoder.layers", ()),
    "dinov2": ("encoder.layer", ()),
    "dinov2_with_registers": ("encoder.layer", ()),
    "dinov3_vit": ("model.layer", ()),
    "siglip_vision_model": ("encoder.layers", ("head.*",)),
    "vit": ("layers", ("pooler.dense",)),
}


def mask_model(model_type: str) -> Family:
    """The family of a model that draws masks, which transformers knows by `model_type`."""
    path, more = MASKS[model_type]
    return Family(
        model_type=model_type,
        stacks=(Stack("vision", path), Stack("projector", "mask_decoder.transformer.layers")),
        full_precision=(*_SMALL, *more),
        image_token_id=lambda config: None,
        auto_class="AutoModelForMaskGeneration",
    )


def tower(model_type: str) -> Family:
    """The family of a vision tower alone, which transformers knows by `model_type`."""
    path, kept = TOWERS[model_type]
    return Family(
        model_type=model_type,
        stacks=(Stack("vision", path),),
        full_precision=kept,
        image_token_id=lambda config: None,
        auto_class="AutoModel",
    )


VISION_ONLY: dict[str, Family] = {
    **{model_type: mask_model(model_type) for model_type in MASKS},
    **{model_type: tower(model_type) for model_type in TOWERS},
}


def check_answers_questions(family: Family) -> None:
    """InputError for a model that answers no questions: what to use instead."""
    if family.answers:
        return
    gives = "masks" if family.draws_masks else "features"
    raise InputError(
        f"a {family.model_type} model answers no questions; `bivlm eval` measures its {gives}, and in Python"
        f" bivlm.load gives the model and its processor"
    )
