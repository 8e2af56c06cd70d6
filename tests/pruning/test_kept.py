"""Cutting a sequence to the tokens that stay, against the plain definition; and the cache that remembers what it holds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from bivlm.errors import InputError
from bivlm.pruning.cache import PrunedLayer, cache_bytes, kept_in, make_pruned
from bivlm.pruning.kept import Kept

keeps = st.integers(1, 3).flatmap(
    lambda rows: st.integers(1, 7).flatmap(
        lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n).filter(any), min_size=rows, max_size=rows)
    )
)


@given(keeps)
@settings(deadline=None, max_examples=80)
def test_every_kept_token_goes_on_and_filler_is_marked(rows):
    keep = torch.tensor(rows)
    kept = Kept.of(keep)
    most = int(keep.sum(1).max())
    assert kept.index.shape == (len(rows), most)
    for row, index in enumerate(kept.index):
        assert bool((index.diff() > 0).all())
        real = torch.ones(most, dtype=torch.bool) if kept.real is None else kept.real[row]
        assert torch.equal(index[real], keep[row].nonzero()[:, 0])
    assert (kept.real is None) == bool((keep.sum(1) == most).all())


@given(keeps, st.sampled_from(["none", "boolean", "added"]), st.integers(0, 2))
@settings(deadline=None, max_examples=120)
def test_a_mask_is_cut_as_its_definition_says(rows, kind, behind):
    """Prefill (no past): entry (a, b) of the cut mask is that of the tokens at a and b; filler is seen by itself alone."""
    keep = torch.tensor(rows)
    kept, length = Kept.of(keep), keep.shape[1] + behind
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    mask = None if kind == "none" else causal[None, None].expand(len(rows), 1, length, length)
    if kind == "added":
        mask = torch.where(mask, 0.0, torch.finfo(torch.float32).min)
    cut = kept.attention_mask(mask, length, 0)
    if cut is None:
        assert kind == "none"
        assert kept.real is None
        return
    allowed = cut if cut.dtype == torch.bool else cut == 0
    grown = kept.grown(length)
    for row, index in enumerate(grown.index):
        for a, place in enumerate(index.tolist()):
            for b, other in enumerate(index.tolist()):
                hidden = grown.real is not None and not grown.real[row, b] and a != b
                assert bool(allowed[row, 0, a, b]) == (bool(causal[place, other]) and not hidden)


@given(keeps, st.booleans())
@settings(deadline=None, max_examples=60)
def test_a_generated_token_sees_what_was_kept_and_what_came_behind(rows, masked):
    keep = torch.tensor(rows)
    kept, past = Kept.of(keep), keep.shape[1] + 1
    mask = torch.ones(len(rows), 1, 1, past + 1, dtype=torch.bool) if masked else None
    cut = kept.attention_mask(mask, 1, past)
    if cut is None:
        assert kept.real is None
        return
    for row in range(len(rows)):
        expected = [True if kept.real is None else bool(kept.real[row, place]) for place in range(kept.index.shape[1])] + [True, True]
        assert cut[row, 0, 0].tolist() == expected


def test_a_flash_mask_is_cut_too():
    kept = Kept.of(torch.tensor([[True, False, True], [False, False, True]]))
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]])
    assert kept.attention_mask(mask, 1, 3).tolist() == [[1, 1, 1], [0, 1, 1]]


def test_positions_and_tables_follow():
    kept = Kept.of(torch.tensor([[True, False, True, True], [False, True, True, True]]))
    table = torch.arange(4.0)[None, :, None].expand(1, 4, 2)
    arguments = {"position_embeddings": (table, -table), "position_ids": torch.arange(4)[None], "other": 7}
    cut = kept.call_arguments(arguments, 4, 0)
    assert cut["position_ids"].tolist() == [[0, 2, 3], [1, 2, 3]]
    assert cut["position_embeddings"][1][:, :, 0].tolist() == [[0, -2, -3], [-1, -2, -3]]
    assert cut["other"] == 7
    assert kept.call_arguments(arguments, 1, 4)["position_ids"] is arguments["position_ids"], "tokens behind the prompt keep theirs"


def test_the_cache_counts_the_prompt_and_holds_what_stays():
    kept, cache = Kept.of(torch.tensor([[True, False, False, True]])), DynamicCache()
    make_pruned(cache, 1, kept)
    assert kept_in(cache, 1) is None, "empty: nothing was cut yet"
    cache.update(torch.zeros(1, 2, 4, 8), torch.zeros(1, 2, 4, 8), 0)
    cache.update(torch.zeros(1, 2, 2, 8), torch.zeros(1, 2, 2, 8), 1)
    assert [cache.get_seq_length(layer) for layer in (0, 1)] == [4, 4]
    assert cache.get_mask_sizes(1, 1) == (5, 0)
    assert kept_in(cache, 1) is kept
    assert kept_in(cache, 0) is None
    cache.update(torch.zeros(1, 2, 1, 8), torch.zeros(1, 2, 1, 8), 1)
    assert cache.get_seq_length(1) == 5
    assert cache_bytes(cache) == 2 * 4 * 2 * 8 * (4 + 3)
    assert isinstance(cache.layers[1], PrunedLayer)


def test_other_caches_are_refused():
    cache = DynamicCache()
    cache.layers.append(object())
    with pytest.raises(InputError, match="dynamic cache of full attention, and layer 0 has a object"):
        make_pruned(cache, 0, Kept.of(torch.ones(1, 2, dtype=torch.bool)))
