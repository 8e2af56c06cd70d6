"""How many pixels of an image a model reads: bounds that are given, or one that keeps the memory safe.

Image processors count pixels in many ways. `bound_pixels` sets a bound in the processor's own way:

    pixels           Qwen-VL, GLM-V, PaddleOCR-VL, …      shortest_edge and longest_edge, numbers of pixels
    tiles            InternVL, Aya, Llama 4, MiniCPM-V, … how many tiles there are at most
    patches, tokens  Gemma 4, LFM2-VL, Kimi, …            how many of these there are at most
    longest edge     Idefics, SmolVLM, Pixtral            the square of it
    grids            LLaVA-NeXT, -OneVision, Mllama       the model knows them: the image is made smaller
    none             LLaVA-1.5, PaliGemma, Gemma 3        every image gets the same size: refused

Bounds hold up to whole patches; an overview of the whole image, which some add to its tiles, does not count.
A processor of another kind gets images that are small enough already. Where nothing is given, MOST bounds
what has no bound of its own.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from inspect import signature
from math import isqrt
from typing import Any
from weakref import WeakKeyDictionary

from PIL import Image

from bivlm.errors import InputError, cut

logger = logging.getLogger(__name__)

MOST = 4096 * 4096  # the largest bound that a processor of transformers has by itself
TILES = ("max_patches", "max_num_tiles", "max_crops", "max_slice_nums")  # of one size
COUNTS = (("shortest_edge", "longest_edge"), ("min_pixels", "max_pixels"))  # of pixels, both bounds
Fit = Callable[[Image.Image], Image.Image]
_FITS: WeakKeyDictionary[Any, Fit] = WeakKeyDictionary()  # what images go through before a processor


@dataclass(frozen=True)
class PixelBounds:
    """Bounds of an image's pixels as the model reads it; None leaves them to the processor. Raises InputError
    for bounds that contradict each other.
    """

    most: int | None = None
    least: int | None = None

    def __post_init__(self) -> None:
        for option, value in (("--max-pixels", self.most), ("--min-pixels", self.least)):
            if value is not None and (type(value) is not int or not 1 <= value <= MOST):
                raise InputError(f"{option} is {value!r}; give a number of pixels from 1 to {MOST}")
        if self.most is not None and self.least is not None and self.least > self.most:
            raise InputError(
                f"--min-pixels is {self.least} and --max-pixels is {self.most}; give a lower minimum"
            )

    def __bool__(self) -> bool:
        return self.most is not None or self.least is not None

    def to_dict(self) -> dict[str, int]:
        """Ready for JSON; only what is given."""
        found = {"max_pixels": self.most, "min_pixels": self.least}
        return {name: value for name, value in found.items() if value is not None}

    @classmethod
    def from_dict(cls, record: Any) -> PixelBounds:
        """The bounds that `to_dict` gave. Raises InputError for anything else."""
        if not isinstance(record, Mapping) or not set(record) <= {"max_pixels", "min_pixels"}:
            raise InputError(f"the record of pixels is {cut(repr(record))}; needs max_pixels and min_pixels")
        return cls(record.get("max_pixels"), record.get("min_pixels"))


UNBOUNDED = PixelBounds()


@dataclass(frozen=True)
class Way:
    """How an image processor bounds pixels. `own` is its bound as it is, `smallest` the lowest that makes
    sense for it. `set_most` sets a bound; it returns what images must go through, if that is the way.
    `set_least` sets a lower bound, if there is one; `own_least` is its own.
    """

    own: int
    smallest: int
    set_most: Callable[[int], Fit | None]
    set_least: Callable[[int], object] | None = None
    own_least: int = 0


def bound_pixels(processor: Any, bounds: PixelBounds) -> None:
    """Bound the pixels of every image that `processor` reads, after its own resizing. Without an upper bound,
    MOST is that of a processor that has none, or a higher one.

    Raises InputError for bounds that the processor does not have, and for a processor of one size of more
    than MOST pixels.
    """
    name, way = type(processor).__name__, _way(processor.image_processor)
    if bounds.least is not None and (way is None or way.set_least is None):
        raise InputError(f"{name} has no lower bound of pixels; leave --min-pixels out")
    if way is None:
        _FITS[processor] = partial(_within, most=bounds.most or MOST)
        if bounds.most is not None:
            logger.warning("%s has no bound of pixels: images are made smaller before it", name)
        return
    if not bounds and max(way.own, way.own_least) <= MOST:
        return
    if way.smallest == way.own:
        advice = "leave --max-pixels out" if bounds else "correct its size in its settings"
        raise InputError(f"{name} makes every image the same size, of {way.own} pixels; {advice}")
    most = min(way.own, MOST) if bounds.most is None else bounds.most
    if most < way.smallest:
        given = f"--max-pixels is {most}" if bounds.most else f"at most {MOST} pixels of an image are read"
        advice = "give more" if bounds.most else "correct its settings"
        raise InputError(f"{given}, and {name} reads {way.smallest} at least; {advice}")
    fit = way.set_most(most)
    if fit is not None:
        _FITS[processor] = fit
    if way.set_least is not None:
        way.set_least(min(way.own_least if bounds.least is None else bounds.least, most))


def fitted(processor: Any, image: Image.Image) -> Image.Image:
    """The image as it is given to `processor`: smaller where that is the way of its bound."""
    fit = _FITS.get(processor)
    return image if fit is None else fit(image)


def _way(images: Any) -> Way | None:
    """The way of an image processor; None if it has none."""
    if not getattr(images, "do_resize", True):
        return None
    size = dict(getattr(images, "size", None) or {})
    for rule in RULES:
        way = rule(images, size)
        if way is not None:
            return way
    return None


def _counted(images: Any, size: Mapping[str, int]) -> Way | None:
    """Both bounds are numbers of pixels. GLM-V counts an image's pixels once for every frame of a patch."""
    resize = getattr(sys.modules[type(images).__module__], "smart_resize", None)
    names = next((names for names in COUNTS if all(size.get(name) for name in names)), None)
    if names is None or resize is None:
        return None
    least, most = names
    frames = images.temporal_patch_size if "num_frames" in signature(resize).parameters else 1
    return Way(
        size[most] // frames,
        (getattr(images, "patch_size", 1) * getattr(images, "merge_size", 1)) ** 2,
        lambda bound: _resize(images, **{most: bound * frames}),
        lambda bound: _resize(images, **{least: bound * frames}),
        size[least] // frames,
    )


