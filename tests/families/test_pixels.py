"""Bounds of an image's pixels in every processor's own way, and what is said where there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import transformers as T
from PIL import Image

from bivlm.errors import InputError
from bivlm.families.pixels import MOST, PixelBounds, bound_pixels, fitted
from tiny import MEMBERS, tiny_processor, tiny_samples
from tiny.kind import TILE

TEMPORAL = 2  # frames of which the patches of Qwen-VL and GLM-V consist; an image is repeated
# the image processor, a bound, the pixels of what it may add: an overview of the whole image
BOUNDED = [
    ("Qwen2VLImageProcessor", 300_000, 0),
    ("Glm4vImageProcessor", 300_000, 0),
    ("PaddleOCRVLImageProcessor", 300_000, 0),
    ("Gemma4ImageProcessor", 300_000, 0),
    ("Lfm2VlImageProcessor", 600_000, 512 * 512),
    ("Lfm2VlImageProcessor", 100_000, 0),
    ("Llama4ImageProcessor", 300_000, 336 * 336),
    ("Cohere2VisionImageProcessor", 600_000, 512 * 512),
    ("MiniCPMV4_6ImageProcessor", 600_000, 448 * 448),
    ("Molmo2ImageProcessor", 300_000, 378 * 378),
    ("MuseGlimmerImageProcessor", 300_000, 0),
    ("PixtralImageProcessor", 300_000, 0),
    ("Idefics2ImageProcessor", 300_000, 0),
    ("Idefics3ImageProcessor", 600_000, 364 * 364),
    ("LlavaNextImageProcessor", 302_000, 224 * 224),
    ("LlavaOnevisionImageProcessor", 600_000, 384 * 384),
    ("MllamaImageProcessor", 120_000, 0),
]


def photo(width: int = 950, height: int = 700) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@dataclass(eq=False)
class Processor:
    image_processor: Any


def processor_of(name: str, **settings: Any) -> Processor:
    return Processor(getattr(T, name)(**settings))


def pixels_read(processor: Any, image: Image.Image) -> float:
    """How many pixels of an image reach the model; empty tiles, which Mllama adds, do not count."""
    values = processor.image_processor(images=[fitted(processor, image)], return_tensors="pt")["pixel_values"]
    if values.ndim == 6:
        values = values[:, :, values.flatten(3).ne(0).any(-1)[0, 0]]
    repeated = TEMPORAL if values.shape[-1] % (3 * TEMPORAL) == 0 and values.ndim == 2 else 1
    return values.numel() / 3 / repeated


@pytest.mark.parametrize(("name", "most", "overview"), BOUNDED)
def test_no_image_has_more_pixels_than_the_bound(name: str, most: int, overview: int):
    image, processor = photo(), processor_of(name)
    free = pixels_read(processor, image)
    bound_pixels(processor, PixelBounds(most))
    assert pixels_read(processor, image) <= min(most + overview, free - 1)


@pytest.mark.parametrize(
    "name", ["LlavaNextImageProcessor", "LlavaOnevisionImageProcessor", "MllamaImageProcessor"]
)
def test_a_high_image_gets_a_high_grid(name: str):
    """The bound of the grids that are 1 x 2 and 2 x 1: a high image loses no more than a broad one."""
    most = 2 * 224 * 224 if name == "MllamaImageProcessor" else 302_000
    processor = processor_of(name)
    bound_pixels(processor, PixelBounds(most))
    broad, high = fitted(processor, photo(600, 300)), fitted(processor, photo(300, 600))
    assert high.size == broad.size[::-1]
    assert high.size[1] / high.size[0] == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize("name", ["Pix2StructImageProcessor", "Kosmos2_5ImageProcessor"])
def test_patches_are_bounded_though_the_processor_itself_gives_their_number(name: str):
    """Its own number, which it passes at every call, follows the image processor's."""
    processor = processor_of(name)
    processor.images_kwargs = {"max_patches": 4096, "return_tensors": "pt"}
    bound_pixels(processor, PixelBounds(300_000))
    given = processor.images_kwargs
    read = processor.image_processor(images=[photo()], **given)["flattened_patches"]
    assert read.shape[1] == given["max_patches"] == 300_000 // 16**2


@pytest.mark.parametrize(
    ("settings", "most", "crops", "side"),
    [
        ({}, 970_000, 1, 980),
        ({}, 300_000, 1, 490),
        ({"split_image": True, "max_image_size": 490}, 970_000, 4, 490),
        ({"split_image": True, "max_image_size": 490}, 300_000, 1, 490),
        ({"split_image": True}, 970_000, 1, 980),
        ({"split_image": True}, 300_000, 1, 490),
    ],
)
def test_aria_reads_fewer_and_smaller_crops(settings: dict[str, Any], most: int, crops: int, side: int):
    processor = processor_of("AriaImageProcessor", **settings)
    bound_pixels(processor, PixelBounds(most))
    read = processor.image_processor(images=[photo()], return_tensors="pt")["pixel_values"]
    assert read.shape == (crops, 3, side, side)


