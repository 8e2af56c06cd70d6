"""Vision-only families: every linear has its place, and inputs are made of images, boxes and points."""

from dataclasses import replace
from fnmatch import fnmatchcase

import pytest
import torch
from PIL import Image

from bivlm.errors import InputError
from bivlm.families import FAMILIES, family_of
from bivlm.families.causal_lm import CAUSAL_LMS
from bivlm.families.linears import is_linear
from bivlm.families.marked import build_with_sizes, cast_pixels, whole_image
from bivlm.families.vision_only import VISION_ONLY, check_answers_questions
from bivlm.types import Marks, Sample
from tiny.vision import ALL, MASKS, marked_samples, seeing_model


def inputs_of(kind, sample):
    images = list(sample.visuals)
    return build_with_sizes(ALL[kind].processor(), family_of(kind), [sample], [images])[0]


def test_the_tables_are_apart_and_members_are_of_all_types():
    assert not VISION_ONLY.keys() & (FAMILIES.keys() | CAUSAL_LMS.keys())
    assert VISION_ONLY.keys() == ALL.keys()


@pytest.mark.parametrize("kind", ALL)
def test_every_linear_is_in_a_stack_or_kept_and_every_pattern_matches(kind):
    model, family = seeing_model(kind), family_of(kind)
    linears = {name for name, module in model.named_modules() if is_linear(module)}
    blocks = [path for stack in family.stacks for path in stack.block_paths(model)]
    inside = {name for name in linears if any(name.startswith(f"{block}.") for block in blocks)}
    kept = {name for name in linears if any(fnmatchcase(name, one) for one in family.full_precision)}
    assert linears == inside | kept
    assert not inside & kept
    assert all(any(fnmatchcase(name, one) for name in kept) for one in family.full_precision)


@pytest.mark.parametrize("kind", MASKS)
def test_boxes_and_points_scale_with_the_image(kind):
    """The image becomes 64 pixels wide, or 64 x 64 where both sides are stretched."""
    image = Image.new("RGB", (32, 16), "red")
    box = inputs_of(kind, Sample(image, "", marks=Marks(boxes=((4, 2, 16, 8),))))["input_boxes"]
    tall = 4 if kind == "sam2" else 2
    assert box.tolist() == [[[8.0, 2.0 * tall, 32.0, 8.0 * tall]]]
    marks = Marks(points=(((4, 2), (6, 4)),), labels=((1, 0),))
    tensors = inputs_of(kind, Sample(image, "", marks=marks))
    assert tensors["input_points"].tolist() == [[[[8.0, 2.0 * tall], [12.0, 4.0 * tall]]]]
    assert tensors["input_labels"].tolist() == [[[1, 0]]]


def test_pixels_alone_are_cast():
    cast = cast_pixels(inputs_of("sam", marked_samples(1)[0]), torch.bfloat16)
    assert cast["pixel_values"].dtype == torch.bfloat16
    assert cast["input_boxes"].dtype == torch.float32


@pytest.mark.parametrize("kind", ["sam", "dinov2"])
def test_an_image_of_one_pixel(kind):
    image = Image.new("RGB", (1, 1), "red")
    tensors = inputs_of(kind, Sample(image, "", marks=whole_image(image.size)))
    assert tensors["pixel_values"].isfinite().all()


@pytest.mark.parametrize(
    ("sample", "told"),
    [
        (Sample(Image.new("RGB", (8, 8)), "", origin="a:1"), r"a:1: a mask is asked for by boxes or points"),
        (
            Sample(Image.new("RGB", (8, 8)), "", marks=Marks(boxes=((9, 0, 12, 4),))),
            r"the box \[9, 0, 12, 4\] lies outside the image, which is 8 x 8",
        ),
        (
            Sample(Image.new("RGB", (8, 8)), "", marks=Marks(points=(((3, 9),),), labels=((1,),))),
            r"the point \[3, 9\] lies outside",
        ),
        (Sample(None, "", origin="a:1"), "it has 0 images"),
    ],
)
def test_what_no_mask_can_be_drawn_of(sample, told):
    with pytest.raises(InputError, match=told):
        inputs_of("sam", sample)


def test_masks_are_drawn_in_one_image_at_a_time():
    samples = marked_samples(2)
    with pytest.raises(InputError, match="one image at a time"):
        family_of("sam").inputs(ALL["sam"].processor(), samples, [one.image for one in samples])


def test_a_tower_takes_several_images_and_ignores_marks():
    samples = [replace(sample, marks=None) for sample in marked_samples(2)]
    inputs = family_of("dinov2").inputs(ALL["dinov2"].processor(), samples, [one.image for one in samples])
    assert inputs.keys() == {"pixel_values"}
    assert len(inputs["pixel_values"]) == 2


@pytest.mark.parametrize(("kind", "gives"), [("sam2", "masks"), ("vit", "features")])
def test_questions_are_refused_in_one_line(kind, gives):
    with pytest.raises(InputError, match=f"answers no questions; `bivlm eval` measures its {gives}"):
        check_answers_questions(family_of(kind))
    check_answers_questions(family_of("llava"))
    check_answers_questions(family_of("llama"))
