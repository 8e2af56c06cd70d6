"""Cutting a sequence to the tokens that stay, against the plain definition; and the cache that remembers what
it holds.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from bivlm.cutting import Kept, hidden_and_named, token_axes
from bivlm.errors import InputError
from bivlm.pruning.dropping.cache import PrunedLayer, cache_bytes, hold_all_tokens, kept_in, make_pruned

keeps = st.integers(1, 3).flatmap(
    lambda rows: st.integers(1, 7).flatmap(
        lambda n: st.lists(
            st.lists(st.booleans(), min_size=n, max_size=n).filter(any), min_size=rows, max_size=rows
        )
    )
)


@given(keeps)
@settings(deadline=None, max_examples=40)
def test_what_is_put_back_is_in_its_place_among_zeros(rows):
    kept = Kept.of(torch.tensor(rows))
    whole = torch.arange(1.0, torch.tensor(rows).numel() * 2 + 1).view(len(rows), -1, 2)
    there = torch.zeros(len(rows), kept.length, dtype=torch.bool).scatter(1, kept.index, True)
    found = kept.put_back(kept.take(whole, 1))
    assert torch.equal(found, whole * there[..., None])


def test_arguments_by_place_get_their_names():
    class Block(torch.nn.Module):
        def forward(self, hidden_states, attention_mask, position_ids=None, **rest):
            return hidden_states

    block = Block()
    assert hidden_and_named(block, ("h", "m"), {"x": 1}) == ("h", {"attention_mask": "m", "x": 1})
    found = hidden_and_named(block, ("h", "m", "p"), {})
    assert found == ("h", {"attention_mask": "m", "position_ids": "p"})
    assert hidden_and_named(block, ("h",), {"attention_mask": "m"}) == ("h", {"attention_mask": "m"})
    named = {"attention_mask": "m", "hidden_states": "h"}
    assert hidden_and_named(block, (), named) == ("h", {"attention_mask": "m"})
    assert named["hidden_states"] == "h"


def test_windows_of_an_empty_cache_hold_all_tokens_and_no_others_change():
    cache, full = DynamicCache(), DynamicLayer()
    used = DynamicSlidingWindowLayer(sliding_window=4)
    used.update(torch.ones(1, 1, 2, 3), torch.ones(1, 1, 2, 3))
    cache.layers += [DynamicSlidingWindowLayer(sliding_window=4), full, used]
    hold_all_tokens(cache)
    assert type(cache.layers[0]) is DynamicLayer
    assert cache.layers[1] is full
    assert cache.layers[2] is used


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
    """Prefill (no past): entry (a, b) of the cut mask is that of the tokens at a and b; filler is seen by
    itself alone.
    """
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
        expected = [
            True if kept.real is None else bool(kept.real[row, place]) for place in range(kept.index.shape[1])
        ] + [True, True]
        assert cut[row, 0, 0].tolist() == expected


def test_a_flash_mask_is_cut_too():
    kept = Kept.of(torch.tensor([[True, False, True], [False, False, True]]))
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]])
    assert kept.attention_mask(mask, 1, 3).tolist() == [[1, 1, 1], [0, 1, 1]]


@given(keeps, st.integers(0, 3))
@settings(deadline=None, max_examples=60)
def test_what_comes_behind_goes_on(rows, added):
    keep = torch.tensor(rows)
    kept, length = Kept.of(keep), keep.shape[1] + added
    grown = kept.grown(length)
    assert grown.length == length
    for row, index in enumerate(grown.index.tolist()):
        assert index == kept.index[row].tolist() + list(range(keep.shape[1], length))
        if kept.real is not None:
            assert grown.real is not None
            assert grown.real[row].tolist() == kept.real[row].tolist() + [True] * added
    assert (grown.real is None) == (kept.real is None)
    assert kept.grown(keep.shape[1]) is kept


@given(keeps, st.sampled_from([1, -1, 2]), st.booleans())
@settings(deadline=None, max_examples=60)
def test_taking_along_any_dimension_is_indexing_row_by_row(rows, dim, shared):
    """A tensor of batch 1 is every row's own."""
    kept, batch = Kept.of(torch.tensor(rows)), len(rows)
    shape = [1 if shared else batch, 2, 3, 2]
    shape[dim] = len(rows[0])
    tensor = torch.arange(torch.tensor(shape).prod()).view(shape)
    found = kept.take(tensor, dim)
    assert len(found) == batch
    for row, index in enumerate(kept.index):
        assert torch.equal(
            found[row], tensor[0 if shared else row].index_select(dim - 1 if dim > 0 else dim, index)
        )


