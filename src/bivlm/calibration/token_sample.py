"""A few of the inputs of a linear, evenly spread over all tokens that reach it."""

from __future__ import annotations

import torch
from torch import Tensor

MOST_TOKENS = 1024


class TokenSample:
    """Keeps every n-th token that is added; n doubles whenever more than MOST_TOKENS would be kept. In the
    end these are all tokens, or at least half of MOST_TOKENS. Which ones depends on their order alone.
    """

    def __init__(self) -> None:
        self._seen, self._stride = 0, 1
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._count = 0

    def add(self, rows: Tensor, visual: Tensor | None) -> None:
        """Tokens (t, in) in their order; `visual` (t,) bool marks the visual ones, None means all."""
        if visual is None:
            visual = torch.ones(len(rows), dtype=torch.bool, device="cpu")
        first = -self._seen % self._stride
        self._seen += len(rows)
        self._keep(rows[first :: self._stride].float(), visual[first :: self._stride])
        while self._count > MOST_TOKENS:
            inputs, marks = self.inputs, self.visual
            self._stride *= 2
            self._kept, self._count = [], 0
            self._keep(inputs[::2], marks[::2])

    def _keep(self, rows: Tensor, visual: Tensor) -> None:
        self._kept.append((rows.clone(), visual.clone()))
        self._count += len(rows)

    @property
    def inputs(self) -> Tensor:
        """The kept tokens, (t, in) float32."""
        return torch.cat([rows for rows, _ in self._kept])

    @property
    def visual(self) -> Tensor:
        """Which of them are visual, (t,) bool."""
        return torch.cat([marks for _, marks in self._kept])
