"""The forms in which processors hand an image to a model, drawn at random in the sizes of a config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from inspect import signature
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

PARTS = ("vision_config", "vq_config", "encoder", "vlm_config")
CHANNELS = 3
SIDES = (224, 384)  # of an image in pixels, where the config names no size that fits


def _drawn(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(5))


def _number(value: Any, default: int) -> int:
    """A size that may be given as (height, width)."""
    if isinstance(value, list | tuple) and value:
        value = value[0]
    if isinstance(value, dict):
        value = value.get("height", value.get("longest_edge"))
    return value if isinstance(value, int) and value > 0 else default


class Geometry:
    """The sizes that decide the shape of pixels: image, patch, patches per token (one direction), frames per
    patch.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        places = [config]
        while (inner := _vision(places[0])) is not None:
            places.insert(0, inner)

        def field(*names: str) -> Any:
            found = (getattr(place, name, None) for place in places for name in names)
            return next((value for value in found if value), None)

        self.patch = _number(field("patch_size", "model_patch_size"), 16)
        self.image = _number(field("image_size", "crop_size", "resolution", "max_image_size"), 224)
        self.fold = _number(
            field("spatial_merge_size", "merge_size", "pooling_kernel_size", "merge_kernel_size"), 2
        )
        self.frames = _number(field("temporal_patch_size", "patch_temporal"), 1)
        self.tiles = _number(field("max_num_tiles"), 4)
        self.patches = _number(field("num_patches"), 0)


def _vision(config: PretrainedConfig) -> PretrainedConfig | None:
    inner = (vars(config).get(name) for name in PARTS)
    return next((one for one in inner if isinstance(one, PretrainedConfig)), None)


def pixel_forms(model: Any) -> Iterator[dict[str, Any]]:
    """Pixels for the model's forward, in the most particular form that its arguments allow."""
    named = signature(model.forward).parameters
    make = next((one for names, one in FORMS if all(name in named for name in names)), None)
    if make is not None:
        yield from make(Geometry(model.config))


def _grid(size: Geometry) -> Iterator[dict[str, Any]]:
    """Patches in one row, cut from images of any size, with their numbers of frames, rows and columns."""
    for lines in (2, 4):
        side = lines * size.fold
        grid = torch.tensor([[1, side, side]])
        for frames in dict.fromkeys((size.frames, 1, 2)):
            flat = _drawn(side * side, CHANNELS * frames * size.patch**2)
            yield {"pixel_values": flat, "image_grid_thw": grid}
            yield {"pixel_values": flat[None], "image_grid_thw": grid}
        squares = _drawn(side * side, CHANNELS, size.patch, size.patch)
        yield {"pixel_values": squares, "image_grid_thw": grid}
        yield {"pixel_values": squares[None], "image_grid_thw": grid}


def _merged_grid(size: Geometry) -> Iterator[dict[str, Any]]:
    for form in _grid(size):
        yield {**form, "image_merge_sizes": torch.tensor([size.fold])}


def _shapes(size: Geometry) -> Iterator[dict[str, Any]]:
    """Padded patches with the rows and columns of each image."""
    side = 4 * size.fold
    yield {
        "pixel_values": _drawn(1, side * side, CHANNELS * size.patch**2),
        "spatial_shapes": torch.tensor([[side, side]]),
        "pixel_attention_mask": torch.ones(1, side * side, dtype=torch.long),
    }


def _positions(size: Geometry) -> Iterator[dict[str, Any]]:
    """Patches with their places."""
    for fold in (1, size.fold):  # patches, or what a token is made of
        side = 2 * size.fold if fold == 1 else 2
        rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        places = torch.stack([columns, rows], -1).reshape(1, -1, 2)
        width = CHANNELS * (size.patch * fold) ** 2
        yield {"pixel_values": _drawn(1, side * side, width), "image_position_ids": places}


def _strips(size: Geometry) -> Iterator[dict[str, Any]]:
    """The patches of an image side by side in one strip."""
    for side in (8, 16):
        yield {
            "pixel_values": _drawn(1, CHANNELS, size.patch, size.patch * side * side),
            "target_sizes": torch.tensor([[side, side]]),
        }


def _tiles(size: Geometry) -> Iterator[dict[str, Any]]:
    """Tiles of images, with the number of the tiles' arrangement."""
    yield {
        "pixel_values": _drawn(1, 1, size.tiles, CHANNELS, size.image, size.image),
        "aspect_ratio_mask": torch.ones(1, 1, size.tiles, dtype=torch.long),
        "aspect_ratio_ids": torch.full((1, 1), 6, dtype=torch.long),
    }


