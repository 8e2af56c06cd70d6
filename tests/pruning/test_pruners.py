"""What each pruner chooses, against brute force; budgets, places and seeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bivlm.pruning import PRUNERS, Candidates, tokens_kept
from bivlm.pruning.attention import AttentionPruner
from bivlm.pruning.base import highest
from bivlm.pruning.diversity import DiversityPruner, cosine_distances, max_min
from bivlm.pruning.dropping.choose import choose
from bivlm.pruning.dropping.geometry import runs, shape_of, token_places
from bivlm.pruning.dropping.tower import token_means
from bivlm.pruning.grid import GridPruner, evenly_spaced, shared_out
from bivlm.pruning.joined import JoinedPruner
from bivlm.pruning.random import RandomPruner


def candidates(count, seed=0, shapes=None):
    generator = torch.Generator().manual_seed(seed)
    places = token_places(shapes or [shape_of(count)])
    return Candidates(
        torch.randn(count, 6, generator=generator), torch.rand(count, generator=generator), places, seed
    )


@pytest.mark.parametrize(
    ("count", "keep", "expected"),
    [(64, 0.5, 32), (64, 0.01, 1), (64, 0.14, 9), (3, 0.5, 2), (1, 0.2, 1), (0, 0.5, 0), (5, 1.0, 5)],
)
def test_budget(count, keep, expected):
    assert tokens_kept(count, keep) == expected


@given(st.sampled_from(sorted(PRUNERS)), st.integers(2, 40), st.integers(0, 1000), st.data())
@settings(deadline=None, max_examples=100)
def test_every_pruner_keeps_k_of_them_in_order_and_says_the_same_again(name, count, seed, data):
    k, seen = data.draw(st.integers(1, count - 1)), candidates(count, seed)
    kept = PRUNERS[name]().select(seen, k)
    assert kept.shape == (k,)
    assert bool((kept.diff() > 0).all())
    assert 0 <= int(kept[0]) <= int(kept[-1]) < count
    assert torch.equal(kept, PRUNERS[name]().select(seen, k))


def test_attention_keeps_the_most_looked_at_and_the_earlier_of_equals():
    assert highest(torch.tensor([0.2, 0.5, 0.2, 0.9]), 3).tolist() == [0, 1, 3]
    seen = candidates(20)
    kept = AttentionPruner().select(seen, 7)
    assert sorted(kept.tolist()) == sorted(np.argsort(-seen.scores.numpy())[:7].tolist())


def farthest_first(features, k, chosen=()):
    """Greedy max-min with plain loops."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    distance = 1 - unit @ unit.T
    chosen = list(chosen) or [
        max(range(len(unit)), key=lambda i: min(distance[i, j] for j in range(len(unit)) if j != i))
    ]
    while len(chosen) < k:
        rest = [i for i in range(len(unit)) if i not in chosen]
        chosen.append(max(rest, key=lambda i: min(distance[i, j] for j in chosen)))
    return sorted(chosen)


@pytest.mark.parametrize("k", [1, 2, 5, 11])
def test_diversity_and_joined_against_loops(k):
    seen = candidates(12, seed=k)
    features = seen.features.double().numpy()
    assert DiversityPruner().select(seen, k).tolist() == farthest_first(features, k)
    looked_at = np.argsort(-seen.scores.numpy())[: int(0.5 * k + 0.5)].tolist()
    assert JoinedPruner().select(seen, k).tolist() == farthest_first(features, k, looked_at)
    assert torch.equal(JoinedPruner(share=1.0).select(seen, k), AttentionPruner().select(seen, k))
    assert torch.equal(JoinedPruner(share=0.0).select(seen, k), DiversityPruner().select(seen, k))


def test_near_copies_are_kept_last():
    features = torch.tensor([[1.0, 0.0], [1.0, 1e-3], [0.0, 1.0], [1.0, 2e-3], [-1.0, 0.0]])
    assert 2 in max_min(cosine_distances(features), 3).tolist()
    assert len({0, 1, 3} & set(max_min(cosine_distances(features), 3).tolist())) == 1
    assert cosine_distances(torch.zeros(2, 3))[0, 1] == 1


@pytest.mark.parametrize("shape", [(8, 8), (4, 16), (24, 24), (1, 30)])
@pytest.mark.parametrize("share", [0.05, 0.25, 0.5])
def test_the_grid_is_even(shape, share):
    """In every window of a quarter of the image lies about a quarter of what is kept."""
    rows, columns = shape
    places = token_places([shape])[:, 1:]
    k = max(4, round(share * rows * columns))
    kept = places[evenly_spaced(places, k)]
    assert len(kept.unique(dim=0)) == k
    for axis, size in ((0, rows), (1, columns)):
        if size > 1:
            half = float((kept[:, axis] < size / 2).float().mean())
            assert abs(half - 0.5) <= 0.5 / k + 0.13, (shape, k, half)


def test_images_share_the_budget_by_their_sizes():
    assert shared_out([16, 16], 5) in ([3, 2], [2, 3])
    assert shared_out([90, 10], 10) == [9, 1]
    assert shared_out([3, 3, 3], 9) == [3, 3, 3]
    seen = candidates(32, shapes=[(4, 4), (4, 4)])
    assert int((GridPruner().select(seen, 8) < 16).sum()) == 4


def test_random_depends_on_seed_and_prompt_alone():
    one, other = candidates(30, seed=1), candidates(30, seed=2)
    assert not torch.equal(RandomPruner().select(one, 9), RandomPruner().select(other, 9))
    assert not torch.equal(RandomPruner(seed=0).select(one, 9), RandomPruner(seed=5).select(one, 9))


def test_places_and_runs():
    assert token_places([(1, 2), (2, 1)]).tolist() == [[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 1, 0]]
    assert token_places([]).shape == (0, 3)
    assert shape_of(49) == (7, 7)
    assert shape_of(10) == (1, 10)
    assert runs(torch.tensor([1, 1, 0, 1, 0, 0, 1]).bool()) == [2, 1, 1]
    assert runs(torch.zeros(3).bool()) == []


def test_each_prompt_has_its_own_budget_and_what_is_no_candidate_is_not_chosen():
    mask = torch.tensor([[0, 1, 1, 1, 1, 0], [0, 0, 0, 1, 0, 0]]).bool()
    received = torch.tensor([[9, 1, 4, 3, 2, 9], [9, 9, 9, 1, 9, 9]]).float()
    chosen = choose(
        AttentionPruner(),
        0.5,
        mask,
        torch.zeros(2, 6, 3),
        received,
        [token_places([(2, 2)]), token_places([(1, 1)])],
        [0, 0],
    )
    assert chosen.int().tolist() == [[0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 0, 0]]


def test_patches_of_a_token_are_averaged():
    values, tokens = torch.arange(10.0).view(1, 5, 2), torch.tensor([[-1, 1, 0, 1, 0]])
    assert token_means(values, tokens).tolist() == [[[6.0, 7.0], [4.0, 5.0]]]
