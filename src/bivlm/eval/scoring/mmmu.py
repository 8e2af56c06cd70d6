"""MMMU: multiple choice, and open questions with a short answer.

Source: `mmmu/utils/eval_utils.py` of the benchmark (Yue et al., "MMMU: A Massive Multi-discipline Multimodal
Understanding and Reasoning Benchmark for Expert AGI", 2024). A question whose reference is a capital letter
is multiple choice.

Multiple choice: punctuation around the answer is removed. The last "(B)" counts; without any, the last " B ";
without any, in an answer of more than five words, the choice whose text comes last. If nothing is found, the
original draws a choice at random (and gains one in four of them); **here such an answer is wrong**, so that a
broken model scores 0.

Open: from every line, in lower case, the shortest part after "is", "so", "answer", … (and "=" in the last
line) is kept; these parts and all numbers in them are what the answer says. It is right if one of its texts
contains a reference, or one of its numbers, rounded to two decimals, equals one.
"""

from __future__ import annotations

import re

from bivlm.eval.scoring.base import Scorer
from bivlm.eval.scoring.choices import choices_in, is_letter, letters_of
from bivlm.types import Sample

OUTER = ",.!?;:'"
LONG = 5  # words; a longer answer may give a choice by its text
INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
TRIVIAL = frozenset(":,.!?;'")
NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),  # 1,000
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),  # 1e3
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)


def parse_choice(answer: str, question: str, letters: tuple[str, ...]) -> str | None:
    """The letter that an answer names, or None."""
    for mark in OUTER:
        answer = answer.strip(mark)
    said = f" {answer} "
    for form in ("({})", " {} "):
        places = {letter: said.rfind(form.format(letter)) for letter in letters}
        if max(places.values()) >= 0:
            return max(places, key=lambda letter: places[letter])
    if len(said.split()) <= LONG:
        return None
    texts = {letter: text.lower() for letter, text in choices_in(question).items() if text}
    places = {letter: said.lower().rfind(text) for letter, text in texts.items()}
    last = max(places, key=lambda letter: places[letter], default=None)
    return last if last is not None and places[last] >= 0 else None


def parse_open(answer: str) -> list[str | float]:
    """What an answer to an open question says: texts in lower case, and numbers."""
    texts = _key_parts(answer)
    numbers = [number for text in texts for form in NUMBERS for number in form.findall(text)]
    return [value for text in (*texts, *numbers) for value in normalise(text)]


def normalise(text: str) -> list[str | float]:
    """A number rounded to two decimals, or the text in lower case; a single character needs a space on either
    side, so that it is not found in every word.
    """
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        lowered = text.lower()
    return [f" {lowered}", f"{lowered} "] if len(lowered) == 1 else [lowered]


def _key_parts(answer: str) -> list[str]:
    whole = answer.strip().strip(".").lower()
    lines = whole.split("\n")
    found = []
    for number, line in enumerate(lines, 1):
        shortest = ""
        for mark in (*INDICATORS, "=") if number == len(lines) else INDICATORS:
            part = line.rpartition(mark)[2].strip()
            if mark in line and (not shortest or len(part) < len(shortest)):
                shortest = part
        if shortest and shortest not in TRIVIAL:
            found.append(shortest)
    return found or [whole]


def open_score(answer: str, references: tuple[str, ...]) -> float:
    """1 if a text of the answer contains a reference, or a number of it equals one."""
    right = [value for reference in references for value in normalise(reference)]
    texts = [value for value in right if isinstance(value, str)]
    return float(
        any(
            any(text in said for text in texts) if isinstance(said, str) else said in right
            for said in parse_open(answer)
        )
    )


class Mmmu(Scorer):
    """1 for the right letter, or for an answer that contains the right text or number."""

    name = "mmmu"
    needs = "the letter of a choice, or a text or number that is not empty"

    def score(self, answer: str, sample: Sample) -> float:
        if not is_letter(sample.answers[0]):
            return open_score(answer, sample.answers)
        letters = letters_of(sample.question, sample.answers[0])
        return float(parse_choice(answer, sample.question, letters) in sample.answers)

    def usable(self, sample: Sample) -> bool:
        return any(reference.strip() for reference in sample.answers)
