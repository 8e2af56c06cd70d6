"""Answers as the VQA challenge compares them.

Source: the evaluation code of the VQA challenge (Antol et al., "VQA: Visual Question Answering", 2015;
https://visualqa.org/evaluation.html), which EvalAI runs. Answers and references alike are normalised:

    line breaks and tabs → spaces; punctuation is removed (or becomes a space), a decimal point stays
    lower case; "none", "zero", "one" … "ten" → digits; the articles a, an, the are removed;
    contractions get their apostrophe back

The original normalises the references only in part, because those of its own data set are normalised already.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {word: str(value) for value, word in enumerate(WORDS)} | {"none": "0"}
ARTICLES = frozenset({"a", "an", "the"})
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
NUMBER_COMMA = re.compile(r"\d,\d")
POINT = re.compile(
    r"\.(?!\d)"
)  # the original asks for "no digit before it" as well, but in a form that is always true

# each stands for itself with exactly one apostrophe left out: "aint"; "couldnt've" and "couldn'tve". Words
# that the original leaves alone ("im", because it looks for "Im" in lower-case text) are left alone here.
CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
    he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've
    mustn't needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've
    somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd
    something'd've something'll that's there'd there'd've there're there's they'd they'd've they'll they're
    they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've
    who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all
    y'all'd've y'all'll you'd you'd've you'll you're you've
""".split()  # noqa: SIM905
APOSTROPHES = {
    form[:place] + form[place + 1 :]: form
    for form in CONTRACTIONS
    for place, letter in enumerate(form)
    if letter == "'"
}
APOSTROPHES["somebody'd"] = "somebodyd"  # as it stands in the original


def normalise(answer: str) -> str:
    """The answer as the VQA challenge compares it."""
    words = _without_punctuation(answer.replace("\n", " ").replace("\t", " ").strip()).lower().split()
    counted = (NUMBERS.get(word, word) for word in words)
    return " ".join(APOSTROPHES.get(word, word) for word in counted if word not in ARTICLES)


def _without_punctuation(text: str) -> str:
    """A punctuation mark is removed if it is next to a space anywhere, or if the text has a number like
    1,000; otherwise it becomes a space.
    """
    result = text
    for mark in PUNCTUATION:
        next_to_space = f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if next_to_space or NUMBER_COMMA.search(text) else " ")
    return POINT.sub("", result)


def has_answer(references: Sequence[str]) -> bool:
    """Whether any answer could be right: at least one reference is not empty once it is normalised."""
    return any(normalise(reference) for reference in references)
