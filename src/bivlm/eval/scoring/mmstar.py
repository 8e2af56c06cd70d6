"""MMStar: the letter of a choice, at the beginning of the answer.

Source: `eval/vlmeval/evaluate/mmstar.py` of the benchmark (Chen et al., "Are We on the Right Way for
Evaluating Large Vision-Language Models?", 2024). In lower case, the letter is the first character, or follows
"(", "option " or "the answer is ". So "because …" is taken for B, and "The answer is (B)" is wrong. The
groups are the six core abilities.
"""

from __future__ import annotations

from bivlm.eval.scoring.base import Scorer
from bivlm.eval.scoring.choices import is_letter
from bivlm.types import Sample

BEGINNINGS = ("", "(", "option ", "the answer is ")


class MmStar(Scorer):
    """1 for an answer that begins with the right letter."""

    name = "mmstar"
    needs = "the letter of a choice"

    def score(self, answer: str, sample: Sample) -> float:
        said = answer.lower().strip().replace("\n", " ")
        letter = sample.answers[0].strip().lower()
        return float(said.startswith(tuple(f"{beginning}{letter}" for beginning in BEGINNINGS)))

    def usable(self, sample: Sample) -> bool:
        return bool(sample.answers) and is_letter(sample.answers[0].strip().upper())
