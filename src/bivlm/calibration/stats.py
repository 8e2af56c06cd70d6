"""Second moments of the inputs of each linear of a block, by modality.

Linears that receive the very same tensor (q, k and v; gate and up) share one second moment. They are found by
the tensor's identity while the block runs. If the full-precision model runs as well, the residual between the
inputs of both models is accumulated too. If tokens are weighed by their gradients (gradients.py), every
linear has a second moment of its own, since its weights are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from bivlm.calibration.experts import ExpertStats, Routed, TokenWeights, watching_experts
from bivlm.calibration.moments import add_products, fill_lower_, pieces, sum_of
from bivlm.calibration.shares import Key, Shares
from bivlm.calibration.token_sample import TokenSample
from bivlm.crew import ALONE, Crew
from bivlm.crew.message import as_it_lies
from bivlm.families.experts import SplitExperts
from bivlm.families.linears import is_linear
from bivlm.types import LinearStats, Modality, ModalityWeight

Inputs = dict[str, Any]  # by name what linears receive, tensors, and layers of experts, `Routed`
TINY = 1e-30  # the total weight of tokens that no gradient reaches


@dataclass(frozen=True)
class Weighing:
    """What gradients say about some linears, by name: `weights` (t,) of the tokens of every sample, for
    linears whose tokens are weighed; the visual tokens' `shares` of the squared gradients; the `fisher`
    information (out, in) of their weights. `places` says, for the linears of experts, which tokens of every
    sample the weights are of.
    """

    weights: Mapping[str, Sequence[Tensor]]
    shares: Mapping[str, float | None]
    fisher: Mapping[str, Tensor]
    places: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)


@dataclass
class Seen:
    """What the linears received while one sample ran: `inputs` in the order in which they ran, the very same
    tensor where they shared it; `exact` by name what they received in the full-precision model, if it ran.
    A layer of experts has one entry for all of its linears.
    """

    inputs: list[tuple[str, Tensor | Routed]]
    exact: Inputs | None


class StatsCollector:
    """Accumulates the second moments of some linears over the samples that run through them.

    `visual_only` names the linears whose input is visual tokens alone; for them the mask is ignored. `joint`
    sums text and visual tokens together. `weighing` weighs the tokens by gradients; `looked_at` says by which
    weight the modalities of a linear will be joined; `keep_inputs` keeps some of the inputs. Memory: (in, in)
    float32 per shared input and modality; per linear and modality where tokens are weighed. In a `crew` every
    rank is shown every sample, holds its pieces of the sums, and at the end (`bring`) all of some linears.
    `experts` are the layers of experts by path that some of the linears belong to; every rank has their
    inputs.
    """

    def __init__(
        self,
        linears: Mapping[str, nn.Linear],
        visual_only: frozenset[str] = frozenset(),
        *,
        joint: bool = False,
        weighing: Weighing | None = None,
        looked_at: Mapping[str, ModalityWeight] | None = None,
        keep_inputs: bool = False,
        experts: Mapping[str, SplitExperts] | None = None,
        crew: Crew = ALONE,
    ) -> None:
        self.linears, self.visual_only, self.joint, self.weighing = linears, visual_only, joint, weighing
        self.looked_at, self.keep_inputs = looked_at or {}, keep_inputs
        self.crew, self._shares = crew, Shares(crew)
        self._experts = {
            path: ExpertStats(
                path, layer, joint=joint, weights=_of_experts(weighing), keep_inputs=keep_inputs
            )
            for path, layer in (experts or {}).items()
        }
        self._layer_of = {
            name: layer
            for name in linears
            for path in [name.rpartition(".")[0].rpartition(".")[0]]
            if (layer := self._experts.get(path)) is not None
        }
        self._samples: dict[str, TokenSample] = {}  # by leader
        self._leader: dict[str, str] = {}
        self._sums: dict[str, dict[Modality, Tensor]] = {}
        self._tokens: dict[str, dict[Modality, float]] = {}
        self._residuals: dict[str, dict[Modality, Tensor]] = {}
        self._stats: dict[str, LinearStats] = {}  # by leader, once they are asked for
        self._finished: set[str] = set()  # linears whose statistics have had their use

    @contextmanager
    def inputs(self) -> Iterator[Inputs]:
        """While one sample runs: the input of each linear, by its name."""
        inputs: Inputs = {}
        with self._hooked(
            lambda name, x: inputs.__setitem__(name, x if isinstance(x, Routed) else x.detach())
        ):
            yield inputs

    @contextmanager
    def watching(
        self, visual: Tensor | None, exact: Mapping[str, Any] | None = None, number: int = 0
    ) -> Iterator[None]:
        """While sample `number` runs: `visual` (t,) marks its visual tokens; None means that all are visual
        (vision tower, projector).

        `exact` has the linears' inputs (`inputs`) for the same sample in the full-precision model.
        """
        with self._hooked(self._observer(visual, exact, number)):
            yield

    @contextmanager
    def recording(self, exact: Inputs | None = None) -> Iterator[Seen]:
        """While one sample runs: what `add` is to be given, here and on the other ranks."""
        kept: dict[int, tuple[Tensor, Tensor]] = {}  # the tensors are kept alive, so that no id is used twice
        seen = Seen([], None if exact is None else {})

        def note(name: str, x: Tensor | Routed) -> None:
            if isinstance(x, Routed):
                seen.inputs.append((name, x))
                if exact is not None and seen.exact is not None:
                    seen.exact[name] = exact[name]
                return
            first = id(x) not in kept
            if first:
                kept[id(x)] = x, as_it_lies(x)
            seen.inputs.append((name, kept[id(x)][1]))
            if exact is not None and seen.exact is not None and (first or self._own(name)):
                seen.exact[name] = exact[name]

        with self._hooked(note):
            yield seen

    def add(self, seen: Seen, visual: Tensor | None, number: int) -> None:
        """Add what was recorded while sample `number` ran, as `watching` does at once."""
        observe = self._observer(visual, seen.exact, number)
        for name, x in seen.inputs:
            observe(name, x)

    def _observer(
        self, visual: Tensor | None, exact: Mapping[str, Any] | None, number: int
    ) -> Callable[[str, Tensor | Routed], None]:
        seen: dict[int, tuple[str, Tensor]] = {}  # the tensors are kept alive, so that no id is used twice

        def observe(name: str, x: Tensor | Routed) -> None:
            if isinstance(x, Routed):
                self._experts[name].add(number, x, visual, None if exact is None else exact[name])
                return
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

        return observe

    @contextmanager
    def _hooked(self, see: Callable[[str, Tensor | Routed], object]) -> Iterator[None]:
        """Within this context `see` is given the name and the input of every linear that runs, and at the end
        what every layer of experts has received.
        """

        def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            def before(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
                see(name, args[0])

            return before

        with ExitStack() as hooks:
            for name, linear in self.linears.items():
                if name not in self._layer_of:
                    hooks.callback(linear.register_forward_pre_hook(hook(name)).remove)
            routed = {
                path: hooks.enter_context(watching_experts(layer.experts))
                for path, layer in self._experts.items()
            }
            yield
        for path, found in routed.items():
            if found.tokens:
                see(path, found)

    def _own(self, name: str) -> bool:
        """Whether a linear has a second moment of its own."""
        return self.weighing is not None and name in self.weighing.weights

    def _add(self, name: str, x: Tensor, visual: Tensor | None, exact: Tensor | None, number: int) -> None:
        if name in self._stats:
            raise ValueError(f"the statistics of {name} are closed: they have been asked for")
        rows = x.detach().reshape(-1, x.shape[-1])
        if self.keep_inputs and self._shares.mine((name, "inputs", "all"), rows.shape[1]):
            self._samples.setdefault(name, TokenSample()).add(rows.float().cpu(), visual)
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
            count = len(rows) if isinstance(which, slice) else int(which.sum())
            if count == 0:
                continue
            self._accumulate(name, modality, x, exact, which, None if weights is None else weights[which])
            counted = count if weights is None else float(weights[which].double().sum())
            tokens[modality] = tokens.get(modality, 0) + counted

    def _accumulate(
        self,
        name: str,
        modality: Modality,
        x: Tensor,
        exact: Tensor | None,
        which: Tensor | slice,
        weights: Tensor | None,
    ) -> None:
        """Add the tokens `which` of an input to this rank's pieces of the sums; `weights` (t,) are theirs."""
        columns = x.shape[-1]
        moment = self._shares.mine((name, "moment", modality), columns)
        residual = set() if exact is None else self._shares.mine((name, "residual", modality), columns)
        if not moment and not residual:
            return
        rows = x.detach().reshape(-1, columns).float()
        which = which if isinstance(which, slice) else which.to(x.device)
        root = None if weights is None else weights[:, None].sqrt().to(x.device)
        part = rows[which] if root is None else rows[which] * root
        part = part.to(x.dtype).float() if x.dtype == torch.bfloat16 else part
        if moment:
            total = sum_of(self._sums, name, modality, columns, x.device)
            add_products(total, part, part, x.dtype, moment)
        if exact is not None and residual:
            away = exact.reshape(rows.shape).float() - rows
            gone = away[which] if root is None else away[which] * root
            total = sum_of(self._residuals, name, modality, columns, x.device)
            add_products(total, gone, part, x.dtype, residual)

    def key_of(self, name: str) -> str | None:
        """The linear whose statistics a linear has: itself, or one that shares its input; None if it received
        none.
        """
        if (layer := self._layer_of.get(name)) is not None:
            return name if layer.was_reached else None
        return name if self._own(name) else self._leader.get(name)

    @torch.inference_mode()
    def bring(self, owners: Mapping[str, int]) -> None:
        """After all samples: put the sums of every linear together on the rank that quantizes it, by its
        name. The other ranks drop them.
        """
        if self.crew.size == 1:
            return
        self.crew.agree()
        for key, holders in self._shares.holders.items():
            self._bring(key, holders, owners[key[0]])

    def _bring(self, key: Key, holders: Sequence[int], to: int) -> None:
        name, kind, modality = key
        if kind == "inputs":
            kept = self.crew.move(self._samples.pop(name, None), holders[0], to)
            if kept is not None:
                self._samples[name] = kept
            return
        sums = self._sums if kind == "moment" else self._residuals
        columns = self.linears[name].in_features
        for (rows, own), holder in zip(pieces(columns, kind == "moment"), holders, strict=True):
            if holder != to:
                held = None
                if holder == self.crew.rank:
                    held = sums[name][modality][rows, own].contiguous()
                moved = self.crew.move(held, holder, to)
                if moved is not None:
                    sum_of(sums, name, modality, columns, moved.device)[rows, own] = moved
        if self.crew.rank != to and name in sums:
            sums[name].pop(modality, None)

    def groups(self) -> list[list[str]]:
        """The linears that received an input, grouped by the tensor that they receive, in the order in which
        they ran.
        """
        groups: dict[str, list[str]] = {}
        for name, leader in self._leader.items():
            groups.setdefault(leader, []).append(name)
        return [*groups.values(), *([name] for name, layer in self._layer_of.items() if layer.was_reached)]

    def stats(self, name: str) -> LinearStats:
        """Statistics of the inputs of the linear `name`, after all samples: the sums become means in place.
        Those of an expert are summed at each call. Raises ValueError if it received none.
        """
        if (layer := self._layer_of.get(name)) is not None:
            return self._weighed(name, layer.stats(name))
        leader = self.key_of(name)
        if leader is None or leader not in self._sums:
            raise ValueError(f"no calibration sample reached {name}")
        if leader not in self._stats:
            tokens = self._tokens[leader]
            # in one order everywhere: they will be added
            moments: dict[Modality, Tensor] = {modality: self._sums[leader][modality] for modality in tokens}
            residuals: dict[Modality, Tensor] | None = None
            if leader in self._residuals:
                residuals = {modality: self._residuals[leader][modality] for modality in tokens}
            with torch.inference_mode():  # the sums were made in it
                for total in moments.values():
                    fill_lower_(total)
                for sums in filter(None, (moments, residuals)):
                    for modality, total in sums.items():
                        total /= max(tokens[modality], TINY)
            kept = self._samples.get(leader)
            found = LinearStats(moments, dict(tokens), residuals)
            if kept is not None:
                found = replace(found, inputs=kept.inputs, inputs_visual=kept.visual)
            self._stats[leader] = self._joined(name, found)
        return self._weighed(name, self._stats[leader])

    def forget(self, name: str) -> None:
        """The linear `name` needs its statistics no longer: they leave the memory when that is so for all
        linears that share its input.
        """
        self._finished.add(name)
        key = self.key_of(name)
        if all(other in self._finished for other in self._leader if self.key_of(other) == key):
            for by_key in (self._sums, self._residuals, self._samples, self._stats):
                by_key.pop(key or name, None)

    @torch.inference_mode()
    def _joined(self, name: str, found: LinearStats) -> LinearStats:
        """Wide moments of two modalities joined by the weight that is known, if the linear alone has them."""
        weight, weighed = self.looked_at.get(name, "tokens"), self._weighed(name, found)
        known = weight != "tokens" and (weight != "gradient" or weighed.visual_share is not None)
        wide = len(pieces(self.linears[name].in_features, True)) > 1
        key = self.key_of(name)
        alone = key is not None and sum(self.key_of(other) == key for other in self._leader) == 1
        if not (known and wide and alone) or found.residuals is not None or len(found.second_moments) < 2:
            return found
        assert key is not None
        self._sums[key] = {}
        return weighed.joined_by(weight)

    def _weighed(self, name: str, found: LinearStats) -> LinearStats:
        """Statistics with what gradients say about the linear `name`."""
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
    looked_at: Mapping[str, ModalityWeight] | None = None,
    keep_inputs: bool = False,
    crew: Crew = ALONE,
) -> StatsCollector:
    """A collector for the linears `names` of `model`. Those whose name ends in one of `visual_linears`
    receive visual tokens alone; the rest is as StatsCollector has it.
    """
    linears = {name: model.get_submodule(name) for name in names}
    visual = {name for name in linears if any(name.endswith(f".{ending}") for ending in visual_linears)}
    watched = {name: linear for name, linear in linears.items() if is_linear(linear)}
    layers = {
        path: layer
        for path in dict.fromkeys(name.rpartition(".")[0].rpartition(".")[0] for name in watched)
        if isinstance(layer := model.get_submodule(path), SplitExperts)
    }
    return StatsCollector(
        watched,
        frozenset(visual),
        joint=joint,
        weighing=weighing,
        looked_at=looked_at,
        keep_inputs=keep_inputs,
        experts=layers,
        crew=crew,
    )


def _of_experts(weighing: Weighing | None) -> dict[str, TokenWeights]:
    """The weights of the tokens of experts' linears, by name."""
    if weighing is None:
        return {}
    places = weighing.places
    return {
        name: TokenWeights(values, places[name])
        for name, values in weighing.weights.items()
        if name in places
    }
