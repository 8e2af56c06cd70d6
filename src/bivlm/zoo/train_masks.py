"""Trains a small model that draws masks: a SAM of a million parameters, on rendered shapes.

    python -m bivlm.zoo.train_masks OUT      ten minutes on one core; the same seed gives the same weights

The architecture is transformers' own `SamModel`: a vision transformer (64 x 64 pixels in patches of 8, four
blocks, the second and the last with global attention), SAM's prompt encoder and two-way mask decoder, all
from scratch. A scene has two shapes on a shaded ground, one of which may lie over the other; the model gets a
box around each, a little off, and learns its visible part: cross-entropy and Dice of the mask, and the square
error of the predicted IoU. It is made to measure packing on, and not shipped.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import transformers
import typer
from PIL import Image, ImageDraw
from rich.progress import track
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

from bivlm.types import Marks, Sample

SIDE, PATCH, WIDTH, JOINT = 64, 8, 128, 64  # pixels, pixels, the encoder's width, the decoder's
OBJECTS = 2
LEAST = 40  # visible pixels of an object
BATCH, RATE, WARMUP = 8, 1e-3, 40
HELD_OUT = 1_000_000  # the first seed of scenes that are not trained on

Box = tuple[float, float, float, float]


def scene(seed: int) -> tuple[Image.Image, list[Box], list[Image.Image]]:
    """A scene, the boxes around the visible parts of its shapes, and their true masks; the same for the same
    seed.
    """
    draw = np.random.default_rng(seed)
    while True:
        ground = draw.uniform(40, 215, (1, 1, 3)) + draw.uniform(-25, 25, (2, 2, 3))
        shaded = Image.fromarray(ground.clip(0, 255).astype(np.uint8)).resize(
            (SIDE, SIDE), Image.Resampling.BILINEAR
        )
        noisy = np.asarray(shaded) + draw.normal(0, 6, (SIDE, SIDE, 3))
        image, masks = Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), list[np.ndarray]()
        for _ in range(OBJECTS):
            shape = Image.new("L", (SIDE, SIDE), 0)
            _draw_shape(ImageDraw.Draw(shape), draw)
            image.paste(tuple(int(one) for one in draw.integers(0, 256, 3)), mask=shape)
            own = np.asarray(shape) > 0
            masks = [*(mask & ~own for mask in masks), own]
        if all(mask.sum() >= LEAST for mask in masks):
            return image, [_box_around(mask) for mask in masks], [Image.fromarray(mask) for mask in masks]


def _draw_shape(canvas: ImageDraw.ImageDraw, draw: np.random.Generator) -> None:
    """A rectangle, an ellipse or a triangle, white."""
    width, height = (int(one) for one in draw.integers(12, 36, 2))
    x, y = int(draw.integers(0, SIDE - width)), int(draw.integers(0, SIDE - height))
    kind = int(draw.integers(3))
    if kind == 0:
        canvas.rectangle((x, y, x + width, y + height), fill=255)
    elif kind == 1:
        canvas.ellipse((x, y, x + width, y + height), fill=255)
    else:
        canvas.polygon([(x, y + height), (x + width, y + height), (x + width // 2, y)], fill=255)


def _box_around(mask: np.ndarray) -> Box:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def mask_samples(count: int, seed: int = HELD_OUT) -> list[Sample]:
    """Scenes as samples, with boxes and true masks."""
    found = []
    for number in range(count):
        image, boxes, masks = scene(seed + number)
        marks = Marks(boxes=tuple(boxes), masks=tuple(mask.convert("L") for mask in masks))
        found.append(Sample(image, "", origin=f"scene {seed + number}", marks=marks))
    return found


def build_model() -> transformers.SamModel:
    """The model with new weights."""
    encoder = {
        "hidden_size": WIDTH, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": SIDE,
        "patch_size": PATCH, "mlp_dim": 4 * WIDTH, "output_channels": JOINT, "window_size": 4,
        "global_attn_indexes": [1, 3], "num_pos_feats": JOINT // 2,
    }  # fmt: skip
    decoder = {
        "hidden_size": JOINT, "mlp_dim": 4 * JOINT, "num_attention_heads": 4, "iou_head_hidden_dim": JOINT,
    }  # fmt: skip
    prompt = {"hidden_size": JOINT, "image_size": SIDE, "patch_size": PATCH, "mask_input_channels": 8}
    config = transformers.SamConfig(
        vision_config=encoder, mask_decoder_config=decoder, prompt_encoder_config=prompt
    )
    model = transformers.SamModel(config)
    # transformers draws the frequencies of places with a deviation of half the encoder's width, which leaves
    # places next to each other nothing in common; SAM's own code draws them with a deviation of 1
    model.shared_image_embedding.positional_embedding.data.normal_()
    return model


def build_processor() -> transformers.SamProcessor:
    """Pixels as they are, 64 x 64."""
    square = {"height": SIDE, "width": SIDE}
    return transformers.SamProcessor(
        transformers.SamImageProcessorPil(size={"longest_edge": SIDE}, pad_size=square)
    )


def _batch(seed: int, processor: transformers.SamProcessor) -> tuple[dict[str, Tensor], Tensor]:
    """The inputs of BATCH scenes, and their true masks (n, objects, height, width)."""
    scenes = [scene(seed * BATCH + number) for number in range(BATCH)]
    jitter = np.random.default_rng(seed).uniform(-1.5, 1.5, (BATCH, OBJECTS, 4))
    boxes = np.asarray([own for _, own, _ in scenes]) + jitter
    pixels = processor.image_processor([image for image, _, _ in scenes], return_tensors="pt")["pixel_values"]
    truth = torch.from_numpy(np.stack([np.stack([np.asarray(mask) for mask in own]) for _, _, own in scenes]))
    return {"pixel_values": pixels, "input_boxes": torch.from_numpy(boxes).float()}, truth.float()


def _loss(output: Any, truth: Tensor) -> Tensor:
    """Cross-entropy, Dice, and the square error of the predicted IoU, of what the model returns."""
    logits = interpolate(output.pred_masks[:, :, 0], size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    chances = logits.sigmoid().flatten(2)
    own = truth.flatten(2)
    both = (chances * own).sum(-1)
    dice = 1 - (2 * both + 1) / (chances.sum(-1) + own.sum(-1) + 1)
    hard = (logits.detach() > 0).float().flatten(2)
    joint = (hard * own).sum(-1)
    iou = joint / (hard + own - hard * own).sum(-1).clamp(min=1)
    entropy = binary_cross_entropy_with_logits(logits, truth)
    return entropy + dice.mean() + 0.1 * (output.iou_scores[..., 0] - iou).square().mean()


def train(out: Path, steps: int = 2000, seed: int = 0) -> float:
    """Train and write the folder; returns the loss of the last fiftieth of the steps."""
    torch.manual_seed(seed)
    model, processor = build_model().train(), build_processor()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * step / steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    losses: list[float] = []
    for step in track(range(steps), description="training"):
        inputs, truth = _batch(step, processor)
        loss = _loss(model(**inputs, multimask_output=False), truth)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    model.eval().save_pretrained(out)
    processor.save_pretrained(out)
    last = losses[-max(1, steps // 50) :]
    mean = sum(last) / len(last)
    (out / "training.json").write_text(
        json.dumps({"steps": steps, "seed": seed, "loss": mean}, indent=2) + "\n"
    )
    return mean


def main(
    out: Annotated[Path, typer.Argument(help="folder for the model")],
    steps: Annotated[int, typer.Option(min=1)] = 2000,
    seed: int = 0,
) -> None:
    """Train the small mask model."""
    torch.set_num_threads(1)
    print(f"loss {train(out, steps, seed):.4f}")


if __name__ == "__main__":
    typer.run(main)
