"""The attention that keys receive, against a loop over queries, keys and heads."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import DynamicCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from bivlm.errors import InputError
from bivlm.families import attention
from bivlm.pruning.dropping import received as module
from bivlm.pruning.dropping.cache import cache_argument
from bivlm.pruning.dropping.received import attention_received, received
from tiny import tiny_model


def by_loop(query, key, allowed, scaling, rows, real):
    """`allowed` (batch, t, n) boolean, `rows` (batch, r)."""
    batch, heads, _, _ = query.shape
    group = heads // key.shape[1]
    total, looks = np.zeros((batch, key.shape[2])), np.zeros((batch, key.shape[2]))
    for b in range(batch):
        for t in rows[b]:
            if not real[b, t]:
                continue
            seen = allowed[b, t]
            looks[b] += seen
            for h in range(heads):
                score = key[b, h // group] @ query[b, h, t] * scaling
                if seen.any():
                    weight = np.where(seen, np.exp(score - score[seen].max()), 0.0)
                    total[b] += weight / weight.sum() / heads
    return total / np.maximum(looks, 1)


@given(
    st.integers(0, 2**31),
    st.sampled_from(["none", "causal", "boolean", "added"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1 << 24, 50]),
)
@settings(deadline=None, max_examples=60)
def test_against_a_loop(seed, kind, last, padded, chunk):
    rng = np.random.default_rng(seed)
    batch, heads, key_heads, t, d = 2, 4, int(rng.choice([1, 2, 4])), int(rng.integers(1, 7)), 3
    n = t if kind == "causal" else int(rng.integers(1, 8))
    query, key = rng.normal(size=(batch, heads, t, d)), rng.normal(size=(batch, key_heads, n, d))
    allowed = (
        rng.random((batch, t, n)) < 0.7 if kind in ("boolean", "added") else np.ones((batch, t, n), bool)
    )
    if kind == "causal":
        allowed = np.broadcast_to(np.tril(np.ones((t, t), bool)), (batch, t, t))
    real = rng.random((batch, t)) < 0.7 if padded else np.ones((batch, t), bool)
    rows = rng.integers(0, t, (batch, 1)) if last else np.broadcast_to(np.arange(t), (batch, t))
    mask = torch.tensor(allowed)[:, None] if kind in ("boolean", "added") else None
    if kind == "added":
        mask = torch.where(mask, 0.0, torch.finfo(torch.float32).min)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SCORES", chunk)
        found = received(
            torch.tensor(query, dtype=torch.float32), torch.tensor(key, dtype=torch.float32), mask, 0.6,
            causal=kind == "causal",
            rows=torch.tensor(rows) if last else None, real=torch.tensor(real) if padded else None,
        )  # fmt: skip
    np.testing.assert_allclose(found.numpy(), by_loop(query, key, allowed, 0.6, rows, real), atol=2e-6)


def test_a_key_that_nobody_may_look_at_receives_nothing():
    mask = torch.ones(1, 1, 3, 3, dtype=torch.bool)
    mask[..., 1] = False
    found = received(torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4), mask, 1.0, causal=False)
    assert found[0, 1] == 0
    assert found.sum() == pytest.approx(1.0, abs=1e-6)


@given(st.integers(0, 2**31), st.booleans(), st.sampled_from([1 << 24, 50]))
@settings(deadline=None, max_examples=40)
def test_a_mask_of_padding_against_a_loop(seed, causal, chunk):
    """As flash attention gets it: (batch, n), False where a key is padding."""
    rng = np.random.default_rng(seed)
    t = int(rng.integers(1, 7))
    query, key = rng.normal(size=(2, 4, t, 3)), rng.normal(size=(2, 2, t, 3))
    real = rng.random((2, t)) < 0.6
    allowed = real[:, None, :] & (np.tril(np.ones((t, t), bool)) if causal else np.ones((t, t), bool))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SCORES", chunk)
        found = received(
            torch.tensor(query, dtype=torch.float32), torch.tensor(key, dtype=torch.float32),
            torch.tensor(real).long(), 0.6, causal=causal,
            real=torch.tensor(real),
        )  # fmt: skip
    rows = np.broadcast_to(np.arange(t), (2, t))
    np.testing.assert_allclose(found.numpy(), by_loop(query, key, allowed, 0.6, rows, real), atol=2e-6)


def test_a_mask_may_add_a_bias_or_minus_infinity():
    """Two keys with equal scores and a bias of log 3: a quarter and three quarters; the third is masked."""
    mask = torch.tensor([0.0, float(np.log(3)), -torch.inf]).view(1, 1, 1, 3)
    found = received(torch.zeros(2, 2, 1, 4), torch.randn(2, 1, 3, 4), mask, 1.0, causal=False)
    torch.testing.assert_close(found, torch.tensor([[0.25, 0.75, 0.0]] * 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_masks_of_short_floats_hide_as_well(dtype):
    mask = torch.tensor([0.0, torch.finfo(dtype).min, 0.0]).view(1, 1, 1, 3).to(dtype)
    found = received(
        torch.zeros(1, 2, 1, 4, dtype=dtype), torch.randn(1, 2, 3, 4).to(dtype), mask, 1.0, causal=False
    )
    assert found.dtype == torch.float32
    assert found.tolist() == [[0.5, 0.0, 0.5]]


def test_the_first_token_alone_is_looked_at_by_everyone():
    """Equal scores, causal: query r gives 1 / (r + 1) to each of the keys before it, and a key averages over
    those behind it.
    """
    found = received(torch.zeros(1, 1, 4, 2), torch.zeros(1, 1, 4, 2), None, 1.0, causal=True)
    expected = [sum(1 / (r + 1) for r in range(i, 4)) / (4 - i) for i in range(4)]
    np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-6)


class Attention(nn.Module):
    """Attends as transformers' modules do: window by window, by the function that its config names; it must
    not come to its end.
    """

    def __init__(self, windows):
        super().__init__()
        self.config, self.windows = SimpleNamespace(_attn_implementation_internal="sdpa"), windows

    def forward(self, query, key, is_causal=False, cache=None, past_key_values=None):
        assert (cache, past_key_values) == (None, None), "the cache must be left alone"
        attend = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation_internal]
        for start, stop in self.windows:
            attend(
                self,
                query[:, :, start:stop],
                key[:, :, start:stop],
                key[:, :, start:stop],
                None,
                is_causal=is_causal,
            )
        raise RuntimeError("what follows the attention was run")


def test_windows_are_joined_and_the_block_is_left_as_it_was():
    query, key = torch.randn(1, 2, 5, 4), torch.randn(1, 2, 5, 4)
    block = Attention([(0, 2), (2, 5)])
    older, found = (
        attention_received(block, (query, key), {name: object()}, tokens=5)
        for name in ("past_key_values", "cache")
    )
    assert torch.equal(found, older)
    parts = [received(query[:, :, a:b], key[:, :, a:b], None, 0.5, causal=False) for a, b in block.windows]
    assert torch.equal(found, torch.cat(parts, dim=1)), "the scaling is 1 / √4 when none is given"
    causal = attention_received(Attention([(0, 5)]), (query, key), {"is_causal": True}, tokens=5)
    assert torch.equal(causal, received(query, key, None, 0.5, causal=True))
    assert block.config._attn_implementation_internal == "sdpa"
    with pytest.raises(RuntimeError, match="was run"):
        attention_received(block, (query, key), {}, tokens=6)
    assert block.config._attn_implementation_internal == "sdpa"
    assert not attention._functions


def test_attention_of_another_kind_is_refused():
    with pytest.raises(InputError, match="attention of a Linear cannot be measured"):
        attention_received(nn.Linear(2, 2), (torch.ones(1, 3, 2),), {}, tokens=3)


@torch.inference_mode()
def test_a_real_block_is_not_changed_and_its_cache_not_filled():
    model, cache = tiny_model("llava"), DynamicCache()
    block, hidden = model.model.language_model.layers[0], torch.randn(1, 6, 96)
    tables = model.model.language_model.rotary_emb(hidden, torch.arange(6)[None])
    before = block(hidden, position_embeddings=tables)
    found = attention_received(
        block, (hidden,), {"position_embeddings": tables, **cache_argument(block, cache)}, tokens=6
    )
    assert found.shape == (1, 6)
    assert float((found * torch.arange(6, 0, -1)).sum()) == pytest.approx(6.0, abs=1e-5), (
        "every query gives 1 in all"
    )
    assert cache.get_seq_length() == 0
    assert torch.equal(block(hidden, position_embeddings=tables), before)
