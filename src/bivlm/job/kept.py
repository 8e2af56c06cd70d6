"""What stays in full precision because no method packs it: the weights of linears of other kinds, and fused
experts, which are parameters of three dims. It is always said, with its share of the model's bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

from bivlm.checkpoint.source import SourceModel
from bivlm.errors import InputError
from bivlm.families.found.structure import pattern_of
from bivlm.families.linears import is_linear
from bivlm.job.plan import Plan
from bivlm.types import PartName

EXPERTS = "fused experts"
MOST_EXPERTS = 0.5  # of the blocks' weights: more are kept only if the user says so


@dataclass(frozen=True)
class KeptWeights:
    """Weights of one kind in one part: `kind` is the class of their linear, or "fused experts"; `names` are
    their parameters, with `*` for numbers; `matrices` counts each expert.
    """

    part: PartName | None
    kind: str
    names: tuple[str, ...]
    matrices: int
    weights: int
    nbytes: int

    @property
    def because(self) -> str:
        """Why they stay, for tables."""
        return EXPERTS if self.kind == EXPERTS else f"{self.kind} is no plain linear"

    def to_dict(self) -> dict[str, Any]:
        """Its entry in config.json."""
        return {
            "part": self.part or "outside",
            "kind": self.kind,
            "names": list(self.names),
            "weights": self.weights,
            "bytes": self.nbytes,
        }


def kept_weights(source: SourceModel) -> tuple[KeptWeights, ...]:
    """The weights that look like linears and are none, by part and kind."""
    found: dict[tuple[PartName | None, str], list[str]] = {}
    for name, kind in _odd_weights(source):
        found.setdefault((_part_of(source, name), kind), []).append(name)
    kept = []
    for (part, kind), names in found.items():
        entries = [source.entries[name] for name in names]
        kept.append(
            KeptWeights(
                part,
                kind,
                tuple(dict.fromkeys(map(pattern_of, names))),
                sum(entry.shape[0] if kind == EXPERTS else 1 for entry in entries),
                sum(_count(source, name) for name in names),
                sum(entry.nbytes for entry in entries),
            )
        )
    return tuple(kept)


def kept_bytes(source: SourceModel, plan: Plan) -> tuple[int, float]:
    """Bytes of all stored tensors that are not packed, and their share of all bytes."""
    packed = {
        f"{weight.name}.weight" for weight in plan.weights if weight.quantizer is not None
    } | plan.shared
    entries = {**source.entries, **source.extra}
    total = sum(entry.nbytes for entry in entries.values())
    kept = sum(entry.nbytes for name, entry in entries.items() if name not in packed)
    return kept, kept / total


def check_experts(source: SourceModel, plan: Plan, parts: Collection[PartName]) -> None:
    """InputError if more than half of the weights in the blocks of the chosen parts are fused experts that
    the family does not keep on purpose.
    """
    stacks = source.family.stacks
    blocks = tuple(f"{block.path}." for block in plan.blocks if stacks[block.stack].part in parts)
    inside = sum(_count(source, name) for name in source.entries if name.startswith(blocks))
    experts = [
        name
        for name, kind in _odd_weights(source)
        if kind == EXPERTS and name.startswith(blocks) and not _kept_by_family(source, name)
    ]
    share = sum(_count(source, name) for name in experts) / max(inside, 1)
    if share > MOST_EXPERTS:
        raise InputError(
            f"{source.folder}: {share:.0%} of the weights in its blocks are fused experts ({experts[0]}, …),"
            " which are not packed and would stay in full precision; to pack the rest all the same:"
            " --allow-kept-experts (allow_kept_experts=True)"
        )


def _odd_weights(source: SourceModel) -> Iterator[tuple[str, str]]:
    """The parameters of linears of other kinds with their class, and those of fused experts."""
    for path, module in source.model.named_modules():
        for last, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{last}" if path else last
            if name not in source.entries:
                continue
            if isinstance(module, nn.Linear) and not is_linear(module) and last == "weight":
                yield name, type(module).__name__
            elif parameter.ndim == 3 and min(parameter.shape) > 1 and not isinstance(module, _ConvNd):
                yield name, EXPERTS


def _part_of(source: SourceModel, name: str) -> PartName | None:
    return next(
        (stack.part for stack in source.family.stacks if name.startswith(f"{stack.path}.")),
        None,
    )


def _kept_by_family(source: SourceModel, name: str) -> bool:
    """Whether a pattern of the family names the parameter or its module."""
    places = (name, name.rpartition(".")[0])
    return any(fnmatchcase(place, pattern) for pattern in source.family.full_precision for place in places)


def _count(source: SourceModel, name: str) -> int:
    entry = source.entries[name]
    return entry.nbytes // entry.dtype.itemsize
