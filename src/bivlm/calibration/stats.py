"""Second moments of the inputs of each linear of a block, by modality.

Linears that receive the very same tensor (q, k and v; gate and up) share one second moment. They are found by
the tensor's identity while the block runs. If the full-precision model runs as well, the residual between the
inputs of both models is accumulated too. If tokens are weighed by their gradients (gradients.py), every
linear has a second moment of its own, since its weights are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bivlm.calibration.moments import add_products, fill_lower_
from bivlm.calibration.token_sample import TokenSample
from bivlm.families.linears import is_linear
from bivlm.types import LinearStats, Modality

TINY = 1e-30  # the total weight of tokens that no gradient reaches


@dataclass(frozen=True)
class Weighing:
    """What gradients say about some linears, by name: `weights` (t,) of the tokens of every sample, for
    linears whose tokens are weighed; the visual tokens' `shares` of the squared gradients; the `fisher`
    information (out, in) of their weights.
    """

    weights: Mapping[str, Sequence[Tensor]]
    shares: Mapping[str, float | None]
    fisher: Mapping[str, Tensor]


class StatsCollector:
    """Accumulates the second moments of some linears over the samples that run through them.

    `visual_only` names the linears whose input is visual tokens alone; for them the mask is ignored. `joint`
    sums text and visual tokens together. `weighing` weighs the tokens by gradients; `keep_inputs` keeps some
    of the inputs. Memory: (in, in) float32 per shared input and modality; per linear and modality where
    tokens are weighed.
    """

    def __init__(
        self,
        linears: Mapping[str, nn.Linear],
        visual_only: frozenset[str] = frozenset(),
        *,
        joint: bool = False,
        weighing: Weighing | None = None,
        keep_inputs: bool = False,
    ) -> None:
        self.linears, self.visual_only, self.joint, self.weighing = linears, visual_only, joint, weighing
        self.keep_inputs = keep_inputs
        self._samples: dict[str, TokenSample] = {}  # by leader
        self._leader: dict[str, str] = {}
        self._sums: dict[str, dict[Modality, Tensor]] = {}
        self._tokens: dict[str, dict[Modality, float]] = {}
        self._residuals: dict[str, dict[Modality, Tensor]] = {}
        self._stats: dict[str, LinearStats] = {}  # by leader, once they are asked for

    @contextmanager
    def inputs(self) -> Iterator[dict[str, Tensor]]:
        """While one sample runs: the input of each linear, by its name."""
        inputs: dict[str, Tensor] = {}

        def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            return lambda _module, args: inputs.__setitem__(name, args[0].detach())

        handles = [linear.register_forward_pre_hook(hook(name)) for name, linear in self.linears.items()]
        try:
            yield inputs
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def watching(
        self, visual: Tensor | None, exact: Mapping[str, Tensor] | None = None, number: int = 0
    ) -> Iterator[None]:
        """While sample `number` runs: `visual` (t,) marks its visual tokens; None means that all are visual
        (vision tower, projector).

        `exact` has the linears' inputs (`inputs`) for the same sample in the full-precision model.
        """
        seen: dict[int, tuple[str, Tensor]] = {}  # the tensors are kept alive, so that no id is used twice

        def observe(name: str, x: Tensor) -> None:
            leader, _ = seen.setdefault(id(x), (name, x))
            first = self._leader.setdefault(name, leader) == name
            if first or self._own(name):
                self._add(
                    name,
                    x,
                    None if name in self.visual_only else visual,
                    None if exact is None else exact[name],
                    number,
                )

        def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            return lambda _module, args: observe(name, args[0])

        handles = [linear.register_forward_pre_hook(hook(name)) for name, linear in self.linears.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _own(self, name: str) -> bool:
        """Whether a linear has a second moment of its own."""
        return self.weighing is not None and name in self.weighing.weights

    def _add(self, name: str, x: Tensor, visual: Tensor | None, exact: Tensor | None, number: int) -> None:
        if name in self._stats:
            raise ValueError(f"the statistics of {name} are closed: they have been asked for")
        rows = x.detach().reshape(-1, x.shape[-1]).float()
        if self.keep_inputs:
            self._samples.setdefault(name, TokenSample()).add(rows, visual)
        away = None if exact is None else exact.reshape(rows.shape).float() - rows
        weights = None
        if self.weighing is not None and name in self.weighing.weights:
            weights = self.weighing.weights[name][number]
        chosen: dict[Modality, Tensor | slice]
        if self.joint:
            chosen = {"all": slice(None)}
        else:
            chosen = {"visual": slice(None)} if visual is None else {"visual": visual, "text": ~visual}
        tokens = self._tokens.setdefault(name, {})
        for modality, which in chosen.items():
            part = rows[which]
            if len(part) == 0:
                continue
            root = None if weights is None else weights[which, None].sqrt()
            part = _kept(part if root is None else part * root, x.dtype)
            _accumulate(self._sums.setdefault(name, {}), modality, part, part, x.dtype)
            if away is not None:
                gone = away[which] if root is None else away[which] * root
                _accumulate(self._residuals.setdefault(name, {}), modality, gone, part, x.dtype)
            count = len(part) if weights is None else float(weights[which].double().sum())
            tokens[modality] = tokens.get(modality, 0) + count

    def groups(self) -> list[list[str]]:
        """The linears that received an input, grouped by the tensor that they receive, in the order in which
        they ran.
        """
        groups: dict[str, list[str]] = {}
        for name, leader in self._leader.items():
            groups.setdefault(leader, []).append(name)
        return list(groups.values())

    def stats(self, name: str) -> LinearStats:
        """Statistics of the inputs of the linear `name`, after all samples: the sums become means in place.
        Raises ValueError if it received none.
        """
        leader = name if self._own(name) else self._leader.get(name)
        if leader is None or leader not in self._sums:
            raise ValueError(f"no calibration sample reached {name}")
        if leader not in self._stats:
            tokens, residuals = self._tokens[leader], self._residuals.get(leader)
            with torch.inference_mode():  # the sums were made in it
                for total in self._sums[leader].values():
                    fill_lower_(total)
                for sums in filter(None, (self._sums[leader], residuals)):
                    for modality, total in sums.items():
                        total /= max(tokens[modality], TINY)
            kept = self._samples.get(leader)
            self._stats[leader] = LinearStats(
                self._sums[leader],
                dict(tokens),
                residuals,
                inputs=None if kept is None else kept.inputs,
                inputs_visual=None if kept is None else kept.visual,
            )
        found = self._stats[leader]
        if self.weighing is None:
            return found
        return replace(
            found, visual_share=self.weighing.shares.get(name), fisher=self.weighing.fisher.get(name)
        )


def collector_for(
    model: nn.Module,
    names: Iterable[str],
    visual_linears: Collection[str] = (),
    *,
    joint: bool = False,
    weighing: Weighing | None = None,
    keep_inputs: bool = False,
) -> StatsCollector:
    """A collector for the linears `names` of `model`. Those whose name ends in one of `visual_linears`
    receive visual tokens alone; `joint` sums both kinds of tokens together; `weighing` weighs the tokens;
    `keep_inputs` keeps some inputs.
    """
    linears = {name: model.get_submodule(name) for name in names}
    visual = {name for name in linears if any(name.endswith(f".{ending}") for ending in visual_linears)}
    watched = {name: linear for name, linear in linears.items() if is_linear(linear)}
    return StatsCollector(watched, frozenset(visual), joint=joint, weighing=weighing, keep_inputs=keep_inputs)


def _kept(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows (t, in) float32 in the precision of a model in bfloat16; unchanged for other models."""
    return rows.to(dtype).float() if dtype == torch.bfloat16 else rows


def _accumulate(
    sums: dict[Modality, Tensor], modality: Modality, left: Tensor, right: Tensor, dtype: torch.dtype
) -> None:
    """Σ left rightᵀ over the rows (t, in) of both, added to a modality's sum (in, in) float32."""
    if modality not in sums:
        sums[modality] = torch.zeros(left.shape[1], right.shape[1], dtype=torch.float32, device="cpu")
    add_products(sums[modality], left, right, dtype)
