"""Whether a model's rows may join a batch between two tokens: tried on the model itself, at the start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from bivlm.errors import InputError
from bivlm.eval.answer import inference
from bivlm.families import Family
from bivlm.serving.asked import Request
from bivlm.serving.joint import JointBatch, NotJoinable
from bivlm.types import Sample

QUESTIONS = ("Why?", "What is a word that is longer than this one, and how many letters does it have?")
STEPS = 2
SIZE = (56, 56)
TOLERANCE = 0.1  # of the logits' standard deviation: rounding stays far below, a wrong position does not


def joins_exactly(model: Any, processor: Any, family: Family) -> bool:
    """Whether a row that joins another, whichever prompt is longer, gets the logits that it gets alone,
    rounding apart. Asked are questions without an image, or with one where the model needs it.
    """
    plain = [Sample(None, question) for question in QUESTIONS]
    pictured = [Sample(Image.new("RGB", SIZE, "grey"), question) for question in QUESTIONS]
    for samples in (plain, pictured) if family.reads_images else (plain,):
        try:
            with inference(model):
                return all(_is_exact(model, processor, family, pair) for pair in (samples, samples[::-1]))
        except InputError:
            continue
        except (NotJoinable, RuntimeError, TypeError):
            return False
    return False


def _is_exact(model: Any, processor: Any, family: Family, pair: Sequence[Sample]) -> bool:
    """Whether the second sample may join the first."""
    together = _logits(model, processor, family, pair)
    for number, sample in enumerate(pair):
        alone = _logits(model, processor, family, [sample], STEPS - number)[0]
        away = (together[number] - alone).abs().max()
        if not bool(away <= TOLERANCE * alone.std()):
            return False
    return True


def _logits(
    model: Any, processor: Any, family: Family, samples: Sequence[Sample], steps: int = STEPS
) -> Tensor:
    """The logits (n, vocabulary) after some steps; each sample joins one step after the one before it. All
    rows are led along the same tokens, so that they can be compared.
    """
    batch = JointBatch(model, processor, family)
    batch.ends = []
    for number, sample in enumerate(samples):
        batch.join([Request(sample, lambda _: None, max_new_tokens=1000)])
        batch.lead(1)
        for _ in range(1 if number + 1 < len(samples) else steps - len(samples) + 1):
            batch.step()
            batch.lead(1)
    assert batch.logits is not None
    return batch.logits.float()
