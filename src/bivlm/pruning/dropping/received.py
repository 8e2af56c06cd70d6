"""The attention that tokens receive in one block, without running the whole block: only the requested rows
and columns of the score are computed.

SDPA and flash attention return no scores. The block is called once with our own attention function, so
queries, keys, rotary embedding and mask are the model's own, in every architecture. The part of the block
after the attention is not run.

    block(hidden, …) ─ norm, projections, rotary ─► query, key, mask ─ here ─► received (rows, n)
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bivlm.errors import InputError
from bivlm.families.attention import attention_replaced, is_causal
from bivlm.pruning.dropping.cache import without_cache

SCORES = 1 << 24  # entries of the score that are computed at a time: 64 MiB of float32


class _Enough(Exception):
    """Ends the run of the block once the scores are known; not an error."""


@dataclass
class _Probe:
    """The attention function of a probed block: it computes the scores from query and key. If the block cuts
    the sequence, the `parts` are joined.
    """

    tokens: int
    rows: Tensor | None
    real: Tensor | None
    parts: list[Tensor] = field(default_factory=list)

    def hear(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scaling: float | None,
        kwargs: dict[str, Any],
    ) -> Tensor:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        causal = is_causal(module, kwargs)
        self.parts.append(received(query, key, mask, scale, causal=causal, rows=self.rows, real=self.real))
        if sum(part.shape[1] for part in self.parts) >= self.tokens:
            raise _Enough
        return torch.zeros_like(query)


def attention_received(
    block: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    tokens: int,
    rows: Tensor | None = None,
    real: Tensor | None = None,
) -> Tensor:
    """The attention that each of the block's keys receives in this call: (batch, keys) float32. The block's
    cache is not changed.

    `rows` and `real` say which queries attend, as in `received`. `tokens` is the number of keys; a block that
    cuts its sequence into windows (one batch row) reaches it window by window.
    """
    probe = _Probe(tokens, rows, real)
    with attention_replaced(block, probe.hear), suppress(_Enough):
        block.forward(*args, **without_cache(kwargs))
    if not probe.parts:
        raise InputError(
            f"the attention of a {type(block).__name__} cannot be measured: it does not go through the"
            " attention functions of transformers; use a pruner that asks for no attention"
        )
    return torch.cat(probe.parts, dim=1)


def received(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    scaling: float,
    *,
    causal: bool,
    rows: Tensor | None = None,
    real: Tensor | None = None,
) -> Tensor:
    """Mean over heads and over the attending queries of softmax(q kᵀ · scaling): (batch, keys) float32.

    `query` (batch, heads, t, d), `key` (batch, key heads, n, d) with heads a multiple of the key heads.
    `mask` (batch or 1, heads or 1, t, n) is boolean, True where a query can attend, or added to the scores. A
    mask of (batch, n), as for flash attention, is True for keys that are no padding. With such a mask, or
    without one, all queries attend to all keys, or, if `causal`, to themselves and earlier ones. `rows`
    (batch, r) are the queries that count, all if None; `real` (batch, t) is False for queries that never
    count (padding). A key's mean is over the queries that can attend to it; a key without such a query
    receives 0.
    """
    batch, heads, count, _ = query.shape
    keys = key.repeat_interleave(heads // key.shape[1], dim=1).transpose(-1, -2)
    rows = torch.arange(count, device=query.device).expand(batch, count) if rows is None else rows
    total = query.new_zeros(batch, keys.shape[-1], dtype=torch.float32)
    attending = total.clone()
    for some in rows.split(max(1, SCORES // (batch * heads * keys.shape[-1])), dim=1):
        scores = (query.take_along_dim(some[:, None, :, None], 2) @ keys).float() * scaling
        allowed = torch.ones_like(scores, dtype=torch.bool)
        if mask is not None and mask.dim() == 4:
            cut = mask.expand(batch, -1, -1, -1).take_along_dim(some[:, None, :, None], 2)
            allowed = (cut if cut.dtype == torch.bool else cut > torch.finfo(cut.dtype).min / 2).expand_as(
                scores
            )
            scores = scores if cut.dtype == torch.bool else scores + cut
        elif causal and keys.shape[-1] == count:
            allowed = (torch.arange(count, device=query.device) <= some[:, None, :, None]).expand_as(scores)
        if mask is not None and mask.dim() == 2:
            allowed = allowed & mask.bool()[:, None, None, :]
        if real is not None:
            allowed = allowed & real.take_along_dim(some, 1)[:, None, :, None]
        weights = scores.masked_fill(~allowed, torch.finfo(torch.float32).min).softmax(dim=-1) * allowed
        total += weights.mean(1).sum(1)
        attending += allowed[:, 0].sum(1)
    return total / attending.clamp_min(1.0)
