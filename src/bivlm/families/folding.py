"""Which visual token a patch of the vision tower becomes, where squares of patches become one token."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import torch
from torch import Tensor


def of_square_tiles(rows: int, patches: int, fold: int) -> Tensor:
    """(rows, patches), tokens numbered in each row: every row is a square tile, `fold` x `fold` neighbours
    become one token.
    """
    side = isqrt(patches)
    place = torch.arange(side) // fold
    return (place[:, None] * (side // fold) + place).flatten().expand(rows, patches)


def of_images_in_a_row(grids: Sequence[tuple[int, int]], fold: int) -> Tensor:
    """(1, patches): images of (rows, columns) of tokens, one after the other; the patches of an image are in
    the order of its rows, `fold` x `fold` of them become one token.
    """
    parts, before = [], 0
    for rows, columns in grids:
        row, column = torch.arange(rows * fold) // fold, torch.arange(columns * fold) // fold
        parts.append((row[:, None] * columns + column).flatten() + before)
        before += rows * columns
    return torch.cat(parts)[None]
