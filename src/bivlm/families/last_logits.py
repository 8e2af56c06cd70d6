"""The logits of a prompt's last positions alone: a head over the whole vocabulary at every position of a long
prompt would take more memory than the model.
"""

from __future__ import annotations

from functools import cache
from inspect import signature
from typing import Any

from torch import Tensor, nn

KEEP = "logits_to_keep"


def keeping(model: nn.Module, count: int) -> dict[str, int]:
    """The argument of a model's `forward` that asks for the logits of the last `count` positions; none for a
    model that has no such argument and computes them all.
    """
    return {KEEP: count} if _takes_keep(type(model)) else {}


def last_logits(output: Any, count: int) -> Tensor:
    """The logits (batch, count, vocabulary) of the last positions: some models ignore what they were asked
    for.
    """
    return output.logits[:, -count:]


@cache
def _takes_keep(model_class: type[nn.Module]) -> bool:
    return KEEP in signature(model_class.forward).parameters