def _resize(images: Any, **changes: int) -> None:
    images.size = type(images.size)(**{**dict(images.size), **changes})


def _soft_tokens(images: Any, size: Mapping[str, int]) -> Way | None:
    """Gemma 4: one of a few numbers of tokens, of 3 x 3 patches each."""
    module = sys.modules[type(images).__module__]
    counts = getattr(module, "_SUPPORTED_SOFT_TOKENS", None)
    if counts is None or not hasattr(images, "max_soft_tokens"):
        return None
    unit = (images.patch_size * images.pooling_kernel_size) ** 2

    def set_most(bound: int) -> None:
        images.max_soft_tokens = max(count for count in counts if count * unit <= bound)

    return Way(images.max_soft_tokens * unit, min(counts) * unit, set_most)


def _merged_patches(images: Any, size: Mapping[str, int]) -> Way | None:
    """Tokens of some patches each, of which there are at most some."""
    if not all(hasattr(images, name) for name in ("max_image_tokens", "merge_size", "patch_size")):
        return None
    unit = (images.patch_size * images.merge_size) ** 2
    return Way(
        images.max_image_tokens * unit,
        unit,
        lambda bound: setattr(images, "max_image_tokens", bound // unit),
    )


def _tokens(images: Any, size: Mapping[str, int]) -> Way | None:
    """LFM2-VL: one image of some tokens, or several tiles if it is larger."""
    if not all(hasattr(images, name) for name in ("max_image_tokens", "max_tiles", "downsample_factor")):
        return None
    unit, tile = (images.encoder_patch_size * images.downsample_factor) ** 2, images.tile_size**2

    def set_most(bound: int) -> None:
        images.max_tiles = bound // tile
        images.do_image_splitting = images.do_image_splitting and images.max_tiles > 1
        images.min_tiles = min(images.min_tiles, max(images.max_tiles, 1))
        images.max_image_tokens = min(images.max_image_tokens, bound // unit)
        images.min_image_tokens = min(images.min_image_tokens, images.max_image_tokens)

    own = max(images.max_tiles * tile if images.do_image_splitting else 0, images.max_image_tokens * unit)
    return Way(own, unit, set_most)


def _tiles(images: Any, size: Mapping[str, int]) -> Way | None:
    """Tiles of one size, of which there are at most some."""
    name = next((name for name in TILES if isinstance(getattr(images, name, None), int)), None)
    side = getattr(images, "scale_resolution", None)
    unit = side**2 if side else size.get("height", 0) * size.get("width", 0)
    if name is None or not unit:
        return None

    def set_most(bound: int) -> None:
        setattr(images, name, bound // unit)
        if hasattr(images, "min_patches"):
            images.min_patches = min(images.min_patches, bound // unit)

    return Way(getattr(images, name) * unit, unit, set_most)


def _patches(images: Any, size: Mapping[str, int]) -> Way | None:
    """Patches, of which there are at most some."""
    name = next((name for name in ("max_patches", "max_num_patches") if getattr(images, name, None)), None)
    patch = getattr(images, "patch_size", None)
    if name is None or patch is None:
        return None
    unit = patch**2 if isinstance(patch, int) else patch["height"] * patch["width"]
    return Way(getattr(images, name) * unit, unit, lambda bound: setattr(images, name, bound // unit))


def _pinpoints(images: Any, size: Mapping[str, int]) -> Way | None:
    """Grids of tiles that the model knows too (it cuts the padding off by them): an image is made so small
    that the processor takes one within the bound.
    """
    grids = [tuple(grid) for grid in getattr(images, "image_grid_pinpoints", None) or ()]
    if not grids:
        return None

    def set_most(bound: int) -> Fit:
        allowed = [(height, width) for height, width in grids if height * width <= bound]

        def fit(image: Image.Image) -> Image.Image:
            # imports torchvision where one is installed, also one that does not go with torch
            from transformers.image_processing_utils import select_best_resolution

            height, width = select_best_resolution((image.height, image.width), allowed)
            return _inside(image, width, height)

        return fit

    sizes = [height * width for height, width in grids]
    return Way(max(sizes), min(sizes), set_most)


def _canvases(images: Any, size: Mapping[str, int]) -> Way | None:
    """Mllama: canvases of up to some tiles, which the model numbers; as for grids."""
    count = getattr(images, "max_image_tiles", None)
    if count is None:
        return None
    tile = (size["width"], size["height"])
    shapes = [(columns, rows) for columns in range(1, count + 1) for rows in range(1, count // columns + 1)]
    unit = tile[0] * tile[1]

    def set_most(bound: int) -> Fit:
        allowed = [
            (columns * tile[0], rows * tile[1]) for columns, rows in shapes if columns * rows * unit <= bound
        ]

        def fit(image: Image.Image) -> Image.Image:
            best = max(allowed, key=lambda canvas: min(canvas[0] / image.width, canvas[1] / image.height))
            return _inside(image, *best)

        return fit

    return Way(count * unit, unit, set_most)


def _edges(images: Any, size: Mapping[str, int]) -> Way | None:
    """The longest edge is bounded: at most a square of it. Tiles of an edge of their own stay whole."""
    longest = size.get("longest_edge")
    if not longest:
        return None
    tile = (dict(getattr(images, "max_image_size", None) or {})).get("longest_edge") or 1

    def set_most(bound: int) -> None:
        edge = isqrt(bound) // tile * tile
        _resize(images, longest_edge=edge)
        if size.get("shortest_edge", 0) > edge:
            _resize(images, shortest_edge=edge)

    return Way(longest**2, tile**2, set_most)


def _fixed(images: Any, size: Mapping[str, int]) -> Way | None:
    """One size for all images."""
    final = dict(images.crop_size) if getattr(images, "do_center_crop", False) else size
    if not final.get("height") or not final.get("width"):
        return None
    pixels = final["height"] * final["width"]
    return Way(pixels, pixels, lambda bound: None)


RULES = (
    _counted,
    _soft_tokens,
    _merged_patches,
    _tokens,
    _tiles,
    _patches,
    _pinpoints,
    _canvases,
    _edges,
    _fixed,
)


def _within(image: Image.Image, most: int) -> Image.Image:
    """The image, made smaller if it has more pixels than `most`."""
    if image.width * image.height <= most:
        return image
    scale = (most / (image.width * image.height)) ** 0.5
    return _scaled(image, scale)


def _inside(image: Image.Image, width: int, height: int) -> Image.Image:
    """The image, made smaller if it is larger than `width` x `height`."""
    return _scaled(image, min(1.0, width / image.width, height / image.height))


def _scaled(image: Image.Image, scale: float) -> Image.Image:
    if scale >= 1:
        return image
    width, height = (max(1, int(edge * scale)) for edge in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)