@given(
    keeps,
    st.integers(0, 2),
    st.integers(1, 2),
    st.sampled_from([torch.float32, torch.bfloat16, torch.bool]),
    st.booleans(),
    st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=100)
def test_any_mask_keeps_its_own_entries(rows, past_more, heads, kind, decoding, seed):
    """Masks of arbitrary content, with a head dimension, in prefill and behind a past: each entry is the old
    one, or hides filler.
    """
    keep = torch.tensor(rows)
    kept, batch = Kept.of(keep), len(rows)
    past, queries = (keep.shape[1] + past_more, 2) if decoding else (0, keep.shape[1] + past_more)
    mask = torch.randn(
        batch, heads, queries, past + queries, generator=torch.Generator().manual_seed(seed)
    ).to(torch.float32)
    mask = mask > 0 if kind == torch.bool else mask.to(kind)
    before = mask.clone()
    cut = kept.attention_mask(mask, queries, past)
    assert cut is not None
    assert cut.dtype == mask.dtype
    assert torch.equal(mask, before)
    columns = kept.grown(past + queries)
    lines = [list(range(queries))] * batch if decoding else columns.index.tolist()
    for row in range(batch):
        for a, query in enumerate(lines[row]):
            for b, place in enumerate(columns.index[row].tolist()):
                filler = (
                    columns.real is not None and not columns.real[row, b] and (decoding or query != place)
                )
                hidden = (
                    torch.tensor(False)
                    if kind == torch.bool
                    else torch.tensor(torch.finfo(kind).min, dtype=kind)
                )
                for head in range(heads):
                    assert cut[row, head, a, b] == (hidden if filler else mask[row, head, query, place])


@given(keeps, st.integers(0, 2), st.integers(0, 2**31))
@settings(deadline=None, max_examples=40)
def test_a_mask_of_padding_loses_the_dropped_tokens_and_the_filler(rows, behind, seed):
    keep = torch.tensor(rows)
    kept, length = Kept.of(keep), keep.shape[1] + behind
    mask = torch.randint(0, 2, (len(rows), length), generator=torch.Generator().manual_seed(seed))
    for queries, past in ((length, 0), (1, length - 1)):
        if past and past < keep.shape[1]:
            continue
        cut = kept.attention_mask(mask, queries, past)
        assert cut is not None
        assert cut.dtype == mask.dtype
        grown = kept.grown(length)
        for row, index in enumerate(grown.index.tolist()):
            real = [True] * len(index) if grown.real is None else grown.real[row].tolist()
            assert cut[row].tolist() == [
                int(mask[row, place]) * there for place, there in zip(index, real, strict=True)
            ]


def test_no_row_of_a_cut_mask_is_empty():
    """Filler sees itself, so a softmax over its row is a number."""
    kept = Kept.of(torch.tensor([[True, True, True], [False, False, True]]))
    cut = kept.attention_mask(None, 3, 0)
    assert cut is not None
    assert cut[1, 0].int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_arguments_without_positions_stay_without():
    kept = Kept.of(torch.tensor([[True, False]]))
    given_ = {"attention_mask": None, "position_embeddings": None, "use_cache": True}
    assert kept.call_arguments(given_, 2, 0) == given_
    assert kept.call_arguments({}, 2, 0) == {"attention_mask": None}


def test_positions_and_tables_follow():
    kept = Kept.of(torch.tensor([[True, False, True, True], [False, True, True, True]]))
    table = torch.arange(4.0)[None, :, None].expand(1, 4, 2)
    arguments = {"position_embeddings": (table, -table), "position_ids": torch.arange(4)[None], "other": 7}
    cut = kept.call_arguments(arguments, 4, 0)
    assert cut["position_ids"].tolist() == [[0, 2, 3], [1, 2, 3]]
    assert cut["position_embeddings"][1][:, :, 0].tolist() == [[0, -2, -3], [-1, -2, -3]]
    assert cut["other"] == 7
    assert kept.call_arguments(arguments, 1, 4)["position_ids"] is arguments["position_ids"], (
        "tokens behind the prompt keep theirs"
    )


