"""The places of a prompt's visual tokens in their images: image or tile, row, column."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import torch
from torch import Tensor


def token_places(shapes: Sequence[tuple[int, int]]) -> Tensor:
    """Places of the tokens of several images of (rows, columns) tokens each, image by image, row by row: (n,
    3) float32.
    """
    parts = [
        torch.cartesian_prod(
            torch.tensor([image]).float(), torch.arange(rows).float(), torch.arange(columns).float()
        )
        for image, (rows, columns) in enumerate(shapes)
    ]
    return torch.cat(parts) if parts else torch.zeros(0, 3, dtype=torch.float32)


def shape_of(count: int) -> tuple[int, int]:
    """Rows and columns of `count` tokens without other information: a square if possible, else a single
    row.
    """
    side = isqrt(count)
    return (side, side) if side * side == count else (1, count)


def runs(mask: Tensor) -> list[int]:
    """Lengths of the runs of True in (n,), in order: the images of a prompt, unless they touch."""
    edges = torch.cat([mask.new_zeros(1), mask, mask.new_zeros(1)]).int().diff()
    return ((edges == -1).nonzero() - (edges == 1).nonzero())[:, 0].tolist()


def dealt(shapes: Sequence[tuple[int, int]], counts: Sequence[int]) -> list[list[tuple[int, int]]] | None:
    """The images of each prompt, from the (rows, columns) of all images in order and the number of visual
    tokens of each prompt; None if they do not add up.
    """
    remaining, found = list(shapes), []
    for count in counts:
        found.append([])
        while count > 0 and remaining:
            rows, columns = remaining.pop(0)
            found[-1].append((rows, columns))
            count -= rows * columns
        if count:
            return None
    return None if remaining else found
