"""The structure of a full-precision model, weights not needed: stacks, what stays in full precision and why,
and which share of the weights each is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from bivlm.checkpoint.guards import folder_blamed
from bivlm.checkpoint.hub import resolve_model
from bivlm.checkpoint.source import read_config
from bivlm.families import declared_family
from bivlm.families.experts import gates, split_experts
from bivlm.families.found.entrance import structure_in
from bivlm.families.found.structure import Structure, pattern_of
from bivlm.families.linears import is_linear

OTHER = "norms, biases, convolutions, positions"


@dataclass(frozen=True)
class StructureRow:
    """Some weights together: what they are, how many, and their share of the model; `reason` is why they stay
    in full precision, empty if they can be packed.
    """

    what: str
    name: str
    blocks: int | None
    weights: int
    share: float
    reason: str = ""


@dataclass(frozen=True)
class StructureReport:
    """The structure that was found in a model, with the shares of its weights. `declared`: bivlm has a
    declaration of the architecture, and uses that.
    """

    structure: Structure
    declared: bool
    weights: int
    rows: tuple[StructureRow, ...]

    @property
    def packable(self) -> float:
        """The share of the weights that can be packed."""
        return sum(row.share for row in self.rows if not row.reason)

    def to_dict(self) -> dict[str, Any]:
        rows = [asdict(row) for row in self.rows]
        return {
            "declared": self.declared,
            "weights": self.weights,
            "packable": self.packable,
            "rows": rows,
            **self.structure.to_dict(),
        }


def find_structure_of(model: str | Path, trust_remote_code: bool = False) -> StructureReport:
    """The structure of a full-precision folder or hub id; a folder with config.json alone is enough (with
    `trust_remote_code`, and the code that it names).

    Raises InputError if it is quantized, damaged, or if its structure cannot be found.
    """
    folder = resolve_model(model, trust_remote_code)
    config = read_config(folder, trust_remote_code)
    structure = structure_in(folder, config, trust_remote_code)
    with folder_blamed(folder), torch.device("meta"):
        full = getattr(transformers, structure.auto_class).from_config(config, dtype=torch.bfloat16)
    split_experts(full)
    rows, total = count_weights(full, structure)
    return StructureReport(structure, declared_family(config) is not None, total, rows)


def count_weights(full: nn.Module, structure: Structure) -> tuple[tuple[StructureRow, ...], int]:
    """A row for every stack, kept pattern and kind of experts, and one for the rest; and the number of all
    weights. A weight counts once: where it is packed, or in the first row that names it.
    """
    left = {name: parameter.numel() for name, parameter in full.named_parameters()}
    total = sum(left.values())
    kept = gates(full)
    linears = {
        f"{name}.weight" for name, module in full.named_modules() if is_linear(module) and name not in kept
    }

    def take(chosen: Callable[[str], bool]) -> int:
        names = [name for name in left if chosen(name)]
        return sum(left.pop(name) for name in names)

    rows: list[StructureRow] = []
    for kept in structure.kept:
        count = take(lambda name, kept=kept: fnmatchcase(name.rpartition(".")[0], kept.pattern))
        rows.append(StructureRow("kept", kept.pattern, None, count, 0.0, kept.reason))
    for pattern in structure.experts:
        count = take(lambda name, pattern=pattern: pattern_of(name) == pattern)
        if count:
            rows.append(StructureRow("experts", pattern, None, count, 0.0, "stacked experts of this kind"))
    packed = [
        StructureRow(
            stack.part,
            stack.path,
            stack.blocks,
            take(lambda name, stack=stack: name in linears and name.startswith(f"{stack.path}.")),
            0.0,
        )
        for stack in structure.stacks
    ]
    rest = StructureRow("kept", OTHER, None, sum(left.values()), 0.0, "no linears")
    return tuple(_with_shares([*packed, *rows, rest], total)), total


def _with_shares(rows: Iterable[StructureRow], total: int) -> Iterable[StructureRow]:
    return (replace(row, share=row.weights / max(total, 1)) for row in rows)