def _pooled(size: Geometry) -> Iterator[dict[str, Any]]:
    """Crops as rows of patches, with the patches that each token is pooled from."""
    side = size.image // size.patch
    places = torch.arange(side * side).view(side, side)[: side // 2 * 2, : side // 2 * 2]
    pooling = places.unfold(0, 2, 2).unfold(1, 2, 2).reshape(-1, 4)
    yield {
        "pixel_values": _drawn(1, side * side, CHANNELS * size.patch**2),
        "image_token_pooling": pooling,
        "image_grids": torch.tensor([[side // 2, side // 2, 0, 0]]),
        "image_num_crops": torch.tensor([1]),
    }


def _flattened(size: Geometry) -> Iterator[dict[str, Any]]:
    """Patches with their row and column in front."""
    rows, columns = torch.meshgrid(torch.arange(1, 5), torch.arange(1, 5), indexing="ij")
    places = torch.stack([rows, columns], -1).reshape(1, -1, 2).float()
    patches = _drawn(1, 16, CHANNELS * size.patch**2)
    yield {"flattened_patches": torch.cat([places, patches], -1)}


def _two_sizes(size: Geometry) -> Iterator[dict[str, Any]]:
    """The same image in two resolutions."""
    for large in (2 * size.image, 1024):
        yield {
            "pixel_values": _drawn(1, CHANNELS, size.image, size.image),
            "high_res_pixel_values": _drawn(1, CHANNELS, large, large),
        }


def _sized(size: Geometry) -> Iterator[dict[str, Any]]:
    """Whole images, or crops of them, with the size of the image."""
    for side in dict.fromkeys((min(size.image, 8 * size.patch * size.fold), size.image)):
        yield {"pixel_values": _drawn(1, CHANNELS, side, side), "image_sizes": torch.tensor([[side, side]])}
    for crops in (3, 2, 5):
        sizes = torch.tensor([[size.image, size.image]])
        yield {"pixel_values": _drawn(1, crops, CHANNELS, size.image, size.image), "image_sizes": sizes}


def _patches(size: Geometry) -> Iterator[dict[str, Any]]:
    """Flat patches that go straight into the language model."""
    yield {"image_patches": _drawn(1, 16, CHANNELS * size.patch**2)}
    yield {"pixel_values": _drawn(1, 16, CHANNELS * size.patch**2)}


def _images_of_video(size: Geometry) -> Iterator[dict[str, Any]]:
    yield {"pixel_values_images": _drawn(1, CHANNELS, size.image, size.image)}


def _whole(size: Geometry) -> Iterator[dict[str, Any]]:
    """Whole images; a list of images per prompt; images of frames."""
    for side in dict.fromkeys((size.image, *SIDES)):
        yield {"pixel_values": _drawn(1, CHANNELS, side, side)}
        yield {"pixel_values": _drawn(1, 1, CHANNELS, side, side)}


def two_sizes(form: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], float]]:
    """The pixels of two images of other shapes than a square, in the form of one that is a square; and the
    first one's share of them.
    """
    pixels, grid = form.get("pixel_values"), form.get("image_grid_thw")
    if pixels is None or grid is None:
        return
    side = int(grid[0, 1])
    grids = torch.tensor([[1, side, 2 * side], [1, 2 * side, 3 * side]])
    axis = pixels.ndim - (3 if pixels.ndim > 3 else 2)
    whole = [*pixels.shape]
    whole[axis] = 8 * side * side
    merged = {name: value.expand(2) for name, value in form.items() if name == "image_merge_sizes"}
    yield {**form, "pixel_values": _drawn(*whole), "image_grid_thw": grids, **merged}, 2 / 8


FORMS: tuple[tuple[tuple[str, ...], Any], ...] = (
    (("image_grid_thw", "image_merge_sizes"), _merged_grid),
    (("image_grid_thw",), _grid),
    (("spatial_shapes",), _shapes),
    (("image_position_ids",), _positions),
    (("target_sizes",), _strips),
    (("aspect_ratio_ids",), _tiles),
    (("image_token_pooling",), _pooled),
    (("flattened_patches",), _flattened),
    (("image_patches",), _patches),
    (("high_res_pixel_values",), _two_sizes),
    (("pixel_values_images",), _images_of_video),
    (("image_sizes", "pixel_values"), lambda size: chain(_sized(size), _whole(size))),
    (("pixel_values",), _whole),
)
