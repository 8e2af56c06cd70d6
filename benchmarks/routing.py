"""Which experts the tokens of a model go to: seen, compared with another model's choice, or put in its place.

It sees what every layer of experts is given (the chosen experts of every token and their weights), fused or
split, in full precision or packed. A set of experts is compared with another by two numbers: the share of the
tokens whose set differs, and the share of the routing mass, which is the weight that full precision gives to
experts that the other model does not choose.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bivlm.eval.answer import Answers, inference, prepare
from bivlm.eval.divergence import distances
from bivlm.eval.fidelity import ReferenceAnswers, answer_logits
from bivlm.eval.statistics.means import geometric_mean
from bivlm.families import family_of
from bivlm.families.experts import SplitExperts, layout_of
from bivlm.types import Sample


@dataclass(frozen=True)
class Choice:
    """What a layer of experts was given in one forward pass: `index` and `weights` (t, k)."""

    index: Tensor
    weights: Tensor

    def dense(self, experts: int) -> Tensor:
        """The weight (t, experts) that every token gives to every expert."""
        found = torch.zeros(len(self.index), experts)
        return found.scatter_add_(1, self.index.cpu(), self.weights.float().cpu())


@dataclass
class Routing:
    """The choices of every layer, by its path, one for each forward pass; and of every pass which tokens
    (rows, columns) are real, and which are visual.
    """

    choices: dict[str, list[Choice]] = field(default_factory=dict)
    real: list[Tensor] = field(default_factory=list)
    visual: list[Tensor] = field(default_factory=list)


def expert_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers of experts by path."""
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, SplitExperts) or layout_of(module) is not None
    }


@contextmanager
def routed(model: nn.Module, seen: Routing | None = None, given: Routing | None = None) -> Iterator[None]:
    """Within this context what the layers of experts receive is noted in `seen`; with `given` they receive
    that instead, pass by pass.
    """
    counts: dict[str, int] = {}

    def hook(path: str) -> Any:
        def before(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if seen is not None:
                seen.choices.setdefault(path, []).append(Choice(args[1].clone(), args[2].clone()))
            if given is None:
                return None
            one = given.choices[path][counts.get(path, 0)]
            counts[path] = counts.get(path, 0) + 1
            return args[0], one.index, one.weights.to(args[2].dtype)

        return before

    def whole(_module: nn.Module, _args: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        if seen is not None:
            seen.real.append(named["attention_mask"].bool().cpu())
            seen.visual.append((named["input_ids"] == model.config.image_token_id).cpu())

    with ExitStack() as hooks:
        hooks.callback(model.register_forward_pre_hook(whole, with_kwargs=True).remove)
        for path, module in expert_layers(model).items():
            hooks.callback(module.register_forward_pre_hook(hook(path)).remove)
        yield


@dataclass(frozen=True)
class Asked:
    """A model with the answers of the full-precision one that it is judged by, on some samples."""

    model: Any
    processor: Any
    samples: Sequence[Sample]
    reference: ReferenceAnswers

    def divergences(self, seen: Routing | None = None, given: Routing | None = None) -> list[float]:
        """The KL divergence (nats per token) of every question, with the routing seen or given."""
        family, start, found = family_of(self.model.config), 0, []
        with inference(self.model), routed(self.model, seen, given):
            for number, size in enumerate(self.reference.sizes):
                batch, chosen = self.reference.batch(number), self.samples[start : start + size]
                start += size
                inputs = prepare(self.model, self.processor, family, chosen)
                logits = answer_logits(self.model, family, inputs, Answers(batch.tokens, batch.mask, 0))
                rows = distances(batch.logits, logits).kl.split(batch.mask.sum(1).tolist())
                found += [float(own.double().mean()) for own in rows]
        return found


@dataclass(frozen=True)
class Drift:
    """How the choice of a layer differs from full precision's: share of the tokens whose set differs, share
    of the routing mass that goes to other experts, and how far the load of the experts moved (half the sum of
    the differences of their shares).
    """

    tokens: float
    mass: float
    load: float


def drift(full: Routing, other: Routing, path: str, experts: int, which: str = "all") -> Drift:
    """The drift of the layer at `path`, of all real tokens, or of the "visual" ones or those of the
    "text".
    """
    chosen = marks(full, which)
    mine, theirs = (
        torch.cat([choice.dense(experts) for choice in one.choices[path]])[chosen] for one in (full, other)
    )
    changed = ((mine > 0) != (theirs > 0)).any(1)
    gone = (mine * (theirs == 0)).sum(1) / mine.sum(1)
    before, after = (loads(one, path, experts, which) for one in (full, other))
    return Drift(
        float(changed.double().mean()), float(gone.double().mean()), float((before - after).abs().sum() / 2)
    )


def marks(routing: Routing, which: str) -> Tensor:
    """The tokens of all passes, one after the other, that are meant."""
    real = torch.cat([one.flatten() for one in routing.real])
    if which == "all":
        return real
    visual = torch.cat([one.flatten() for one in routing.visual])
    return real & (visual if which == "visual" else ~visual)


def shuffled(routing: Routing, experts: int, seed: int = 0) -> Routing:
    """The routing with the experts of every layer renamed at random: as many for every token, others."""
    generator, choices = torch.Generator().manual_seed(seed), {}
    for path, own in routing.choices.items():
        names = torch.randperm(experts, generator=generator)
        choices[path] = [Choice(names[one.index], one.weights) for one in own]
    return Routing(choices, routing.real, routing.visual)


@dataclass(frozen=True)
class Profile:
    """How a layer routes: the entropy of the experts' loads as a share of the largest possible, the smallest
    and the largest load in units of the mean, and how far the loads of visual and of text tokens are apart
    (half the sum of the differences).
    """

    entropy: float
    fewest: float
    most: float
    apart: float


def loads(routing: Routing, path: str, experts: int, which: str = "all") -> Tensor:
    """The share (experts,) of the choices of a layer that fall on every expert."""
    dense = torch.cat([choice.dense(experts) for choice in routing.choices[path]])[marks(routing, which)]
    counts = (dense > 0).double().sum(0)
    return counts / counts.sum()


def profile(routing: Routing, path: str, experts: int) -> Profile:
    """What the layer at `path` does."""
    whole, visual, text = (loads(routing, path, experts, which) for which in ("all", "visual", "text"))
    chosen = whole[whole > 0]
    return Profile(
        float(-(chosen * chosen.log()).sum() / math.log(experts)),
        float(whole.min() * experts),
        float(whole.max() * experts),
        float((visual - text).abs().sum() / 2),
    )


def means(divergences: Sequence[float]) -> tuple[float, float]:
    """The arithmetic and the geometric mean."""
    return sum(divergences) / len(divergences), geometric_mean(divergences)
