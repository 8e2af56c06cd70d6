"""From an image, and for a mask the boxes or points in it, to the arguments of a vision-only model's
`forward`.

    Sample.image ─ image processor ─► pixel_values
    Sample.marks ─ the same scaling ─► input_boxes (1, objects, 4), or input_points (1, objects, points, 2)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from bivlm.errors import InputError
from bivlm.families.processors import refusals_named
from bivlm.families.prompts import name_of, names_of
from bivlm.types import Clip, Marks, Sample

if TYPE_CHECKING:
    from bivlm.families.base import Family

SIZES = ("original_sizes", "reshaped_input_sizes")  # what `post_process_masks` asks for, in its order
Sizes = dict[str, Any]


def build(
    processor: Any, family: Family, samples: Sequence[Sample], visuals: Sequence[Sequence[Image.Image | Clip]]
) -> dict[str, Tensor]:
    """The implementation of `Family.inputs`: one image a sample, and one sample at a time where masks are
    drawn.
    """
    return build_with_sizes(processor, family, samples, visuals)[0]


def build_with_sizes(
    processor: Any, family: Family, samples: Sequence[Sample], visuals: Sequence[Sequence[Image.Image | Clip]]
) -> tuple[dict[str, Tensor], Sizes]:
    """The model's inputs; and of a model that draws masks the sizes of the image, before and after the
    processor, for `post_process_masks`.

    Raises InputError, naming the sample, for anything but one image, for a mask that is asked for without
    boxes or points, and for marks outside the image.
    """
    images = [_image(sample, own) for sample, own in zip(samples, visuals, strict=True)]
    marks: dict[str, Any] = {}
    if family.draws_masks:
        if len(samples) != 1:
            raise InputError(f"{names_of(samples)}: masks are drawn in one image at a time; give one")
        marks = _arguments(samples[0], images[0])
    with refusals_named(names_of(samples)):
        batch = processor(images=images, do_convert_rgb=True, return_tensors="pt", **marks)
    accepted = family.arguments
    inputs = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in batch.items()
        if name in accepted
    }
    return inputs, {name: batch[name] for name in SIZES if name in batch}


def cast_pixels(inputs: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The inputs with pixels in the model's dtype. Boxes and points stay as exact as they are: the model
    casts them itself, after it has divided them by the image's size.
    """
    return {name: tensor.to(dtype) if name == "pixel_values" else tensor for name, tensor in inputs.items()}


def whole_image(size: tuple[int, int]) -> Marks:
    """A box around the whole of an image of this (width, height)."""
    return Marks(boxes=((0.0, 0.0, float(size[0]), float(size[1])),))


def _image(sample: Sample, opened: Sequence[Image.Image | Clip]) -> Image.Image:
    if len(opened) != 1 or not isinstance(opened[0], Image.Image):
        what = "a video" if any(isinstance(one, Clip) for one in opened) else f"{len(opened)} images"
        raise InputError(f"{name_of(sample)}: it has {what}, and this model sees one image; give one")
    return opened[0]


def _arguments(sample: Sample, image: Image.Image) -> dict[str, Any]:
    """Boxes or points as arguments of SAM's processors: nested lists by image, object and point."""
    marks = sample.marks
    if marks is None:
        raise InputError(
            f"{name_of(sample)}: a mask is asked for by boxes or points, and it has none; give the field"
            ' "boxes" ([[x0, y0, x1, y1], …]) or "points" ([[x, y], …], or a list of them for each object)'
        )
    width, height = image.size
    for x0, y0, x1, y1 in marks.boxes:
        if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
            raise _outside(sample, f"the box [{x0:g}, {y0:g}, {x1:g}, {y1:g}]", image)
    for x, y in (point for own in marks.points for point in own):
        if not (0 <= x <= width and 0 <= y <= height):
            raise _outside(sample, f"the point [{x:g}, {y:g}]", image)
    if marks.boxes:
        return {"input_boxes": [[list(box) for box in marks.boxes]]}
    return {
        "input_points": [[[list(point) for point in own] for own in marks.points]],
        "input_labels": [[list(own) for own in marks.labels]],
    }


def _outside(sample: Sample, what: str, image: Image.Image) -> InputError:
    return InputError(
        f"{name_of(sample)}: {what} lies outside the image, which is {image.width} x {image.height} pixels;"
        " coordinates are pixels of the image as it is stored, upright"
    )
