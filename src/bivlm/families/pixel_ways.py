"""The ways in which image processors bound pixels: one rule for each, tried in order."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from math import isqrt, prod
from typing import Any

from PIL import Image

from bivlm.errors import InputError

TILES = ("max_patches", "max_num_tiles", "max_crops", "max_slice_nums")  # of one size
COUNTS = (("shortest_edge", "longest_edge"), ("min_pixels", "max_pixels"))  # of pixels, both bounds
ARIA_SIDES = (490, 980)
Fit = Callable[[Image.Image], Image.Image]


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


def way_of(images: Any) -> Way | None:
    """The way of an image processor; None if it has none."""
    resizes = getattr(images, "do_resize", True)
    if not resizes and resizes is not None:
        return None
    size = dict(getattr(images, "size", None) or {})
    for rule in RULES if resizes else ALWAYS_RESIZING:
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
    frames = images.temporal_patch_size if counts_frames(images) else 1
    return Way(
        size[most] // frames,
        (getattr(images, "patch_size", 1) * getattr(images, "merge_size", 1)) ** 2,
        lambda bound: set_size(images, **{most: bound * frames}),
        lambda bound: set_size(images, **{least: bound * frames}),
        size[least] // frames,
    )


def set_size(images: Any, **changes: int) -> None:
    """Change some of an image processor's sizes."""
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


def _windows(images: Any, size: Mapping[str, int]) -> Way | None:
    """Step 3.7: windows of the image, as many as its size and shape ask for."""
    if not all(
        hasattr(images, name) for name in ("max_image_size", "vision_patch_size", "downsampler_stride")
    ):
        return None
    unit, overview = images.patch_size**2, size["height"]

    def set_most(bound: int) -> Fit:
        def fit(image: Image.Image) -> Image.Image:
            small = image
            while (count := images.get_number_of_image_patches(small.height, small.width)) * unit > bound:
                if max(small.size) <= overview:
                    raise InputError(
                        f"an image of {image.width}x{image.height} is read in {count} windows of {unit}"
                        f" pixels at any size, and --max-pixels is {bound}; give more, or cut the image"
                    )
                small = _scaled(image, 0.95 * small.width / image.width)
            return small

        return fit

    return Way(-((-images.max_image_size // images.patch_size) ** 2) * unit, unit, set_most)


def _crops(images: Any, size: Mapping[str, int]) -> Way | None:
    """Aria: squares of 490 or 980 pixels, several where it splits the image."""
    if not all(hasattr(images, name) for name in ("max_image_size", "split_image", "split_resolutions")):
        return None
    grids, own = list(images.split_resolutions), images.max_image_size

    def pixels(grid: Sequence[int], side: int) -> int:
        return prod(-(-edge // side) for edge in grid) * side**2

    def set_most(bound: int) -> None:
        side = images.max_image_size = max(one for one in ARIA_SIDES if one <= own and one**2 <= bound)
        allowed = [grid for grid in grids if pixels(grid, side) <= bound]
        images.split_image = images.split_image and bool(allowed)
        images.split_resolutions = allowed or grids

    most = max(pixels(grid, own) for grid in grids) if images.split_image else own**2
    return Way(most, ARIA_SIDES[0] ** 2, set_most)


def _edges(images: Any, size: Mapping[str, int]) -> Way | None:
    """The longest edge is bounded: at most a square of it. Tiles of an edge of their own stay whole."""
    longest = size.get("longest_edge")
    if not longest:
        return None
    tile = (dict(getattr(images, "max_image_size", None) or {})).get("longest_edge") or 1

    def set_most(bound: int) -> None:
        edge = isqrt(bound) // tile * tile
        set_size(images, longest_edge=edge)
        if size.get("shortest_edge", 0) > edge:
            set_size(images, shortest_edge=edge)

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
ALWAYS_RESIZING = (_patches, _windows, _crops)  # of processors without the setting do_resize


def within(image: Image.Image, most: int) -> Image.Image:
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


def counts_frames(images: Any) -> bool:
    """Whether a processor counts pixels over all frames, and not in each."""
    resize = getattr(sys.modules[type(images).__module__], "smart_resize", None)
    return resize is not None and "num_frames" in signature(resize).parameters
