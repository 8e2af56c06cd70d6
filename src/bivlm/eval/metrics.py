"""How good an answer is: exact match and VQA accuracy, both after the normalisation of the VQA challenge; and
the interval of their mean.

Source: the evaluation code of the VQA challenge (Antol et al., "VQA: Visual Question Answering", 2015;
https://visualqa.org/evaluation.html), which EvalAI runs. Answers and references alike are normalised:

    line breaks and tabs → spaces; punctuation is removed (or becomes a space), a decimal point stays
    lower case; "none", "zero", "one" … "ten" → digits; the articles a, an, the are removed;
    contractions get their apostrophe back

The original normalises the references only in part, because those of its own data set are normalised already.
And an answer of which nothing is left (punctuation, articles) is never right here; in the original it equals
every other of that kind.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from scipy import stats

METRICS_VERSION = "2"  # part of every result; changes whenever a score can change

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

FEWEST_VOTES = (
    4  # with fewer references no answer can reach a VQA accuracy of 1: one is left out, and three must agree
)
CONFIDENCE = 0.95
RESAMPLES = 2000


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


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 when the normalised answer is one of the normalised references and not empty, else 0."""
    given = normalise(answer)
    return float(given != "" and given in map(normalise, references))


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """The mean, with each reference left out once, of min(1, number of matches among the others / 3); 0 for
    an answer that is empty once it is normalised.
    """
    given = normalise(answer)
    if given == "":
        return 0.0
    votes = sum(normalise(reference) == given for reference in references)
    others = len(references) - votes
    return (votes * min(1.0, (votes - 1) / 3) + others * min(1.0, votes / 3)) / len(references)


def has_answer(references: Sequence[str]) -> bool:
    """Whether any answer could be right: at least one reference is not empty once it is normalised."""
    return any(normalise(reference) for reference in references)


def metric_of(references: Sequence[str]) -> str:
    """The metric that suits a question: "vqa_accuracy" if several people answered, "exact_match" if there is
    one reference or a few alternatives.
    """
    return "vqa_accuracy" if len(references) >= FEWEST_VOTES else "exact_match"


def score(answer: str, references: Sequence[str]) -> float:
    """The answer's score in [0, 1] by the metric that suits the question. Raises ValueError without
    references.
    """
    if not references:
        raise ValueError("an answer without references has no score")
    return METRICS[metric_of(references)](answer, references)


METRICS = {"exact_match": exact_match, "vqa_accuracy": vqa_accuracy}


def mean_interval(scores: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the mean of scores in [0, 1], with questions taken as independent.

    It is Wilson's interval if every score is 0 or 1; otherwise it is from a seeded bootstrap (percentiles).
    For a single score a bootstrap is meaningless, and the interval is (0, 1). Raises ValueError without
    scores.
    """
    if not scores:
        raise ValueError("the mean of no scores has no interval")
    values = np.asarray(scores, dtype=np.float64)
    if np.isin(values, (0.0, 1.0)).all():
        interval = stats.binomtest(int(values.sum()), len(values)).proportion_ci(CONFIDENCE, method="wilson")
    elif len(values) == 1:
        return 0.0, 1.0
    else:
        resampling = {"n_resamples": RESAMPLES, "batch": 100, "rng": np.random.default_rng(seed)}
        interval = stats.bootstrap(
            (values,), np.mean, confidence_level=CONFIDENCE, method="percentile", **resampling
        ).confidence_interval
    return float(interval.low), float(interval.high)
