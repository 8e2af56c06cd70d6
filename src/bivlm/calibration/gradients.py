"""Gradients: which errors the answers feel. One backward pass of the full-precision model, at no stored bit.

The loss is the cross-entropy of the samples' targets (the answers, or the next tokens of a text). Its
gradient with respect to the outputs of a linear, g (t, out), says how much an error of each output matters:
to second order the loss grows by E[(g δ)²], the Fisher information in place of the curvature. Averaged over
the outputs this is one number for every token, Σ_o g_o² / out, and with it in the second moment

    H = E[s x xᵀ]        s the token's number

a quantizer spends its error on the tokens that the answers do not feel (GuidedQuant, Kim et al., arXiv
2505.07004, with one group of outputs). The numbers are very uneven: with few samples the moment of a handful
of tokens is left. So a power of them is used (`Quantizer.gradient_power`), divided by its mean.

From the same pass: the visual tokens' share of the squared gradients (MBQ, arXiv 2412.19509, uses such a
ratio), the squared gradients of every block's outputs (for the loss of tuning), and, for the linears that ask
for it, the squared gradient of every weight (Fisher information, as SqueezeLLM, arXiv 2306.07629, uses it).

For an embedding model the loss is rᵀv, with v the vector of the prompt and r random signs, seeded for each
sample. To second order 1 - cosine is half of ‖δv‖², and over all r the mean of (rᵀδv)² is ‖δv‖²: the squared
gradients have the mean of what the curvature of 1 - cosine would give (Hutchinson's estimate of a trace).
For a model that says actions as tokens (actions.py) it is rᵀa in the same way, with a their values.

The samples are passed a few at a time, block by block (exact.py), and back to the first block of which
gradients are wanted. Of the weights torch makes no gradients: they would be a third of the backward pass, and
those that are asked for come from the gradients of the outputs. Finished samples are kept in a file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bivlm.actions import ActionTokens
from bivlm.calibration.exact import ExactPass, chunks
from bivlm.calibration.gradient_hooks import (
    COHERENCE,
    coherence_hook,
    passing_on,
    places_hook,
    squares_hook,
)
from bivlm.calibration.inputs import CalibrationInput
from bivlm.checkpoint.kept import read_kept, write_kept
from bivlm.checkpoint.source import SourceModel
from bivlm.crew import ALONE, Crew
from bivlm.errors import InputError
from bivlm.events import SILENT, Events
from bivlm.families.experts import Expert
from bivlm.pooling import Pooling

MEASURING = "samples differentiated"  # what the progress is called
LOSS_SCALE = 1024.0  # for models in float16, whose gradients would vanish
FISHER = "fisher:"  # before the name of a linear in the file
_NO_TOKENS = torch.zeros(0, dtype=torch.float32, device="cpu")


@dataclass(frozen=True)
class Gradients:
    """Squared gradients on some samples.

    `tokens[name]` (Σ t,) float32 has, for every token of all samples one after the other, the mean squared
    gradient of the outputs of a linear, or of a block, by its name; `lengths[name]` the number of tokens of
    each sample, 0 for one that does not meet it. A linear of an expert has only the tokens that are routed to
    it, and `tokens` of the expert, by its path, has their numbers in the sample. `tokens` of COHERENCE and a
    linear's name, in float64, has two numbers for each of its calls: ‖Σ_t g_t x_tᵀ‖² and Σ_t ‖g_t x_tᵀ‖², x_t
    (in,) its inputs. `fisher[name]` (out, in) float32 is the squared gradient of a weight, summed over the
    samples.
    """

    tokens: Mapping[str, Tensor]
    lengths: Mapping[str, tuple[int, ...]]
    fisher: Mapping[str, Tensor]

    def weights(self, name: str, power: float) -> list[Tensor] | None:
        """The weights (t,) of the tokens of every sample: the power of their squared gradients, 1 on average
        over all samples. None if all gradients are zero, or none were measured.
        """
        if name not in self.tokens:
            return None
        raised = self.tokens[name].double() ** power
        mean = raised.mean()
        if not mean > 0:
            return None
        return list((raised / mean).float().split(list(self.lengths[name])))

    def places(self, name: str) -> list[Tensor] | None:
        """Which tokens (n,) int64 of every sample reach a linear of an expert; None for every other."""
        expert = name.rpartition(".")[0]
        if expert not in self.tokens:
            return None
        return list(self.tokens[expert].long().split(list(self.lengths[expert])))

    def coherence(self, name: str) -> float:
        """How much more the answers feel the errors of a linear's tokens together than one by one: for an
        error of the weight that is independent everywhere, the mean of (Σ_t g_tᵀ ΔW x_t)² over that of
        Σ_t (g_tᵀ ΔW x_t)², which is ‖Σ_t g_t x_tᵀ‖² / Σ_t ‖g_t x_tᵀ‖², within one call. 1 if all is zero.

        Visual tokens of a flat picture are alike, and so are their errors and gradients: it is largest in
        projectors and late vision blocks. For tokens that have nothing in common it is 1.
        Raises KeyError if it was not measured.
        """
        joint, alone = self.tokens[COHERENCE + name].double().view(-1, 2).sum(0).tolist()
        return joint / alone if alone > 0 else 1.0

    def effective_tokens(self, name: str, power: float) -> float:
        """(Σ w)² / Σ w² of the tokens' weights w: how many equal tokens would give as sure a mean (Kish,
        Survey Sampling, 1965). 0 if all gradients are zero, or none were measured.
        """
        if name not in self.tokens:
            return 0.0
        raised = self.tokens[name].double() ** power
        return float(raised.sum() ** 2 / raised.square().sum()) if raised.sum() > 0 else 0.0

    def visual_share(self, name: str, visual: Sequence[Tensor]) -> float | None:
        """The visual tokens' share of the squared gradients, for the masks (t,) of all samples. None if all
        gradients are zero, or none were measured.
        """
        if name not in self.tokens:
            return None
        places = self.places(name)
        if places is not None:
            visual = [mask[numbers] for mask, numbers in zip(visual, places, strict=True)]
        met = [mask for mask, length in zip(visual, self.lengths[name], strict=True) if length]
        squares, mask = self.tokens[name].double(), torch.cat([*met, _NO_TOKENS.bool()])
        if squares.shape != mask.shape or not squares.sum() > 0:
            return None
        return float(squares[mask].sum() / squares.sum())


@dataclass(frozen=True)
class _About:
    """What the gradients are about: vectors, actions, or the next tokens; and whether the linears' coherence
    is measured.
    """

    pooling: Pooling | None
    actions: ActionTokens | None
    coherence: bool

    def loss(self, result: Tensor, sample: CalibrationInput, number: int) -> Tensor:
        """The loss of sample `number` with its vector (1, d), or its logits (targets, vocabulary)."""
        if self.pooling is not None:
            return (result * _signs(number, result.shape[1])).sum()
        if self.actions is not None:
            values = self.actions.values(result[self.actions.among(sample.labels)])
            return values @ _signs(number, len(values))
        return nn.functional.cross_entropy(result.float(), sample.labels, reduction="sum")


@dataclass
class _Sums:
    """What a pass has seen so far."""

    fishers: Collection[str]
    tokens: dict[str, list[Tensor]] = field(default_factory=dict)
    fisher: dict[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        kept = {name: torch.cat(parts) for name, parts in self.tokens.items()}
        kept |= {f"{name}.lengths": _lengths(parts) for name, parts in self.tokens.items()}
        return kept | {FISHER + name: value for name, value in self.fisher.items()}


def measure_gradients(
    source: SourceModel,
    linears: Mapping[str, Sequence[str]],
    samples: Sequence[CalibrationInput],
    *,
    chosen: Sequence[int] | None = None,
    fishers: Collection[str] = (),
    folder: Path | None = None,
    pooling: Pooling | None = None,
    actions: ActionTokens | None = None,
    coherence: bool = False,
    events: Events = SILENT,
    crew: Crew = ALONE,
) -> Gradients:
    """The gradients of some linears on samples that all have targets (with `pooling` those of the samples'
    vectors, without targets; with `actions` those of the values of the targets that are actions): `linears`
    has those of every block, by its path, in the order in which the model runs them; of a block without
    linears nothing is measured. Only the samples with the numbers `chosen`, ascending, are measured; the
    others meet no linear. `fishers` names the linears whose weights' gradients are wanted; `coherence` says
    whether that of all linears is. In `folder` of the first rank finished samples are kept, and taken up
    again. The ranks of a `crew` share the samples out, unless gradients of weights are wanted: their sums
    over the samples are made by the first rank alone.

    Raises InputError if a loss is not finite.
    """
    numbers = range(len(samples)) if chosen is None else chosen
    done, found, about = 0, [], _About(pooling, actions, coherence)
    for index, part in enumerate(chunks(source, len(linears), [samples[number] for number in numbers])):
        events.progress(MEASURING, done, len(numbers))
        kept = None if folder is None else folder / f"gradients-{index:05d}.safetensors"
        tensors = crew.broadcast(None if kept is None else read_kept(kept))
        if tensors is None:
            tensors = _together(source, linears, part, fishers, numbers[done : done + len(part)], crew, about)
            if kept is not None:
                write_kept(kept, tensors)
        found.append(tensors)
        done += len(part)
    events.progress(MEASURING, done, len(numbers))
    return _joined(found, numbers, len(samples))


def _together(
    source: SourceModel,
    linears: Mapping[str, Sequence[str]],
    samples: Sequence[CalibrationInput],
    fishers: Collection[str],
    numbers: Sequence[int],
    crew: Crew,
    about: _About,
) -> dict[str, Tensor]:
    """One pass over some samples, which have these `numbers` among all, by all ranks of a crew."""
    if fishers:
        made = _pass(source, linears, samples, fishers, numbers, about).tensors() if crew.is_first else None
        found = crew.broadcast(made)
        assert found is not None
        return found
    own = [place for place in range(len(samples)) if crew.owns(place)]
    given, told = [samples[place] for place in own], [numbers[place] for place in own]
    mine = _pass(source, linears, given, (), told, about)
    each = crew.gather(mine.tokens)
    tokens = {
        name: [each[crew.owner(place)][name][place // crew.size] for place in range(len(samples))]
        for name in mine.tokens
    }
    return _Sums((), tokens).tensors()


def _pass(
    source: SourceModel,
    linears: Mapping[str, Sequence[str]],
    samples: Sequence[CalibrationInput],
    fishers: Collection[str],
    numbers: Sequence[int],
    about: _About,
) -> _Sums:
    """One pass over some samples, whose `numbers` among all are for messages."""
    scale = LOSS_SCALE if source.dtype == torch.float16 else 1.0
    sums = _Sums(fishers)

    def loss(number: int, result: Tensor) -> Tensor:
        total = about.loss(result, samples[number], numbers[number])
        if not bool(total.isfinite()):
            raise InputError(
                f"calibration sample {numbers[number] + 1}: the full-precision model's loss is"
                f" {float(total.detach()):g}; gradients cannot be measured on it: leave the sample out, or"
                " choose a recipe without gradients"
            )
        return total * scale

    @contextmanager
    def watch(path: str, module: nn.Module, number: int) -> Iterator[None]:
        if not linears[path]:
            yield
            return
        below = {name: _below(module, name, path) for name in linears[path]}
        watched = below | {path: module}
        seen, weights = dict[str, list[Tensor]](), dict[str, Tensor]()
        handles = [
            child.register_forward_hook(
                squares_hook(name, seen, weights if name in sums.fishers else None, scale)
            )
            for name, child in watched.items()
        ]
        if about.coherence:
            handles += [
                child.register_forward_hook(coherence_hook(name, seen, scale))
                for name, child in below.items()
            ]
        handles += [
            _below(module, name, path).register_forward_pre_hook(places_hook(name, seen))
            for name in experts[path]
        ]
        try:
            with passing_on(below.values()):
                yield
        finally:
            for handle in handles:
                handle.remove()
        for name, squares in seen.items():
            kept = sums.tokens.setdefault(name, [])
            kept += [_NO_TOKENS] * (number - len(kept))  # samples that do not meet the block
            kept.append(torch.cat(squares))
        for name, gradient in weights.items():
            sums.fisher[name] = sums.fisher.get(name, torch.zeros_like(gradient)) + gradient.square()

    measured = {path: below for path, below in linears.items() if below}
    experts = {path: _experts_of(source, below) for path, below in measured.items()}
    with _frozen_around(source, list(linears)):
        ExactPass(source, list(linears), samples, about.pooling).differentiate(loss, watch, measured)
    coherent = [COHERENCE + name for below in measured.values() for name in below if about.coherence]
    own = [name for path, below in measured.items() for name in (path, *below, *experts[path])]
    for name in own + coherent:
        kept = sums.tokens.setdefault(name, [])
        kept += [_NO_TOKENS] * (len(samples) - len(kept))
    return sums


@contextmanager
def _frozen_around(source: SourceModel, blocks: Sequence[str]) -> Iterator[None]:
    """Within this context parameters outside the blocks get no gradients: those of the embedding and the head
    are as large as these.
    """
    inside = {name for path in blocks for name in source.parameter_names(path)}
    before = {
        name: parameter.requires_grad
        for name, parameter in source.model.named_parameters()
        if name not in inside
    }
    for name in before:
        source.model.get_parameter(name).requires_grad_(False)
    head: Any = source.model.get_output_embeddings()
    handle = None if head is None else head.register_forward_pre_hook(_compacted)
    try:
        yield
    finally:  # by name: their weights are in other parameters by now
        if handle is not None:
            handle.remove()
        for name, wanted in before.items():
            source.model.get_parameter(name).requires_grad_(wanted)


def _compacted(_head: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The last positions in memory of their own: with a frozen weight, torch multiplies a part of a tensor
    batch by batch, which takes forty times as long.
    """
    return (args[0].clone(memory_format=torch.contiguous_format), *args[1:])


