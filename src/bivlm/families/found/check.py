"""Comparing what was found on a small model with the modules of the full one."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from bivlm.errors import InputError
from bivlm.families.base import block_paths
from bivlm.families.found.stacks import inside
from bivlm.families.found.structure import Kept, Structure, pattern_of

UNSEEN = "the small copy of the model has no such linear"


def check_against(full: Any, small: Any, structure: Structure) -> Structure:
    """The structure with the full model's numbers of blocks. Linears that only the full model has are kept
    and named. Raises InputError if a stack is not in the full model.
    """
    stacks = []
    for stack in structure.stacks:
        try:
            blocks = len(block_paths(full, stack.path))
        except AttributeError as error:
            raise InputError(
                f"{structure.model_type!r}: {stack.path}, found in a small copy of the model, is not in the"
                " full one; a declaration of the family helps: docs/adding.md"
            ) from error
        stacks.append(replace(stack, blocks=blocks))
    seen = {pattern_of(name) for name, module in small.named_modules() if isinstance(module, nn.Linear)}
    unseen = {
        pattern_of(name)
        for name, module in full.named_modules()
        if isinstance(module, nn.Linear) and pattern_of(name) not in seen
    }
    kept = (*structure.kept, *(Kept(pattern, UNSEEN) for pattern in sorted(unseen)))
    notes = (*structure.notes, *(f"{pattern}: {UNSEEN}" for pattern in sorted(unseen)))
    found = replace(structure, stacks=tuple(stacks), kept=kept, notes=notes)
    _check_complete(full, found)
    return found


def _check_complete(full: Any, structure: Structure) -> None:
    """InputError for a linear that is in no stack and is not kept."""
    for name, module in full.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        placed = any(inside(name, stack.path) for stack in structure.stacks)
        if not placed and not any(fnmatchcase(name, kept.pattern) for kept in structure.kept):
            raise InputError(
                f"{structure.model_type!r}: the place of the linear {name} was not found; a declaration of"
                " the family helps: docs/adding.md"
            )
