"""Dropping visual tokens: one file per pruner, which chooses the tokens that stay, and one table. `base.py`
says what a pruner is, `settings.py` how a pruning is written, `apply.py` puts it on a model; `dropping/` has
its hooks.

The rest of the package knows pruners only by the table and by other packages (bivlm.plugins). docs/adding.md
shows how to add one.
"""

from __future__ import annotations

from bivlm.errors import no_such
from bivlm.plugins import Table, subclass_refusal
from bivlm.pruning.attention import AttentionPruner
from bivlm.pruning.base import Candidates, Pruner, tokens_kept
from bivlm.pruning.diversity import DiversityPruner
from bivlm.pruning.grid import GridPruner
from bivlm.pruning.joined import JoinedPruner
from bivlm.pruning.random import RandomPruner

__all__ = ["PRUNERS", "Candidates", "Pruner", "pruner_named", "pruner_names", "tokens_kept"]

PRUNERS: dict[str, type[Pruner]] = {
    "attention": AttentionPruner,
    "diversity": DiversityPruner,
    "grid": GridPruner,
    "joined": JoinedPruner,
    "random": RandomPruner,
}

_TABLE: Table[type[Pruner]] = Table("bivlm.pruners", "pruner", PRUNERS, subclass_refusal(Pruner))


def pruner_named(name: str) -> type[Pruner]:
    """The pruner of this name, built in or from another package.

    Raises InputError that lists the known pruners, or says why the pruner of another package cannot be used.
    """
    found = _TABLE.named(name)
    if found is None:
        raise no_such("pruner", name, pruner_names())
    return found


def pruner_names() -> list[str]:
    """The names of all pruners that can be used, sorted."""
    return _TABLE.names()
