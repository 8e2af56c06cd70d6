"""The vision tower's part: patches and their tokens, windows that shrink, seeds of images."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bivlm.cutting import Kept
from bivlm.pruning.apply import prune
from bivlm.pruning.dropping.tower import Tower, token_means
from bivlm.types import Sample
from tiny import tiny_model, tiny_processor, tiny_samples


@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 8), st.integers(1, 4))
@settings(deadline=None, max_examples=60)
def test_means_over_the_patches_of_a_token(seed, rows, patches, tokens):
    rng = np.random.default_rng(seed)
    owners = rng.integers(-1, tokens, (rows, patches))
    owners[0, 0] = tokens - 1  # the highest number says how many tokens there are
    values = rng.normal(size=(rows, patches, 2)).astype(np.float32)
    expected = np.zeros((rows, tokens, 2))
    for row in range(rows):
        for token in range(tokens):
            members = [values[row, patch] for patch in range(patches) if owners[row, patch] == token]
            expected[row, token] = np.mean(members, axis=0) if members else 0
    found = token_means(torch.tensor(values), torch.tensor(owners))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_means_of_halves_are_taken_in_float32():
    found = token_means(
        torch.full((1, 4096, 1), 20.0, dtype=torch.float16), torch.zeros(1, 4096, dtype=torch.int64)
    )
    assert found.dtype == torch.float32
    assert found.item() == 20.0


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.data())
@settings(deadline=None, max_examples=60)
def test_windows_count_what_stays_in_them(sizes, data):
    """Edges 0, a, a + b, … of the windows; a window that loses all its patches is no window any more."""
    keep = data.draw(st.lists(st.booleans(), min_size=sum(sizes), max_size=sum(sizes)).filter(any))
    edges, left = [0], [0]
    for size in sizes:
        stay = sum(keep[edges[-1] : edges[-1] + size])
        edges.append(edges[-1] + size)
        if stay:
            left.append(left[-1] + stay)
    found = Kept.of(torch.tensor([keep])).lengths_left(torch.tensor(edges, dtype=torch.int32))
    assert found.dtype == torch.int32
    assert found.tolist() == left


def test_a_blocks_arguments_follow_the_patches():
    kept = Kept.of(torch.tensor([[True, False, False, False, True, True]]))
    table, mask = torch.arange(12.0).view(6, 2), torch.arange(36.0).view(1, 1, 6, 6)
    given_ = {
        "cu_seqlens": torch.tensor([0, 1, 4, 6]),
        "max_seqlen": 3,
        "position_embeddings": (table, -table),
        "attention_mask": mask,
        "other": 1,
    }
    cut = kept.patch_arguments(given_)
    assert cut["cu_seqlens"].tolist() == [0, 1, 3]
    assert cut["max_seqlen"] == 2
    assert cut["position_embeddings"][1].tolist() == [[0, -1], [-8, -9], [-10, -11]]
    assert cut["attention_mask"][0, 0].tolist() == [[0, 4, 5], [24, 28, 29], [30, 34, 35]]
    assert cut["other"] == 1
    assert given_["max_seqlen"] == 3
    assert kept.patch_arguments({"attention_mask": None}) == {"attention_mask": None}


@pytest.mark.parametrize(
    ("rows", "grids", "images"),
    [(2, None, [[0, 0, 0, 0], [1, 1, 1, 1]]), (1, [(1, 3), (1, 1)], [[0, 0, 0, 1]])],
)
def test_which_image_a_token_is_of(rows, grids, images):
    family = SimpleNamespace(token_grids=None if grids is None else lambda config, inputs: grids)
    tower = Tower.__new__(Tower)
    tower.owner = SimpleNamespace(family=family, model=SimpleNamespace(config=None))
    noted = SimpleNamespace(inputs={})
    found = tower.images(noted, torch.arange(4).expand(rows, 4))
    assert found.tolist() == images
    assert tower.shapes(noted, found) == (grids or [(2, 2), (2, 2)])


@pytest.mark.parametrize("kind", ["llava", "qwen2_5_vl"])
def test_lots_in_the_tower_depend_on_the_pictures_alone(kind):
    model, processor = tiny_model(kind), tiny_processor(kind)
    heard = []
    prune(model, "random:site=vision,layer=1,keep=0.4", on_decision=heard.append)
    one, other = tiny_samples(2)
    family = model._bivlm_pruning.family
    for image, question in (
        (one.image, one.question),
        (one.image, other.question),
        (other.image.resize(one.image.size), one.question),
    ):
        sample = Sample(image, question)
        with torch.inference_mode():
            model(**family.inputs(processor, [sample], [image], model.config))
    first, asked_otherwise, another = (decision.chosen[0].tolist() for decision in heard)
    assert first == asked_otherwise
    assert first != another
