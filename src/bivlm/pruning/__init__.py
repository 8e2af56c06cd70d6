"""Visual tokens that need not be kept: one file per pruner says which stay, one table. `base.py` says what a
pruner is, `settings.py` how a pruning is written, `apply.py` puts it on a model; `dropping/` has its hooks.

The table is all that the rest of the package knows the pruners by. docs/adding.md adds one.
"""

from __future__ import annotations

from bivlm.pruning.attention import AttentionPruner
from bivlm.pruning.base import Candidates, Pruner, tokens_kept
from bivlm.pruning.diversity import DiversityPruner
from bivlm.pruning.grid import GridPruner
from bivlm.pruning.joined import JoinedPruner
from bivlm.pruning.random import RandomPruner

__all__ = ["PRUNERS", "Candidates", "Pruner", "tokens_kept"]

PRUNERS: dict[str, type[Pruner]] = {
    "attention": AttentionPruner,
    "diversity": DiversityPruner,
    "grid": GridPruner,
    "joined": JoinedPruner,
    "random": RandomPruner,
}
