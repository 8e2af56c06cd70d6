"""The share of visual tokens that one request keeps: the pruning is on the model while it is answered.

A model that drops tokens keeps a state that other rows cannot join (joint.py), so requests are answered
together with those that ask for the same share (together.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from bivlm.errors import InputError
from bivlm.families import Family
from bivlm.pruning.apply import TokenPruning, active_pruning, prune
from bivlm.pruning.settings import Pruning, parse_pruning

USUAL = "attention:layer={layer},keep=0.5,attending=last"  # docs/pruning.md says why
LAYERS = (2, 1, 0)  # a small model has no third block


class VisualTokens:
    """What requests may ask of one model. `own` is the share that it keeps where nothing is asked; `pruner`
    is the pruning of which a request chooses the share, None for a model that cannot drop visual tokens.
    """

    def __init__(self, model: Any, family: Family) -> None:
        self._model = model
        active = active_pruning(model)
        self._before = None if active is None else active.pruning
        self.own = 1.0 if self._before is None else self._before.keep
        self.pruner = _pruner(model, family, self._before)

    def asked(self, share: float | None) -> float | None:
        """The share that a request asks for; None for the model's own. Raises InputError for a number out of
        range, and for a model that cannot drop visual tokens.
        """
        if share is None or share == self.own:
            return None
        if not 0 < share <= 1:
            raise InputError(f"visual_tokens is {share}; give the share that stays: above 0, at most 1")
        if self.pruner is None:
            raise InputError("visual_tokens is given, and this model cannot drop visual tokens; leave it out")
        return share

    @contextmanager
    def kept(self, share: float | None) -> Iterator[None]:
        """Within this context the model keeps this share; None changes nothing."""
        if share is None or self.pruner is None:
            yield
            return
        prune(self._model, replace(self.pruner, keep=share))
        try:
            yield
        finally:
            prune(self._model, self._before)


def _pruner(model: Any, family: Family, active: Pruning | None) -> Pruning | None:
    """The model's own pruning, or the usual one in the first block that it can begin at."""
    if active is not None:
        return active if active.tokens == "image" else None
    for layer in LAYERS if family.reads_images else ():
        wanted = parse_pruning(USUAL.format(layer=layer))
        try:
            TokenPruning(model, wanted)
        except InputError:
            continue
        return wanted
    return None
