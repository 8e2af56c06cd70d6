"""Budgets, ranks, prompts one by one, places: by their definitions, for all sizes."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from itertools import groupby

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bivlm.pruning import Pruner, tokens_kept
from bivlm.pruning.base import highest
from bivlm.pruning.diversity import max_min
from bivlm.pruning.dropping.choose import choose
from bivlm.pruning.dropping.geometry import runs, shape_of, token_places
from bivlm.pruning.dropping.language import last_real, line


@given(st.integers(1, 3000), st.integers(1, 64))
@settings(deadline=None, max_examples=100)
def test_a_budget_is_rounded_half_up_and_never_nothing(count, parts):
    """Shares of 1/64 are exact in binary: there is no other rounding to blame."""
    exact = int((Decimal(count) * parts / 64).quantize(Decimal(1), ROUND_HALF_UP))
    assert tokens_kept(count, parts / 64) == max(1, exact)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.data())
@settings(deadline=None, max_examples=80)
def test_of_equal_scores_the_earlier_is_kept(scores, data):
    k = data.draw(st.integers(0, len(scores)))
    expected = sorted(sorted(range(len(scores)), key=lambda place: (-scores[place], place))[:k])
    assert highest(torch.tensor(scores, dtype=torch.float32), k).tolist() == expected


class Noted(Pruner):
    """Keeps the first ones and remembers what it was shown."""

    name = "noted"

    def __init__(self):
        self.seen = []

    def select(self, candidates, k):
        self.seen.append(candidates)
        return torch.arange(k)


def test_a_pruner_is_shown_the_candidates_alone():
    """Row 0 has four, row 1 none, row 2 one (all of it: nobody is asked)."""
    mask = torch.tensor([[0, 1, 1, 0, 1, 1], [0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]]).bool()
    features, scores = torch.arange(36.0).view(3, 6, 2), torch.arange(18.0).view(3, 6)
    places = [token_places([(2, 2)]), token_places([]), token_places([(1, 1)])]
    pruner = Noted()
    chosen = choose(pruner, 0.5, mask, features, scores, places, [7, 8, 9])
    assert chosen.int().tolist() == [[0, 1, 1, 0, 0, 0], [0] * 6, [1, 0, 0, 0, 0, 0]]
    assert mask[0].int().tolist() == [0, 1, 1, 0, 1, 1], "the caller's mask stays as it was"
    (seen,) = pruner.seen
    assert torch.equal(seen.features, features[0, [1, 2, 4, 5]])
    assert seen.scores.tolist() == [1, 2, 4, 5]
    assert torch.equal(seen.places, places[0])
    assert seen.seed == 7


def test_without_scores_there_are_none_and_prompts_must_match():
    pruner, mask = Noted(), torch.ones(1, 4, dtype=torch.bool)
    choose(pruner, 0.5, mask, torch.zeros(1, 4, 2), None, [token_places([(2, 2)])], [0])
    assert pruner.seen[0].scores is None
    with pytest.raises(ValueError, match="zip"):
        choose(pruner, 0.5, mask, torch.zeros(1, 4, 2), None, [token_places([(2, 2)])], [0, 1])


def by_brute_force(distances, k, chosen):
    """Each next row has the largest distance to its nearest chosen one; of equals the earlier."""
    kept = list(chosen)
    if not kept:
        kept = [
            max(
                range(len(distances)),
                key=lambda i: (min(d for j, d in enumerate(distances[i]) if j != i), -i),
            )
        ]
    while len(kept) < k:
        rest = [i for i in range(len(distances)) if i not in kept]
        kept.append(max(rest, key=lambda i: (min(distances[i][j] for j in kept), -i)))
    return sorted(kept)


@given(st.integers(2, 8), st.data())
@settings(deadline=None, max_examples=80)
def test_max_min_is_greedy_even_among_equals(count, data):
    """Distances are small integers, so ties are many; rows that are chosen already stay."""
    upper = data.draw(st.lists(st.integers(0, 3), min_size=count * count, max_size=count * count))
    square = torch.tensor(upper, dtype=torch.float32).view(count, count).triu(1)
    distances = square + square.T
    k = data.draw(st.integers(1, count))
    chosen = data.draw(st.lists(st.integers(0, count - 1), unique=True, max_size=k))
    before = distances.clone()
    found = max_min(distances, k, torch.tensor(chosen, dtype=torch.int64))
    assert found.tolist() == by_brute_force(distances.tolist(), k, chosen)
    assert torch.equal(distances, before)


@given(st.lists(st.booleans(), max_size=20))
@settings(deadline=None, max_examples=60)
def test_runs_are_the_groups_of_true(mask):
    assert runs(torch.tensor(mask, dtype=torch.bool)) == [
        len(list(group)) for value, group in groupby(mask) if value
    ]


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), max_size=4))
@settings(deadline=None, max_examples=40)
def test_places_run_through_rows_and_images(shapes):
    expected = [
        [image, row, column]
        for image, (rows, columns) in enumerate(shapes)
        for row in range(rows)
        for column in range(columns)
    ]
    assert token_places(shapes).tolist() == expected


@pytest.mark.parametrize(
    ("count", "shape"), [(1, (1, 1)), (2, (1, 2)), (576, (24, 24)), (575, (1, 575)), (2**52, (2**26, 2**26))]
)
def test_a_square_where_it_is_one(count, shape):
    assert shape_of(count) == shape


def test_the_last_token_that_is_no_padding():
    real = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0]]).bool()
    assert last_real(real).tolist() == [3, 1, 3, 1]
    assert line(3).tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 2]]
