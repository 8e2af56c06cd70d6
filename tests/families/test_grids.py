"""Rows and columns of an image's tokens, against the tokens in the prompt and the shape of the picture."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from tiny import MEMBERS, each, tiny_samples

BY_NAME = {member.name: member for member in MEMBERS}
WITH_GRIDS = [member.name for member in MEMBERS if member.family.token_grids is not None]


@cache
def asked(kind: str) -> dict[str, Any]:
    return BY_NAME[kind].ask(0, 1, 2)


@pytest.mark.parametrize("kind", each(WITH_GRIDS))
def test_grids_hold_the_tokens_of_the_prompts_and_have_the_pictures_shapes(kind: str) -> None:
    member, inputs = BY_NAME[kind], asked(kind)
    assert member.family.token_grids is not None
    grids = member.family.token_grids(member.config, inputs)
    assert sum(rows * columns for rows, columns in grids) == int(member.visual(inputs).sum())
    if len(grids) > 3:
        return  # the grids of the tiles that images are cut into
    assert [rows * columns for rows, columns in grids] == member.visual(inputs).sum(1).tolist()
    for (rows, columns), sample in zip(grids, tiny_samples(3), strict=True):
        assert not isinstance(sample.image, str)
        width, height = sample.image.size
        assert (rows > columns) == (height > width) or rows == columns
    assert any(rows != columns for rows, columns in grids)


@pytest.mark.parametrize(
    "kind", each(name for name in WITH_GRIDS if BY_NAME[name].family.patch_tokens is not None)
)
def test_patches_of_a_packed_sequence_become_the_tokens_of_their_images(kind: str) -> None:
    """Every token of every image has the same number of patches, and the images come one after the other."""
    member, inputs = BY_NAME[kind], asked(kind)
    assert member.family.patch_tokens is not None
    assert member.family.token_grids is not None
    tokens = sum(rows * columns for rows, columns in member.family.token_grids(member.config, inputs))
    fold = getattr(member.config.vision_config, "spatial_merge_size", None) or getattr(
        member.config, "spatial_merge_size", 1
    )
    (found,) = member.family.patch_tokens(member.config, inputs, 1, tokens * fold**2)
    assert torch.equal(found.bincount(), torch.full((tokens,), fold**2))
