"""Requests that are answered together from the first token to the last: for models whose rows cannot join a
batch that is under way (joint.py), with transformers' own generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from bivlm.eval.answer import contradictions_named, prepare, with_settings
from bivlm.families import Family, tokenizer_of
from bivlm.families.answers import end_tokens
from bivlm.serving.asked import Request
from bivlm.serving.choice import Chooser, chosen
from bivlm.serving.row import Row
from bivlm.serving.words import Words


def answer_together(model: Any, processor: Any, family: Family, requests: Sequence[Request]) -> None:
    """Answer some requests, and tell their clients. To be used within `inference(model)`. Raises InputError,
    before any client is told anything, for a question that cannot be asked.
    """
    inputs = prepare(model, processor, family, [request.sample for request in requests])
    ends, tokenizer = end_tokens(model, processor), tokenizer_of(processor)
    rows = [
        Row(request, Chooser(request.sampling), Words(tokenizer, ends, request.stop), length)
        for request, length in zip(requests, inputs["attention_mask"].sum(1).tolist(), strict=True)
    ]
    longest = max(request.max_new_tokens for request in requests)
    config = GenerationConfig(
        max_new_tokens=longest, do_sample=False, pad_token_id=tokenizer.pad_token_id or 0
    )
    choose = LogitsProcessorList([_Choose(rows, family.visual_tokens(model.config))])
    tell = StoppingCriteriaList([_Tell(rows, ends)])
    with contradictions_named():
        with_settings(model, config).generate(**inputs, logits_processor=choose, stopping_criteria=tell)


class _Choose(LogitsProcessor):
    """Leaves each row the token that its request chooses."""

    def __init__(self, rows: Sequence[Row], forbidden: Sequence[int]) -> None:
        self.choosers, self.forbidden = [row.chooser for row in rows], forbidden

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        tokens = chosen(scores, self.choosers, self.forbidden)
        index = torch.tensor(tokens, device=scores.device)[:, None]
        return cast(torch.FloatTensor, torch.full_like(scores, -torch.inf).scatter_(1, index, 0.0))


class _Tell(StoppingCriteria):
    """Tells every row its tokens, and says which rows have ended."""

    def __init__(self, rows: Sequence[Row], ends: Sequence[int]) -> None:
        self.rows, self.ends = rows, ends
        self.ended = [False] * len(rows)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> Tensor:
        for number, row in enumerate(self.rows):
            if self.ended[number]:
                continue
            reason = row.add(int(input_ids[number, -1]), self.ends)
            if reason is not None:
                self.ended[number] = True
                row.end(reason)
        return torch.tensor(self.ended, device=input_ids.device)
