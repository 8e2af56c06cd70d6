"""How far a language model is from its full-precision original on running text: perplexity, KL divergence,
agreement of the likeliest token, and whether it goes on writing the same.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from bivlm.eval.divergence import Fidelity, compare
from bivlm.loading import load

AT_ONCE = 2  # windows in one pass: more are no faster on a processor, since each is 512 tokens wide already
PROMPT = 64  # tokens that the model goes on from, and as many that it writes
PROMPTS_AT_ONCE = 16


@torch.inference_mode()
def text_loss(model: Any, windows: Tensor, original: Any = None) -> tuple[float, Fidelity]:
    """Over all tokens but the first of each window (n, t): the mean cross-entropy in nats, NaN or infinity
    when the model's output is not finite, and the distance from `original` where one is given.
    """
    lost, fidelity = 0.0, Fidelity()
    for batch in windows.split(AT_ONCE):
        logits = model(input_ids=batch, use_cache=False).logits[:, :-1].float()
        found = logits.gather(-1, batch[:, 1:, None])[..., 0]
        lost += float((logits.logsumexp(-1) - found).double().sum())
        if original is not None:
            expected = original(input_ids=batch, use_cache=False).logits[:, :-1]
            fidelity += compare(expected.flatten(0, 1), logits.flatten(0, 1))
    return lost / (windows.shape[0] * (windows.shape[1] - 1)), fidelity


def perplexity(model: Any, windows: Tensor) -> float:
    """exp of the mean cross-entropy of all tokens but the first of each window (n, t); NaN or infinity when
    the model's output is not finite.
    """
    return exponential(text_loss(model, windows)[0])


def exponential(mean: float) -> float:
    return math.exp(mean) if mean < 700 else mean * math.inf


def prompts_of(windows: Tensor) -> Tensor:
    """The beginnings of pieces of 2 PROMPT tokens of the windows (n, t), one after the other: (m, PROMPT).
    Shorter windows give one prompt each, their first half.
    """
    length = min(PROMPT, windows.shape[1] // 2)
    pieces = windows.shape[1] // (2 * length)
    return windows[:, : 2 * length * pieces].reshape(-1, 2 * length)[:, :length]


@torch.inference_mode()
def written(model: Any, prompts: Tensor, length: int) -> Tensor:
    """The likeliest token after the prompts (m, p), `length` times, each after the model's own before it: (m,
    length). Nothing ends it.
    """
    view = copy.copy(model)  # `generate` would take what a config leaves open from the checkpoint's own
    view.generation_config = GenerationConfig(
        max_new_tokens=length, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    batches = prompts.split(PROMPTS_AT_ONCE)
    rows = [view.generate(input_ids=one, attention_mask=torch.ones_like(one)) for one in batches]
    return torch.cat(rows)[:, prompts.shape[1] :]


def written_alike(expected: Tensor, given: Tensor) -> tuple[float, float]:
    """Of two writings (m, n): the share of the tokens before the first that differs, and of those that are
    equal at the same place, both over all m * n.
    """
    same = expected == given
    return same.cumprod(1).double().mean().item(), same.double().mean().item()


@dataclass(frozen=True)
class Judge:
    """Judges models against the full-precision model of a folder, on the windows (n, t) that test it, and on
    those of a second text where there is one.
    """

    folder: Path
    test: Tensor
    second: Tensor | None = None

    @cached_property
    def prompts(self) -> Tensor:
        return prompts_of(self.test)

    @cached_property
    def original_writing(self) -> Tensor:
        return written(load(self.folder)[0], self.prompts, self.prompts.shape[1])

    def full_precision(self) -> dict[str, Any]:
        """The row of the model itself, and the bits in which it is stored."""
        model, _ = load(self.folder)
        row = {"bits": 8.0 * model.dtype.itemsize, "perplexity": perplexity(model, self.test)}
        return row | ({} if self.second is None else {"second_perplexity": perplexity(model, self.second)})

    def judge(self, model: Any) -> dict[str, Any]:
        """A row's figures. The original is in memory only meanwhile: packing has the memory to itself."""
        expected, (original, _) = self.original_writing, load(self.folder)
        loss, fidelity = text_loss(model, self.test, original)
        found: dict[str, Any] = {"perplexity": exponential(loss)}
        found |= {"kl": fidelity.kl, "top1": fidelity.top1_agreement}
        alike = written_alike(expected, written(model, self.prompts, self.prompts.shape[1]))
        found |= dict(zip(("written_until", "written_all"), alike, strict=True))
        if self.second is not None:
            loss, fidelity = text_loss(model, self.second, original)
            found |= {"second_perplexity": exponential(loss), "second_kl": fidelity.kl}
        return found
