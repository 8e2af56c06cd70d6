"""A batch that requests join and leave between two tokens.

    requests ─ prefill, padded on the left ─► rows ─ join ─► the batch ─ step ─► a token for every row ─► …

The prompts of requests that come together are read together. Their keys and values then stand next to those
of the rows that are under way, aligned at the end. A row's positions are its own, continued from those that
the model gave its prompt (rotary positions of three axes included), so its tokens are those that it would get
alone, up to the rounding of sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, GenerationConfig

from bivlm.eval.answer import contradictions_named, prepare, with_settings
from bivlm.families import Family, tokenizer_of
from bivlm.families.answers import end_tokens
from bivlm.serving.asked import Request
from bivlm.serving.caches import is_joinable, join, keep, tokens_in
from bivlm.serving.choice import Chooser, chosen
from bivlm.serving.row import Row
from bivlm.serving.words import Words


class NotJoinable(Exception):
    """The model keeps a state that rows of other prompts cannot join."""


@dataclass
class _State:
    """What the model knows of the rows: the cache, `mask` (n, t) of the tokens in it, the positions (…, n, 1)
    of each row's last token if the model is given any, and that token (n, 1), which is not in the cache yet.
    """

    cache: DynamicCache
    mask: Tensor
    positions: Tensor | None
    last: Tensor


class JointBatch:
    """The rows that a model answers together. To be used by one thread, within `inference(model)`."""

    def __init__(self, model: Any, processor: Any, family: Family) -> None:
        self.model, self.processor, self.family = model, processor, family
        self.ends = end_tokens(model, processor)
        self.forbidden = family.visual_tokens(model.config)
        self.rows: list[Row] = []
        self.logits: Tensor | None = None  # (n, vocabulary) of the last step
        self._state: _State | None = None

    def join(self, requests: Sequence[Request]) -> None:
        """Read the prompts of some requests, and let them join. Each gets its first token.

        Raises InputError for a question that cannot be asked, and NotJoinable for a model whose rows cannot
        join; the batch is then as it was.
        """
        state, logits, lengths = self._prefill(requests)
        tokenizer = tokenizer_of(self.processor)
        rows = [
            Row(request, Chooser(request.sampling), Words(tokenizer, self.ends, request.stop), length)
            for request, length in zip(requests, lengths, strict=True)
        ]
        self._state = state if self._state is None else _joined(self._state, state)
        before = [int(token) for token in self._state.last[: len(self.rows), 0]]
        new = chosen(logits, [row.chooser for row in rows], self.forbidden)
        self._state.last = torch.tensor([*before, *new], device=logits.device)[:, None]
        self.rows += rows
        self._tell(rows, new)

    @property
    def is_empty(self) -> bool:
        return not self.rows

    def step(self) -> None:
        """One more token for every row; rows that end leave."""
        state = self._state
        assert state is not None
        state.mask = pad(state.mask, (0, 1), value=1)
        inputs: dict[str, Any] = {}
        if state.positions is not None:
            state.positions = inputs["position_ids"] = state.positions + 1
        with contradictions_named():
            found = self.model(
                input_ids=state.last,
                attention_mask=state.mask,
                cache=state.cache,
                use_cache=True,
                return_dict=True,
                **inputs,
            )
        logits: Tensor = found.logits[:, -1]
        self.logits = logits
        new = chosen(logits, [row.chooser for row in self.rows], self.forbidden)
        state.last = torch.tensor(new, device=state.last.device)[:, None]
        self._tell(self.rows, new)

    def lead(self, token: int) -> None:
        """Put this token in the place of every row's last one, for the next step."""
        assert self._state is not None
        self._state.last = torch.full_like(self._state.last, token)

    def leave_all(self) -> list[Row]:
        """All rows leave, unfinished."""
        left, self.rows, self._state = self.rows, [], None
        return left

    def _tell(self, rows: Sequence[Row], tokens: Sequence[int]) -> None:
        """Give some rows their tokens; those that have ended leave the batch."""
        ended = {}
        for row, token in zip(rows, tokens, strict=True):
            reason = row.add(token, self.ends)
            if reason is not None:
                ended[row] = reason
        if ended:
            stay = [number for number, row in enumerate(self.rows) if row not in ended]
            self._keep(stay)
        for row, reason in ended.items():
            row.end(reason)

    def _keep(self, stay: Sequence[int]) -> None:
        self.rows = [self.rows[number] for number in stay]
        if not stay:
            self._state = None
            return
        state = self._state
        assert state is not None
        index = torch.tensor(stay, device=state.mask.device)
        mask = state.mask[index]
        unused = int(mask.any(0).int().argmax())  # columns before the first token of the longest row
        keep(state.cache, stay, unused)
        state.mask, state.last = mask[:, unused:], state.last[index]
        if state.positions is not None:
            state.positions = state.positions.index_select(-2, index)

    def _prefill(self, requests: Sequence[Request]) -> tuple[_State, Tensor, list[int]]:
        """The state after some prompts, the logits (n, vocabulary) of their first tokens, and their
        lengths.
        """
        samples = [request.sample for request in requests]
        inputs = prepare(self.model, self.processor, self.family, samples)
        config = GenerationConfig(
            max_new_tokens=1,
            do_sample=False,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
        )
        with contradictions_named(), _positions(self.model) as seen:
            found = with_settings(self.model, config).generate(**inputs)
        mask = inputs["attention_mask"]
        if not is_joinable(found.cache) or tokens_in(found.cache) != mask.shape[1]:
            raise NotJoinable
        last = found.sequences[:, -1:]
        positions = None if not seen else seen[0][..., -1:]
        if positions is not None and positions.shape[-2] != len(last):  # one for all rows
            positions = positions.expand(*positions.shape[:-2], len(last), 1)
        return _State(found.cache, mask, positions, last), found.logits[0], mask.sum(1).tolist()


def _joined(first: _State, second: _State) -> _State:
    """The rows of both, one below the other."""
    longest = max(first.mask.shape[1], second.mask.shape[1])
    mask = torch.cat([pad(one.mask, (longest - one.mask.shape[1], 0)) for one in (first, second)])
    positions = None
    if first.positions is not None and second.positions is not None:
        positions = torch.cat([first.positions, second.positions], dim=-2)
    join(first.cache, second.cache)
    return _State(first.cache, mask, positions, torch.cat([first.last, second.last]))


@contextmanager
def _positions(model: Any) -> Iterator[list[Tensor]]:
    """Within this context: the positions that the model is given."""
    seen: list[Tensor] = []

    def note(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        if isinstance(kwargs.get("position_ids"), Tensor):
            seen.append(kwargs["position_ids"])

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()
