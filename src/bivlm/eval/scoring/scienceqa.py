"""ScienceQA: the letter of a choice.

Source: `models/run_gpt3.py` of the benchmark (Lu et al., "Learn to Explain: Multimodal Reasoning via Thought
Chains for Science Question Answering", 2022) as LLaVA's `eval_science_qa.py` widens it. The letter is the
answer itself, or its beginning ("B. blue"), or the only one that follows "The answer is " with a character
after it. The original draws a choice at random if there is none, or one that is not offered; here such an
answer is wrong.
"""

from __future__ import annotations

import re

from bivlm.eval.scoring.base import Scorer
from bivlm.eval.scoring.choices import is_letter, letters_of
from bivlm.types import Sample

SAID = re.compile(r"The answer is ([A-Z]).")


def parse(answer: str, letters: tuple[str, ...]) -> str | None:
    """The letter that an answer names, or None."""
    said = answer.strip()
    if said in letters:
        return said
    if said[:1] in letters and said[1:3] == ". ":
        return said[0]
    found = SAID.findall(said)
    return found[0] if len(found) == 1 and found[0] in letters else None


class ScienceQa(Scorer):
    """1 for the right letter."""

    name = "scienceqa"
    needs = "the letter of a choice"

    def score(self, answer: str, sample: Sample) -> float:
        return float(parse(answer, letters_of(sample.question, sample.answers[0])) == sample.answers[0])

    def usable(self, sample: Sample) -> bool:
        return bool(sample.answers) and is_letter(sample.answers[0])
