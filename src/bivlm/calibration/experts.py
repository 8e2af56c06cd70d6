"""Second moments of the inputs of every expert, from the tokens that are routed to it.

A layer of 128 experts has 256 moments, 2.4 GB for 2048 x 768. They are not kept: what is kept is what enters
the layer, once for each token, what enters every second projection, and who goes where. An expert's moment is
summed when its turn comes.

An expert that few tokens reach has a moment of few tokens, and one that none reaches has none. Its sums are
therefore mixed with the layer's, those of all experts together, which count as PRIOR · in tokens:

    H_e = (Σ_{t of e} x xᵀ + k H_layer) / (n_e + k)

(shrinkage of a covariance towards a target: Ledoit and Wolf, Journal of Multivariate Analysis 88, 2004; here
k is measured, and the same for all experts.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from bivlm.calibration.moments import add_products, fill_lower_
from bivlm.calibration.token_sample import TokenSample
from bivlm.families.experts import DOWN, SplitExperts, choosing, expert_paths
from bivlm.types import LinearStats, Modality

PRIOR = 0.25  # tokens of the layer's moment, for each column: measured by benchmarks/bench_expert_moments.py
TINY = 1e-30


@dataclass
class Routed:
    """What one layer of experts received while a sample ran: `hidden` (t, in) of all tokens, or None where
    every expert has rows of its own; by expert its `tokens` (n,), its own `rows` (n, in), and the inputs of
    its second projection, `inner` (n, I).
    """

    hidden: Tensor | None = None
    tokens: dict[int, Tensor] = field(default_factory=dict)
    rows: dict[int, Tensor] = field(default_factory=dict)
    inner: dict[int, Tensor] = field(default_factory=dict)

    def inputs(self, expert: int, first: bool) -> Tensor:
        """The inputs (n, …) of one of the projections of an expert that was chosen."""
        if not first:
            return self.inner[expert]
        return self.rows[expert] if self.hidden is None else self.hidden[self.tokens[expert]]

    def beside(self, expert: int, first: bool, own: Routed) -> Tensor:
        """The inputs that an expert has here for the tokens that it has in `own`, the same layer on the same
        sample with other weights. For tokens that another expert has here they are those of `own`.
        """
        tokens = own.tokens[expert]
        if first and self.hidden is not None:
            return self.hidden[tokens]
        found = own.inputs(expert, first).clone()
        if expert in self.tokens:
            mine, theirs = (self.tokens[expert][:, None] == tokens).nonzero(as_tuple=True)
            found[theirs] = self.inputs(expert, first)[mine].to(found.dtype)
        return found


@contextmanager
def watching_experts(experts: SplitExperts) -> Iterator[Routed]:
    """Within this context one sample runs: what the experts receive."""
    found = Routed()

    def enters(_module: nn.Module, args: tuple[Any, ...]) -> None:
        if not experts.layout.sorted_rows:
            found.hidden = args[0].detach().clone()

    def chosen(number: int) -> Callable[..., None]:
        def before(_module: nn.Module, args: tuple[Any, ...]) -> None:
            found.tokens[number] = args[1].detach().clone()
            if experts.layout.sorted_rows:
                found.rows[number] = args[0].detach().clone()

        return before

    def second(number: int) -> Callable[..., None]:
        def before(_module: nn.Module, args: tuple[Any, ...]) -> None:
            found.inner[number] = args[0].detach().clone()

        return before

    with ExitStack() as hooks:
        handles = [experts.register_forward_pre_hook(enters)]
        for number in range(experts.num_experts):
            handles.append(experts.get_submodule(str(number)).register_forward_pre_hook(chosen(number)))
            handles.append(experts.linear(number, DOWN).register_forward_pre_hook(second(number)))
        for handle in handles:
            hooks.callback(handle.remove)
        yield found


@contextmanager
def widened(block: nn.Module, top_k: int) -> Iterator[None]:
    """Within this context every token meets at least `top_k` experts of each layer of a block, the likeliest;
    0 changes nothing. What the block returns is that of another model, and of no use.
    """
    routers = [router for path in expert_paths(block) for router in choosing(block, path)]
    before = [(router, router.top_k) for router in routers]
    try:
        for router, own in before:
            router.top_k = max(own, top_k)
        yield
    finally:
        for router, own in before:
            router.top_k = own


@dataclass(frozen=True)
class TokenWeights:
    """How much the tokens of an expert's linear count: `values` for every sample, for the tokens at `places`;
    a token that is not there counts as the mean.
    """

    values: Sequence[Tensor]
    places: Sequence[Tensor]

    def of(self, number: int, tokens: Tensor) -> Tensor:
        """The weights (n,) of some tokens (n,) of a sample."""
        found = torch.ones(len(tokens), dtype=torch.float32, device="cpu")
        theirs, mine = (tokens[:, None] == self.places[number].long()).nonzero(as_tuple=True)
        found[theirs] = self.values[number][mine]
        return found


class _Sums:
    """Sums of some inputs, by modality: of their products, of the products with the residual, of tokens."""

    def __init__(self) -> None:
        self.moments: dict[Modality, Tensor] = {}
        self.residuals: dict[Modality, Tensor] = {}
        self.tokens: dict[Modality, float] = {}

    def add(self, modality: Modality, x: Tensor, beside: Tensor | None, weights: Tensor | None) -> None:
        """Add inputs x (n, in), those of the full-precision model `beside` them, each with its weight
        (n,).
        """
        if not len(x):
            return
        rows, dtype = x.float(), x.dtype
        root = None if weights is None else weights[:, None].sqrt()
        part = rows if root is None else rows * root
        part = part.to(dtype).float() if dtype == torch.bfloat16 else part
        add_products(_zeros(self.moments, modality, rows.shape[1]), part, part, dtype)
        if beside is not None:
            away = beside.float() - rows
            away = away if root is None else away * root
            add_products(_zeros(self.residuals, modality, rows.shape[1]), away, part, dtype)
        counted = len(x) if weights is None else float(weights.double().sum())
        self.tokens[modality] = self.tokens.get(modality, 0) + counted

    def close(self) -> None:
        """After the last inputs."""
        for total in self.moments.values():
            fill_lower_(total)

    def mixed(self, layer: _Sums, prior: float) -> LinearStats:
        """The means, with `prior` tokens of the layer's, which has every modality that is here;
        without tokens of its own they are the layer's.
        """
        total = sum(layer.tokens.values())
        if not sum(self.tokens.values()):
            prior = max(prior, 1.0)
        tokens: dict[Modality, float] = {}
        moments: dict[Modality, Tensor] = {}
        residuals: dict[Modality, Tensor] = {}
        for modality, count in layer.tokens.items():
            added = prior * count / max(total, TINY)
            tokens[modality] = self.tokens.get(modality, 0) + added
            for sums, theirs, found in (
                (self.moments, layer.moments, moments),
                (self.residuals, layer.residuals, residuals),
            ):
                if modality in theirs:
                    mean = theirs[modality] * (added / max(count, TINY))
                    own = sums.get(modality)
                    whole = mean if own is None else mean.add_(own)
                    found[modality] = whole.div_(max(tokens[modality], TINY))
        return LinearStats(moments, tokens, residuals or None)


class ExpertStats:
    """Statistics of the linears of one layer of experts at `path`, over the samples whose `Routed` is added.

    `joint` sums text and visual tokens together. `weights` has those of linears whose tokens are weighed, by
    name.
    """

    def __init__(
        self,
        path: str,
        experts: SplitExperts,
        *,
        joint: bool = False,
        weights: Mapping[str, TokenWeights] | None = None,
        keep_inputs: bool = False,
    ) -> None:
        self.path, self.experts, self.joint, self.keep_inputs = path, experts, joint, keep_inputs
        self.weights = weights or {}
        self._seen: list[tuple[int, Routed, Routed | None, Tensor | None]] = []
        self._layer: dict[bool, _Sums] = {}

    def add(self, number: int, found: Routed, visual: Tensor | None, exact: Routed | None) -> None:
        """Sample `number`: what the experts received, in the full-precision model too if it ran; `visual`
        (t,) marks its visual tokens, None means all.
        """
        self._seen.append((number, found, exact, visual))
        self._layer.clear()

    @property
    def was_reached(self) -> bool:
        """Whether any token reached any expert."""
        return any(found.tokens for _, found, _, _ in self._seen)

    @torch.inference_mode()
    def stats(self, name: str) -> LinearStats:
        """Statistics of the inputs of the linear `name`, mixed with those of the layer. ValueError if no
        token reached any expert.
        """
        if not self.was_reached:
            raise ValueError(f"no calibration sample reached {name}")
        number, _, projection = name.removeprefix(f"{self.path}.").partition(".")
        expert, first = int(number), projection == self.experts.layout.first
        sums, weights = _Sums(), self.weights.get(name)
        for sample, found, exact, visual in self._seen:
            if expert in found.tokens:
                tokens = found.tokens[expert]
                self._add(
                    sums,
                    found.inputs(expert, first),
                    None if exact is None else exact.beside(expert, first, found),
                    None if visual is None else visual[tokens],
                    None if weights is None else weights.of(sample, tokens),
                )
        sums.close()
        columns = self.experts.linear(expert, projection).in_features
        stats = replace(sums.mixed(self._sums_of_layer(first), PRIOR * columns), seen=self.tokens(expert))
        return stats if not self.keep_inputs else self._with_inputs(stats, expert, first)

    def tokens(self, expert: int) -> int:
        """How many tokens reached an expert."""
        return sum(len(found.tokens[expert]) for _, found, _, _ in self._seen if expert in found.tokens)

    def _sums_of_layer(self, first: bool) -> _Sums:
        """Of all experts together; what enters the layer counts once for each token."""
        if first in self._layer:
            return self._layer[first]
        sums = self._layer[first] = _Sums()
        for _, found, exact, visual in self._seen:
            if first and found.hidden is not None:
                self._add(sums, found.hidden, None if exact is None else exact.hidden, visual, None)
                continue
            for expert, tokens in sorted(found.tokens.items()):
                beside = None if exact is None else exact.beside(expert, first, found)
                marks = None if visual is None else visual[tokens]
                self._add(sums, found.inputs(expert, first), beside, marks, None)
        sums.close()
        return sums

    def _add(
        self, sums: _Sums, x: Tensor, beside: Tensor | None, visual: Tensor | None, weights: Tensor | None
    ) -> None:
        """Add inputs x (n, in) by their modality."""
        if self.joint:
            chosen: dict[Modality, Tensor | slice] = {"all": slice(None)}
        else:
            chosen = {"visual": slice(None)} if visual is None else {"visual": visual, "text": ~visual}
        for modality, which in chosen.items():
            sums.add(modality, x[which], *(one if one is None else one[which] for one in (beside, weights)))

    def _with_inputs(self, stats: LinearStats, expert: int, first: bool) -> LinearStats:
        """With some inputs of the expert; of the layer if it has none."""
        sample, reached = TokenSample(), [expert]
        if not any(expert in found.tokens for _, found, _, _ in self._seen):
            reached = list(range(self.experts.num_experts))
        for _, found, _, visual in self._seen:
            for one in filter(found.tokens.__contains__, reached):
                marks = None if visual is None else visual[found.tokens[one]]
                sample.add(found.inputs(one, first).float(), marks)
        return replace(stats, inputs=sample.inputs, inputs_visual=sample.visual)


def _zeros(sums: dict[Modality, Tensor], modality: Modality, columns: int) -> Tensor:
    if modality not in sums:
        sums[modality] = torch.zeros(columns, columns, dtype=torch.float32, device="cpu")
    return sums[modality]