@pytest.mark.parametrize(("most", "windows"), [(1_100_000, 4), (600_000, 2), (254_016, 0)])
def test_step_reads_fewer_windows(most: int, windows: int):
    processor = processor_of("Step3p7ImageProcessor")
    bound_pixels(processor, PixelBounds(most))
    read = processor.image_processor(images=[fitted(processor, photo(1200, 900))], return_tensors="pt")
    assert read["num_local_patches"].tolist() == [windows]
    assert windows * 504**2 <= most
    small = photo(300, 290)
    assert fitted(processor, small) is small


def test_windows_that_no_size_makes_fewer_are_told():
    processor = processor_of("Step3p7ImageProcessor")
    bound_pixels(processor, PixelBounds(300_000))
    with pytest.raises(InputError, match="of 1400x700 is read in 2 windows of 254016 pixels at any size"):
        fitted(processor, photo(1400, 700))


@pytest.mark.parametrize("name", ["Qwen2VLImageProcessor", "Glm4vImageProcessor"])
def test_no_image_has_fewer_pixels_than_the_lower_bound(name: str):
    processor = processor_of(name)
    bound_pixels(processor, PixelBounds(least=200_000))
    assert pixels_read(processor, photo(100, 60)) >= 200_000


@pytest.mark.parametrize("name", [name for name, *_ in BOUNDED])
def test_without_bounds_a_processor_stays_as_it_is(name: str):
    processor = processor_of(name)
    before = processor.image_processor.to_json_string()
    bound_pixels(processor, PixelBounds())
    assert processor.image_processor.to_json_string() == before
    image = photo(20, 30)
    assert fitted(processor, image) is image


@pytest.mark.parametrize("name", ["CLIPImageProcessor", "SiglipImageProcessor", "Gemma3ImageProcessor"])
def test_one_size_for_all_images_takes_no_bound(name: str):
    with pytest.raises(
        InputError, match=r"makes every image the same size, of 50176 pixels; leave --max-pix"
    ):
        bound_pixels(processor_of(name), PixelBounds(60_000))


@pytest.mark.parametrize("name", ["PixtralImageProcessor", "LlavaNextImageProcessor", "CLIPImageProcessor"])
def test_what_has_no_lower_bound_takes_none(name: str):
    with pytest.raises(InputError, match="no lower bound of pixels; leave --min-pixels out"):
        bound_pixels(processor_of(name), PixelBounds(least=10))


@pytest.mark.parametrize(
    ("most", "least", "said"),
    [
        (0, None, "--max-pixels is 0; give a number of pixels from 1"),
        (MOST + 1, None, f"--max-pixels is {MOST + 1}"),
        (True, None, "--max-pixels is True"),
        (None, -1, "--min-pixels is -1"),
        (10, 11, "--min-pixels is 11 and --max-pixels is 10; give a lower minimum"),
    ],
)
def test_bounds_that_make_no_sense_are_named(most: Any, least: Any, said: str):
    with pytest.raises(InputError) as caught:
        PixelBounds(most, least)
    assert said in str(caught.value)


def test_a_bound_below_the_smallest_step_is_refused():
    with pytest.raises(InputError, match="--max-pixels is 100, and Processor reads 225792 at least"):
        bound_pixels(processor_of("LlavaNextImageProcessor"), PixelBounds(100))


def test_settings_of_a_stranger_do_not_fill_the_memory():
    """A bound of its own beyond MOST is lowered; one size beyond it is refused; without a size MOST holds."""
    huge = {"shortest_edge": 10**12, "longest_edge": 10**13}
    processor = processor_of("Qwen2VLImageProcessor", size=huge)
    bound_pixels(processor, PixelBounds())
    assert dict(processor.image_processor.size) == {"shortest_edge": MOST, "longest_edge": MOST}
    with pytest.raises(InputError, match="same size, of 100000000 pixels; correct its size"):
        bound_pixels(
            processor_of("SiglipImageProcessor", size={"height": 10_000, "width": 10_000}), PixelBounds()
        )
    unresized = processor_of("SiglipImageProcessor", do_resize=False)
    bound_pixels(unresized, PixelBounds())
    large = Image.new("L", (5000, 3400))
    assert np.prod(fitted(unresized, large).size) <= MOST


def test_a_record_of_bounds_is_read_back_and_others_are_refused():
    for bounds in (PixelBounds(), PixelBounds(9), PixelBounds(9, 3), PixelBounds(least=3)):
        assert PixelBounds.from_dict(bounds.to_dict()) == bounds
    for record in ([], {"max": 3}, {"max_pixels": "9"}, {"max_pixels": 1e6}, "x"):
        with pytest.raises(InputError):
            PixelBounds.from_dict(record)


@pytest.mark.parametrize("member", [one for one in MEMBERS if one.name in {"llava_next", "mllama"}], ids=str)
def test_a_model_that_knows_the_grids_reads_bounded_images(member: Any):
    """The number of visual tokens, which the model checks, fits the smaller grid."""
    processor = tiny_processor(member.name)
    bound_pixels(processor, PixelBounds(2 * TILE * TILE))
    sample = tiny_samples(3)[2]
    inputs = member.family.inputs(processor, [sample], [sample.images], member.config)
    assert member.logits(inputs).isfinite().all()
    assert inputs["pixel_values"].flatten(-3).ne(0).any(-1).sum() <= 3
