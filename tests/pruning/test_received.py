"""The attention that keys receive, against a loop over queries, keys and heads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bivlm.pruning import received as module
from bivlm.pruning.received import received


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


@given(st.integers(0, 2**31), st.sampled_from(["none", "causal", "boolean", "added"]), st.booleans(), st.booleans(), st.sampled_from([1 << 24, 50]))
@settings(deadline=None, max_examples=60)
def test_against_a_loop(seed, kind, last, padded, chunk):
    rng = np.random.default_rng(seed)
    batch, heads, key_heads, t, d = 2, 4, int(rng.choice([1, 2, 4])), int(rng.integers(1, 7)), 3
    n = t if kind == "causal" else int(rng.integers(1, 8))
    query, key = rng.normal(size=(batch, heads, t, d)), rng.normal(size=(batch, key_heads, n, d))
    allowed = rng.random((batch, t, n)) < 0.7 if kind in ("boolean", "added") else np.ones((batch, t, n), bool)
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
            torch.tensor(query, dtype=torch.float32), torch.tensor(key, dtype=torch.float32), mask, 0.6, causal=kind == "causal",
            rows=torch.tensor(rows) if last else None, real=torch.tensor(real) if padded else None,
        )  # fmt: skip
    np.testing.assert_allclose(found.numpy(), by_loop(query, key, allowed, 0.6, rows, real), atol=2e-6)


def test_a_key_that_nobody_may_look_at_receives_nothing():
    mask = torch.ones(1, 1, 3, 3, dtype=torch.bool)
    mask[..., 1] = False
    found = received(torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4), mask, 1.0, causal=False)
    assert found[0, 1] == 0
    assert found.sum() == pytest.approx(1.0, abs=1e-6)
