"""ANLS, average normalized Levenshtein similarity: DocVQA, InfographicVQA.

Source: Biten et al., "Scene Text Visual Question Answering", 2019, and the evaluation code of the Robust
Reading Competition (https://rrc.cvc.uab.es/?ch=17). In lower case and with single spaces, for the nearest
reference:

    similarity = 1 - distance / the longer one's characters, 0 if it is below 0.5

The paper drops a similarity of exactly 0.5; the competition's code keeps it, and so does this. As there, the
characters are counted before spaces are removed.
"""

from __future__ import annotations

from collections.abc import Sequence

from bivlm.eval.scoring.base import Scorer
from bivlm.types import Sample

THRESHOLD = 0.5


def levenshtein(first: str, second: str) -> int:
    """The fewest insertions, deletions and replacements of characters that make one text of the other."""
    row = list(range(len(second) + 1))
    for number, mine in enumerate(first, 1):
        before, row[0] = row[0], number
        for place, other in enumerate(second, 1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (mine != other))
    return row[-1]


def anls(answer: str, references: Sequence[str]) -> float:
    """The similarity to the nearest reference, 0 or 0.5…1."""
    best = max(_similarity(answer, reference) for reference in references)
    return best if best >= THRESHOLD else 0.0


def _similarity(answer: str, reference: str) -> float:
    longest = max(len(answer), len(reference))
    given, right = (" ".join(text.lower().split()) for text in (answer, reference))
    return 1.0 - levenshtein(given, right) / longest if longest else 1.0


class Anls(Scorer):
    """How near the answer is to the nearest reference."""

    name = "anls"
    needs = "a reference that is not empty"

    def score(self, answer: str, sample: Sample) -> float:
        return anls(answer, sample.answers)

    def usable(self, sample: Sample) -> bool:
        return any(reference.strip() for reference in sample.answers)