@pytest.mark.parametrize(
    ("shape", "rows", "axes"),
    [
        ((1, 5, 8), 1, (None, 1)),  # hidden states
        ((5, 8), 1, (None, 0)),  # the table of one sequence
        ((2, 5), 1, (None, 1)),  # its rows and columns
        ((3, 1, 5), 1, (None, 2)),  # positions of three axes
        ((1, 5, 8), 2, (0, 1)),
        ((2, 5), 2, (0, 1)),
        ((3, 2, 5), 2, (1, 2)),
        ((3, 1, 5), 2, (1, 2)),
        ((2, 4, 5, 8), 2, (0, 2)),  # of every head
        ((3, 2, 5, 8), 2, (1, 2)),  # tables of three axes
        ((2, 4, 6), 2, None),
        ((5,), 2, None),
        ((4, 5, 8), 2, None),
        ((), 1, None),
    ],
)
def test_where_a_tensor_has_its_tokens(shape, rows, axes):
    assert token_axes(shape, rows, 5) == axes


@pytest.mark.parametrize("rows", [1, 2])
def test_whatever_a_block_receives_is_cut(rows):
    """Positions of three axes, token types, embeddings of the tokens for this block, and masks of any
    name.
    """
    keep = torch.tensor([[True, False, True, True], [False, True, True, True]])[:rows]
    kept, mask = Kept.of(keep), torch.arange(16.0).view(1, 1, 4, 4).expand(rows, 1, 4, 4)
    filled: dict[str, int] = {}
    types = torch.arange(4).expand(rows, 4)
    cut = kept.call_arguments(
        {
            "position_ids": torch.stack([types, 10 + types, 20 + types]),
            "types": types,
            "per_layer": types[..., None].expand(rows, 4, 2).float(),
            "tables": [(types[None], None), 3],
            "window_mask": mask,
            "shared": filled,
            "others": torch.ones(rows, 7, 2),
        },
        4,
        0,
    )
    for row, stay in enumerate(kept.index):
        assert cut["position_ids"][:, row].tolist() == [
            stay.tolist(),
            (10 + stay).tolist(),
            (20 + stay).tolist(),
        ]
        assert cut["types"][row].tolist() == stay.tolist()
        assert cut["per_layer"][row, :, 1].tolist() == stay.tolist()
        assert torch.equal(cut["window_mask"][row, 0], mask[row, 0][stay][:, stay])
    assert cut["tables"][0][0].shape == (1, rows, 3)
    assert cut["tables"][1] == 3
    assert cut["shared"] is filled
    assert cut["others"].shape == (rows, 7, 2)


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


def test_no_cache_needs_no_layer():
    kept = Kept.of(torch.ones(1, 2, dtype=torch.bool))
    make_pruned(None, 3, kept)
    assert kept_in(None, 3) is None
    assert kept_in(DynamicCache(), 3) is None


def test_a_sliding_window_is_refused():
    cache = DynamicCache()
    cache.layers.append(DynamicSlidingWindowLayer(sliding_window=4))
    with pytest.raises(
        InputError, match="layer 0 has a DynamicSlidingWindowLayer; leave cache_implementation out"
    ):
        make_pruned(cache, 0, Kept.of(torch.ones(1, 2, dtype=torch.bool)))


def test_a_pruned_layer_can_be_cropped_reordered_emptied_and_pruned_anew():
    kept, cache = Kept.of(torch.tensor([[True, False, False, True, True]] * 2)), DynamicCache()
    make_pruned(cache, 0, kept)
    keys = torch.arange(2.0)[:, None, None, None].expand(2, 1, 3, 2)
    cache.update(keys, keys, 0)
    cache.update(keys[:, :, :2], keys[:, :, :2], 0)
    cache.crop(-2)
    layer = cache.layers[0]
    assert cache.get_seq_length() == 5
    assert layer.keys.shape[-2] == 3
    cache.reorder_cache(torch.tensor([1, 1]))
    assert bool((layer.values == 1).all())
    cache.reset()
    assert cache.get_seq_length() == 0
    assert kept_in(cache, 0) is None, "a cache that was emptied remembers no prompt"
    again = Kept.of(torch.tensor([[True, False]]))
    make_pruned(cache, 0, again)
    cache.update(keys[:1, :, :1], keys[:1, :, :1], 0)
    assert kept_in(cache, 0) is again
    assert cache.get_seq_length() == 2
