"""Tiny vision-only models: three that draw masks, and towers alone; with their processors, checkpoints, and
pictures of rectangles with boxes around them and their true masks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as T
from PIL import Image, ImageDraw

from bivlm.families import family_of
from bivlm.types import Marks, Sample

SIDE = 64
ENCODER = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIDE, "patch_size": 8,
    "mlp_dim": 96, "output_channels": 64, "window_size": 4, "global_attn_indexes": [1], "num_pos_feats": 32,
}  # fmt: skip
DECODER = {
    "hidden_size": 64, "mlp_dim": 96, "num_attention_heads": 2, "iou_head_hidden_dim": 64,
    "num_hidden_layers": 2,
}  # fmt: skip
PROMPT = {"hidden_size": 64, "image_size": SIDE, "patch_size": 8, "mask_input_channels": 8}
HIERA = {
    "hidden_size": 32, "image_size": [SIDE, SIDE], "embed_dim_per_stage": [32, 64, 96, 128],
    "blocks_per_stage": [1, 1, 2, 1], "num_attention_heads_per_stage": [1, 2, 3, 4],
    "window_size_per_stage": [4, 2, 4, 2], "global_attention_blocks": [3],
    "window_positional_embedding_background_size": [4, 4],
}  # fmt: skip
SAM2_ENCODER = {
    "backbone_config": {"model_type": "sam2_hiera_det_model", **HIERA},
    "backbone_channel_list": [128, 96, 64, 32], "fpn_hidden_size": 64,
    "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
}  # fmt: skip
TOWER = {
    "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
    "intermediate_size": 96,
}  # fmt: skip


@dataclass(frozen=True)
class Seeing:
    """A tiny vision-only model: its config, and its image processor."""

    config: Callable[[], T.PretrainedConfig]
    processor: Callable[[], Any]


def _sam_images() -> Any:
    square = {"height": SIDE, "width": SIDE}
    return T.SamImageProcessor(size={"longest_edge": SIDE}, pad_size=square)


def _tower(**more: Any) -> Callable[[], Any]:
    return lambda: T.ViTImageProcessor(size={"height": 32, "width": 32}, **more)


ALL: dict[str, Seeing] = {
    "sam": Seeing(
        lambda: T.SamConfig(vision_config=ENCODER, mask_decoder_config=DECODER, prompt_encoder_config=PROMPT),
        lambda: T.SamProcessor(_sam_images()),
    ),
    "sam_hq": Seeing(
        lambda: T.SamHQConfig(
            vision_config=ENCODER,
            mask_decoder_config={**DECODER, "vit_dim": 64},
            prompt_encoder_config=PROMPT,
        ),
        lambda: T.SamHQProcessor(_sam_images()),
    ),
    "sam2": Seeing(
        lambda: T.Sam2Config(
            vision_config=SAM2_ENCODER,
            mask_decoder_config=DECODER,
            prompt_encoder_config={**PROMPT, "patch_size": 16},
        ),
        lambda: T.Sam2Processor(T.Sam2ImageProcessor(size={"height": SIDE, "width": SIDE})),
    ),
    "dinov2": Seeing(lambda: T.Dinov2Config(**{**TOWER, "mlp_ratio": 2}), _tower()),
    "dinov2_with_registers": Seeing(
        lambda: T.Dinov2WithRegistersConfig(**{**TOWER, "mlp_ratio": 2}), _tower()
    ),
    "dinov3_vit": Seeing(lambda: T.DINOv3ViTConfig(**TOWER), _tower()),
    "siglip_vision_model": Seeing(lambda: T.SiglipVisionConfig(**TOWER), _tower()),
    "clip_vision_model": Seeing(lambda: T.CLIPVisionConfig(**TOWER), _tower()),
    "vit": Seeing(lambda: T.ViTConfig(**TOWER), _tower()),
}
MASKS = ("sam", "sam_hq", "sam2")


def seeing_model(kind: str, dtype: torch.dtype = torch.float32) -> Any:
    """The model with seeded weights: linears of unit variance, so that each shows in what comes out."""
    torch.manual_seed(7)
    config = ALL[kind].config()
    model = family_of(config).auto_model.from_config(config)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=module.in_features**-0.5)
    return model.to(dtype).eval()


def seeing_checkpoint(kind: str, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Model and processor as `save_pretrained` writes them. Returns the folder."""
    seeing_model(kind, dtype).save_pretrained(folder)
    ALL[kind].processor().save_pretrained(folder)
    return folder


def marked_samples(count: int = 4, size: tuple[int, int] = (48, 40)) -> list[Sample]:
    """Pictures of one bright rectangle on grey, with its box and its true mask."""
    found = []
    for number in range(count):
        image, mask = Image.new("RGB", size, (60, 70, 80)), Image.new("L", size, 0)
        box = (4 + 3 * number, 5 + 2 * number, 24 + 3 * number, 22 + 2 * number)
        ImageDraw.Draw(image).rectangle(box, fill=(200, 40 * number, 90))
        ImageDraw.Draw(mask).rectangle(box, fill=255)
        marks = Marks(boxes=(tuple(map(float, box)),), masks=(mask,))
        found.append(Sample(image, "", origin=f"picture {number}", marks=marks))
    return found
