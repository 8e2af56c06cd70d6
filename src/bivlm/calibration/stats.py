"""What each linear of a block receives: second moments of the inputs, by modality.

Linears that receive the very same tensor (q, k and v; gate and up) share one second moment, found by the tensor's identity while the block runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bivlm.types import LinearStats, Modality


class StatsCollector:
    """Accumulates the second moments of some linears over the samples that run through them.

    `visual_only` names the linears whose input is visual tokens alone, whatever the mask says. Memory: (in, in) float32 per
    shared input and modality.
    """

    def __init__(self, linears: Mapping[str, nn.Linear], visual_only: frozenset[str] = frozenset()) -> None:
        self.linears = linears
        self.visual_only = visual_only
        self._leader: dict[str, str] = {}
        self._sums: dict[str, dict[Modality, Tensor]] = {}
        self._tokens: dict[str, dict[Modality, int]] = {}

    @contextmanager
    def watching(self, visual: Tensor | None) -> Iterator[None]:
        """While one sample runs: `visual` (t,) marks its visual tokens; None means that all are visual (vision tower, projector)."""
        seen: dict[int, tuple[str, Tensor]] = {}  # the tensors are kept alive, so that no id is used twice

        def observe(name: str, x: Tensor) -> None:
            leader, _ = seen.setdefault(id(x), (name, x))
            if self._leader.setdefault(name, leader) == name:
                self._add(name, x, None if name in self.visual_only else visual)

        def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            return lambda _module, args: observe(name, args[0])

        handles = [linear.register_forward_pre_hook(hook(name)) for name, linear in self.linears.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _add(self, name: str, x: Tensor, visual: Tensor | None) -> None:
        rows = x.detach().reshape(-1, x.shape[-1]).float()
        split: dict[Modality, Tensor] = {"visual": rows} if visual is None else {"visual": rows[visual], "text": rows[~visual]}
        sums, tokens = self._sums.setdefault(name, {}), self._tokens.setdefault(name, {})
        for modality, part in split.items():
            if len(part) == 0:
                continue
            if modality not in sums:
                sums[modality] = torch.zeros(rows.shape[1], rows.shape[1])
            sums[modality].addmm_(part.T, part)
            tokens[modality] = tokens.get(modality, 0) + len(part)

    def stats(self, name: str) -> LinearStats:
        """What the linear `name` received so far. Raises ValueError when nothing reached it."""
        leader = self._leader.get(name)
        if leader is None:
            raise ValueError(f"no calibration sample reached {name}")
        tokens = self._tokens[leader]
        return LinearStats({modality: total / tokens[modality] for modality, total in self._sums[leader].items()}, dict(tokens))
