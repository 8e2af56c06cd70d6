"""Which visual token a patch of the vision tower becomes, where squares of patches become one token."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import torch
from torch import Tensor


def of_square_tiles(rows: int, patches: int, fold: int, left_out: int = 0) -> Tensor:
    """(rows, patches), tokens numbered in each row: every row is a square tile after the first `left_out`
    patches, which become none; `fold` x `fold` neighbours become one token.
    """
    side = isqrt(patches - left_out)
    place = torch.arange(side) // fold
    tokens = (place[:, None] * (side // fold) + place).flatten()
    return torch.cat([torch.full((left_out,), -1), tokens]).expand(rows, patches)


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
