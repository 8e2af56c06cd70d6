"""What every scorer keeps to: its name, scores between 0 and 1, and what it says of data it cannot use."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bivlm.errors import InputError
from bivlm.eval.scoring import BY_REFERENCES, SCORERS, scorer_named
from scored import record, sample

# for every scorer: a reference that it can use, an answer that is right, and references that it cannot use
EXAMPLES = {
    "by_references": ("a cat", "Cat.", ["the", ""]),
    "exact_match": ("a cat", "cat", ["the", "?!"]),
    "vqa_accuracy": ("red", "red", ["", "an"]),
    "mme": ("Yes", "Yes, it is", ["maybe", ""]),
    "mmmu": ("B", "(B)", ["", " "]),
    "scienceqa": ("B", "B", ["blue", "", "b", "AB"]),
    "pope": ("no", "No, there is none.", ["maybe", ""]),
    "mmstar": ("C", "c", ["blue", ""]),
    "anls": ("Denver", "denver", ["", "  "]),
    "relaxed_accuracy": ("100", "104", [""]),
    "ocrbench": ("CENTRE", "the centre", ["", " "]),
    "iou": ("[0, 0, 2, 2]", "[0,0,2,2]", ["1, 2, 3", "[2, 2, 1, 1]", "a box"]),
    "counting": ("3", "three", ["many", ""]),
}


def test_every_scorer_has_an_example():
    assert EXAMPLES.keys() == SCORERS.keys()
    assert BY_REFERENCES in SCORERS


@pytest.mark.parametrize("name", SCORERS)
def test_a_right_answer_scores_one_and_no_answer_none(name: str):
    scorer, (reference, right, unusable) = SCORERS[name], EXAMPLES[name]
    references = (reference,) * (10 if name == "vqa_accuracy" else 1)
    assert scorer.name == name
    assert scorer.usable(sample(*references))
    assert scorer.score(right, sample(*references)) == 1.0
    assert not scorer.usable(sample())
    assert [scorer.usable(sample(wrong)) for wrong in unusable] == [False] * len(unusable)
    if name == "pope":
        assert scorer.score("", sample("yes")) == 1.0, "its rule: what denies nothing is a yes"
    else:
        assert scorer.score("", sample(*references)) == 0.0


@pytest.mark.parametrize("name", SCORERS)
@given(answers=st.lists(st.text(max_size=30), min_size=1, max_size=6))
@settings(deadline=None, max_examples=30)
def test_whatever_a_model_says_there_are_numbers(name: str, answers: list[str]):
    scorer, reference = SCORERS[name], EXAMPLES[name][0]
    records = [
        record(scorer, answer, reference, group="a" if n % 2 else "b", image=str(n // 2))
        for n, answer in enumerate(answers)
    ]
    assert all(0.0 <= found.score <= 1.0 for found in records)
    assert all(math.isfinite(value) for value in scorer.aggregate(records).values())


@pytest.mark.parametrize("name", ["exact_match", "scienceqa", "mmstar", "anls", "relaxed_accuracy", "mmmu"])
def test_groups_have_their_mean_score(name: str):
    scorer, (reference, right, _) = SCORERS[name], EXAMPLES[name]
    told = [(right, "x"), (right, "y"), ("zzzzzzzzz", "x"), (right, "x"), ("zzzzzzzzz", "")]
    records = [record(scorer, answer, reference, group=group) for answer, group in told]
    assert scorer.aggregate(records) == {"x": pytest.approx(2 / 3), "y": 1.0}
    assert scorer.aggregate([record(scorer, right, reference)]) == {}


def test_a_scorer_that_is_none_is_told():
    with pytest.raises(
        InputError, match=r"there is no scorer 'bleu'; there are by_references, exact_match, "
    ):
        scorer_named("bleu")
