"""How the patches of a found family's tower become visual tokens: in one of three orders, which a few numbers
describe. What pruning in the tower needs follows from them, for images of any size.

    tiles    each row of the tower's sequences is an image or a tile; squares of `fold` x `fold` patches, row
             by row, become one token; the first `left_out` patches (a class token) become none
    images   one row holds all images one after the other; squares of patches, image by image, row by row
    groups   one row holds all images; the patches of a token are consecutive
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PretrainedConfig

from bivlm.errors import InputError
from bivlm.families.folding import of_images_in_a_row, of_square_tiles

Order = Literal["tiles", "images", "groups"]
ORDERS: tuple[Order, ...] = ("tiles", "images", "groups")


@dataclass(frozen=True)
class TokenGrids:
    """`Family.token_grids`: the input `name` has the height and width of each image, last in its rows, in
    units of which `unit` are a token; before them the number of frames, which are stacked vertically.
    """

    name: str
    unit: int

    def __call__(self, config: PretrainedConfig, inputs: Mapping[str, Tensor]) -> list[tuple[int, int]]:
        return self.of(inputs)

    def of(self, inputs: Mapping[str, Tensor]) -> list[tuple[int, int]]:
        """Rows and columns of each image's tokens. Raises InputError without the input."""
        if self.name not in inputs:
            raise InputError(f"the inputs have no {self.name}, which says how large the images are")
        grids = []
        for *frames, height, width in inputs[self.name].tolist():
            rows = height * (frames[0] if frames else 1)
            grids.append((rows // self.unit, width // self.unit))
        return grids

    def count(self, inputs: Mapping[str, Tensor]) -> int:
        """The number of all images' tokens."""
        return sum(rows * columns for rows, columns in self.of(inputs))


@dataclass(frozen=True)
class PatchTokens:
    """`Family.patch_tokens` in one of the orders. Raises InputError for sequences that it does not fit."""

    order: Order
    fold: int
    left_out: int = 0
    grids: TokenGrids | None = None

    def __call__(
        self, config: PretrainedConfig, inputs: Mapping[str, Tensor], rows: int, patches: int
    ) -> Tensor:
        found = self.tokens(inputs, rows, patches)
        if found is None:
            raise InputError(
                f"sequences of {rows} x {patches} patches in the vision tower do not become tokens in the way"
                f" that was found ({self.order} of {self.fold} x {self.fold} patches); use the site language"
            )
        return found

    def tokens(self, inputs: Mapping[str, Tensor], rows: int, patches: int) -> Tensor | None:
        """The same; None for sequences that it does not fit."""
        if self.order == "tiles":
            if self.fold == 1:
                return (
                    torch.arange(-self.left_out, patches - self.left_out).clamp_min(-1).expand(rows, patches)
                )
            side = isqrt(max(0, patches - self.left_out))
            fits = side**2 == patches - self.left_out and side % self.fold == 0
            return of_square_tiles(rows, patches, self.fold, self.left_out) if fits else None
        if self.order == "groups":
            fits = rows == 1 and patches % self.fold**2 == 0
            return (torch.arange(patches) // self.fold**2)[None] if fits else None
        if rows != 1 or self.grids is None:
            return None
        found = of_images_in_a_row(self.grids.of(inputs), self.fold)
        return found if found.shape[1] == patches else None


@dataclass(frozen=True)
class TowerOutputs:
    """`Family.tower_outputs`: the output of one block alone, counted from the last, which is 1."""

    from_end: int

    def __call__(self, config: PretrainedConfig, count: int) -> tuple[int, ...]:
        return (count - self.from_end,)


@dataclass(frozen=True)
class Patches:
    """What a family says about its patches: their tokens, and the block whose output is read."""

    tokens: PatchTokens
    outputs: TowerOutputs

    def declared(self) -> dict[str, Any]:
        """The arguments of a Family that say the same."""
        return {
            "patch_tokens": self.tokens,
            "token_grids": self.tokens.grids,
            "tower_outputs": self.outputs,
        }
