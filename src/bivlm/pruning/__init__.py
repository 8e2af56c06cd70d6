"""Visual tokens that need not be kept: which to keep (one file per pruner), and the one place that drops the
others (apply.py).

This table is all that the rest of the package knows the pruners by. docs/adding.md adds one.
"""

from __future__ import annotations

from bivlm.pruning.attention import AttentionPruner
from bivlm.pruning.base import Candidates, Pruner, budget
from bivlm.pruning.diversity import DiversityPruner
from bivlm.pruning.grid import GridPruner
from bivlm.pruning.joined import JoinedPruner
from bivlm.pruning.random import RandomPruner

__all__ = ["PRUNERS", "Candidates", "Pruner", "budget"]

PRUNERS: dict[str, type[Pruner]] = {
    "attention": AttentionPruner,
    "diversity": DiversityPruner,
    "grid": GridPruner,
    "joined": JoinedPruner,
    "random": RandomPruner,
}
