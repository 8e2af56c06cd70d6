"""How good answers are: one file for every scorer, each with the official rule of its benchmark.

A benchmark is a reader of its data, and one of these: scores of single answers, and what it reports of all of
them.
"""

from __future__ import annotations

from bivlm.errors import no_such
from bivlm.eval.scoring.anls import Anls
from bivlm.eval.scoring.base import Scorer
from bivlm.eval.scoring.by_references import ByReferences
from bivlm.eval.scoring.counting import Counting
from bivlm.eval.scoring.exact_match import ExactMatch
from bivlm.eval.scoring.iou import Iou
from bivlm.eval.scoring.mme import Mme
from bivlm.eval.scoring.mmmu import Mmmu
from bivlm.eval.scoring.mmstar import MmStar
from bivlm.eval.scoring.ocrbench import OcrBench
from bivlm.eval.scoring.pope import Pope
from bivlm.eval.scoring.relaxed_accuracy import RelaxedAccuracy
from bivlm.eval.scoring.scienceqa import ScienceQa
from bivlm.eval.scoring.vqa import VqaAccuracy

METRICS_VERSION = "3"  # part of every result; changes whenever a score can change

BY_REFERENCES = ByReferences.name  # what data sets are scored by that name no scorer

SCORERS: dict[str, Scorer] = {
    "by_references": ByReferences(),
    "exact_match": ExactMatch(),
    "vqa_accuracy": VqaAccuracy(),
    "mme": Mme(),
    "mmmu": Mmmu(),
    "scienceqa": ScienceQa(),
    "pope": Pope(),
    "mmstar": MmStar(),
    "anls": Anls(),
    "relaxed_accuracy": RelaxedAccuracy(),
    "ocrbench": OcrBench(),
    "iou": Iou(),
    "counting": Counting(),
}


def scorer_named(name: str) -> Scorer:
    """The scorer of this name. Raises InputError if there is none."""
    if name not in SCORERS:
        raise no_such("scorer", name, SCORERS)
    return SCORERS[name]
