"""Scores against hand-typed answers of the VQA challenge, and its formula written out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bivlm.eval.scoring.by_references import metric_of, score
from bivlm.eval.scoring.exact_match import exact_match
from bivlm.eval.scoring.normalised import normalise
from bivlm.eval.scoring.vqa import vqa_accuracy


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        # lower case, spaces, line breaks
        ("Yes", "yes"), (" yes \n", "yes"), ("on\tthe\nmat", "on mat"), ("hot   dog", "hot dog"), ("", ""),
        # articles
        ("a cat", "cat"), ("The cat", "cat"), ("an apple a day", "apple day"), ("the", ""), ("another",
        "another"),
        # numbers in words
        ("two", "2"), ("Two dogs", "2 dogs"), ("none", "0"), ("zero", "0"), ("ten", "10"), ("eleven",
        "eleven"), ("twenty one", "twenty 1"),
        # contractions get their apostrophe back; what has it keeps it
        ("dont", "don't"), ("Dont know", "don't know"), ("don't", "don't"), ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("yalldve", "yalldve"), ("yall'd've", "y'all'd've"), ("ow's'at", "'ow's'at"), ("twas", "'twas"),
        ("oclock", "o'clock"), ("maam", "ma'am"),
        ("im", "im"), ("wed", "wed"), ("lets", "lets"), ("somebody'd", "somebodyd"), ("whos there",
        "who's there"), ("cat's", "cat's"),
        # punctuation between words becomes a space, beside a space it goes
        ("red/white", "red white"), ("red, white", "red white"), ("red,white", "red white"), ("red - white",
        "red white"), ("t-shirt", "t shirt"),
        ("yes!", "yes"), ("really?!", "really"), ("(left)", "left"), ("snow_board", "snow board"), ("50%",
        "50%"), ("3:00", "3:00"), ("$5", "$5"),
        ("wi-fi is on -", "wifi is on"),
        # points and commas in numbers
        ("1,000", "1000"), ("1,000,000", "1000000"), ("1,000-2,000", "10002000"), ("3.5", "3.5"), ("yes.",
        "yes"), ("U.S.", "us"), ("5.", "5"),
        (".5", ".5"), ("a.m.", "am"), ("1.5, or so.", "1.5 or so"),
    ],
)  # fmt: skip
def test_normalisation_of_the_challenge(answer: str, expected: str):
    assert normalise(answer) == expected


@given(st.text(max_size=40))
@settings(deadline=None, max_examples=200)
def test_a_normalised_answer_has_single_spaces_and_no_article(text: str):
    words = normalise(text).split(" ")
    assert " ".join(words) == normalise(text)
    assert not {"a", "an", "the", "two"} & set(words)


@pytest.mark.parametrize(
    ("answer", "references", "expected"),
    [
        ("The cat.", ("cat",), 1.0), ("cats", ("cat",), 0.0), ("2", ("two",), 1.0), ("", ("cat",), 0.0),
        ("", ("", "cat"), 0.0), ("the", ("a",), 0.0), ("?!", ("",), 0.0), (" ", ("the", "cat"), 0.0),
        ("dark red", ("red", "dark red"), 1.0), ("blue", ("red", "dark red"), 0.0),
    ],
)  # fmt: skip
def test_exact_match(answer: str, references: tuple[str, ...], expected: float):
    assert exact_match(answer, references) == expected


# by hand: m of ten people agree; left out is one of them (m - 1 remain) m times, another (m remain) 10 - m
# times
@pytest.mark.parametrize(
    ("agreeing", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)]
)
def test_vqa_accuracy_of_ten_people(agreeing: int, expected: float):
    references = ["Red."] * agreeing + [f"other {number}" for number in range(10 - agreeing)]
    assert vqa_accuracy("red", references) == pytest.approx(expected, abs=1e-12)


@given(
    st.lists(st.sampled_from(["red", "Red", "the red", "blue", "2", "two", ""]), min_size=1, max_size=12),
    st.sampled_from(["red", "two", "green"]),
)
@settings(deadline=None, max_examples=200)
def test_vqa_accuracy_is_the_mean_over_left_out_references(references: list[str], answer: str):
    def plain(text: str) -> str:
        return {"Red": "red", "the red": "red", "two": "2"}.get(text, text)

    rounds = []
    for left_out in range(len(references)):
        matches = sum(
            plain(other) == plain(answer) for index, other in enumerate(references) if index != left_out
        )
        rounds.append(min(1.0, matches / 3))
    assert vqa_accuracy(answer, references) == pytest.approx(sum(rounds) / len(rounds), abs=1e-12)


@given(st.lists(st.text(max_size=8), min_size=1, max_size=12), st.text(max_size=8))
@settings(deadline=None, max_examples=100)
def test_scores_lie_between_zero_and_one(references: list[str], answer: str):
    assert 0.0 <= score(answer, references) <= 1.0
    assert 0.0 <= vqa_accuracy(answer, references) <= 1.0


@pytest.mark.parametrize("count", range(1, 12))
def test_the_answer_of_all_scores_one_whatever_their_number(count: int):
    """With two or three references VQA accuracy could not: they are alternatives then."""
    assert score("red", ["red"] * count) == 1.0
    assert score("blue", ["red"] * count) == 0.0
    assert metric_of(["red"] * count) == ("exact_match" if count <= 3 else "vqa_accuracy")


def test_an_answer_without_references_has_no_score():
    with pytest.raises(ValueError, match="no score"):
        score("red", ())
