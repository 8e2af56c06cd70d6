"""ANLS, relaxed accuracy and OCRBench by hand, and by their rules written out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bivlm.eval.scoring import SCORERS
from bivlm.eval.scoring.anls import anls, levenshtein
from bivlm.eval.scoring.ocrbench import FORMULAS, RECOGNITION
from bivlm.eval.scoring.relaxed_accuracy import relaxed_match
from scored import record, sample


def edit_distance(first: str, second: str) -> int:
    """By its definition: the last characters are kept, or one is replaced, removed or put in."""
    if not first or not second:
        return len(first) + len(second)
    if first[-1] == second[-1]:
        return edit_distance(first[:-1], second[:-1])
    shorter = ((first[:-1], second[:-1]), (first[:-1], second), (first, second[:-1]))
    return 1 + min(edit_distance(*pair) for pair in shorter)


@given(st.text("abc ", max_size=6), st.text("abc ", max_size=6))
@settings(deadline=None, max_examples=150)
def test_the_distance_is_that_of_its_definition(first: str, second: str):
    assert levenshtein(first, second) == edit_distance(first, second)


def test_the_distance_by_hand():
    assert (levenshtein("kitten", "sitting"), levenshtein("", "abc"), levenshtein("a", "")) == (3, 3, 1)


@pytest.mark.parametrize(
    ("answer", "references", "expected"),
    [
        ("Denver Broncos", ("Denver Broncos", "Denver R. Broncos"), 1.0),
        ("12/15/89", ("12/15/88",), 7 / 8), ("denver  broncos ", ("Denver Broncos",), 1.0),
        ("ab", ("ac",), 0.5), ("ab", ("cd",), 0.0), ("abc", ("abxyz",), 0.0), ("", ("abc",), 0.0),
        ("$1,000", ("$1000",), 5 / 6), ("abcde", ("xxxxx", "abcdf"), 0.8), ("a  b", ("a b",), 1.0),
        ("a  x", ("a b",), 0.75),  # the longer text's characters, spaces and all: 1 - 1/4
    ],
)  # fmt: skip
def test_anls_by_hand(answer: str, references: tuple[str, ...], expected: float):
    assert anls(answer, references) == pytest.approx(expected)


@given(
    st.text("abAB ", min_size=1, max_size=6),
    st.lists(st.text("ab B", min_size=1, max_size=6), min_size=1, max_size=3),
)
@settings(deadline=None, max_examples=150)  # fmt: skip
def test_anls_by_the_rule(answer: str, references: list[str]):
    losses = [
        edit_distance(" ".join(text.lower().split()), " ".join(answer.lower().split()))
        / max(len(text), len(answer))
        for text in references
    ]
    similarity = 1 - min(losses)
    assert anls(answer, references) == pytest.approx(similarity if similarity >= 0.5 else 0.0)


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("100", "100", True), ("104.9", "100", True), ("105", "100", True), ("105.1", "100", False),
        ("95", "100", True), ("94.9", "100", False), ("-100", "100", False), ("-98", "-100", True),
        ("62%", "62", False), ("0.62", "62%", True), ("60%", "62%", True), ("Yes", "yes", True),
        ("yes.", "yes", False), ("0", "0", True), ("0.01", "0", False), ("0.0", "0", False),
        ("1,000", "1000", False), ("1,000", "1,000", True), ("", "100", False), ("14.", "14", True),
        ("2009", "2010", True), ("nan", "5", False), ("1e2", "100", True), ("% ", "5", False),
    ],
)  # fmt: skip
def test_relaxed_accuracy_by_hand(answer: str, reference: str, right: bool):
    assert relaxed_match(answer, reference) is right
    assert SCORERS["relaxed_accuracy"].score(answer, sample(reference)) == float(right)


def test_any_of_several_references_will_do():
    assert SCORERS["relaxed_accuracy"].score("9.9", sample("five", "10")) == 1.0
    assert SCORERS["anls"].score("ten", sample("five", "Ten")) == 1.0


@pytest.mark.parametrize(
    ("answer", "references", "group", "right"),
    [
        ("The word is 'Centre'.", ("CENTRE",), RECOGNITION[0], True),
        ("CENT RE", ("CENTRE",), RECOGNITION[0], False),
        ("hot\ndog", ("hot dog",), "Doc-oriented VQA", True), ("3", ("4", "3"), "Doc-oriented VQA", True),
        ("", ("x",), RECOGNITION[1], False), ("x ^ { 2 } + y", ("x^{2}",), FORMULAS, True),
        ("X^{2}", ("x^{2}",), FORMULAS, False), ("a\nb", ("ab",), FORMULAS, True),
        ("A B", ("a b",), "", True),
    ],
)  # fmt: skip
def test_ocrbench_by_hand(answer: str, references: tuple[str, ...], group: str, right: bool):
    assert SCORERS["ocrbench"].score(answer, sample(*references, group=group)) == float(right)


def test_ocrbench_gives_points():
    scorer = SCORERS["ocrbench"]
    told = [
        ("a", RECOGNITION[0]),
        ("x", RECOGNITION[0]),
        ("a", RECOGNITION[3]),
        ("a", FORMULAS),
        ("a", FORMULAS),
    ]
    assert scorer.aggregate([record(scorer, said, "a", group=group) for said, group in told]) == {
        RECOGNITION[0]: 1, RECOGNITION[3]: 1, FORMULAS: 2, "Text Recognition": 2, "Final Score": 4,
    }  # fmt: skip
    assert scorer.aggregate([record(scorer, "a", "a")]) == {"Final Score": 1}