def _signs(number: int, dimensions: int) -> Tensor:
    """Random signs (d,) float32 for sample `number`, always the same."""
    random = torch.Generator("cpu").manual_seed(number)
    return torch.randint(0, 2, (dimensions,), generator=random, device="cpu").float() * 2 - 1


def _experts_of(source: SourceModel, linears: Sequence[str]) -> list[str]:
    """The paths of the experts that some of the linears belong to."""
    owners = dict.fromkeys(name.rpartition(".")[0] for name in linears)
    return [path for path in owners if isinstance(source.model.get_submodule(path), Expert)]


def _below(module: nn.Module, name: str, path: str) -> nn.Module:
    return module if name == path else module.get_submodule(name.removeprefix(f"{path}."))


def _lengths(parts: Sequence[Tensor]) -> Tensor:
    return torch.tensor([len(part) for part in parts], dtype=torch.int64, device="cpu")


def _joined(parts: Sequence[Mapping[str, Tensor]], numbers: Sequence[int], count: int) -> Gradients:
    """What was measured in `parts` on the samples with these `numbers` among `count`."""
    ends = ".lengths"
    names = [name.removesuffix(ends) for name in parts[0] if name.endswith(ends)]
    # a weight that no sample of a part meets has no gradient there
    fishers = dict.fromkeys(name for part in parts for name in part if name.startswith(FISHER))
    return Gradients(
        {name: torch.cat([part[name] for part in parts]) for name in names},
        {
            name: _among([n for part in parts for n in part[name + ends].tolist()], numbers, count)
            for name in names
        },
        {
            name.removeprefix(FISHER): torch.stack([part[name] for part in parts if name in part]).sum(0)
            for name in fishers
        },
    )


def _among(lengths: Sequence[int], numbers: Sequence[int], count: int) -> tuple[int, ...]:
    """The lengths of all samples, 0 for those that are none of these `numbers`."""
    known = dict(zip(numbers, lengths, strict=True))
    return tuple(known.get(number, 0) for number in range(count))
