"""Multiple choice: what each benchmark takes for the letter of an answer, by hand and by its rule written
out.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bivlm.eval.scoring import SCORERS
from bivlm.eval.scoring.choices import choices_in, letters_of
from bivlm.eval.scoring.mmmu import parse_choice, parse_open
from scored import record, sample

QUESTION = "What is it?\n(A) a red cat\n(B) the dog\n(C) 12 horses\n(D) none of these"
LETTERS = ("A", "B", "C", "D")


@pytest.mark.parametrize(
    "form", ["({}) {}", "{}. {}", "{}) {}", "{}: {}", "  {}. {}", "({}) {}\n"], ids=lambda form: repr(form)
)
def test_choices_are_read_from_their_lines(form: str):
    texts = {"A": "a cat", "B": "dog", "C": ""}
    question = "Which one?\n" + "\n".join(form.format(letter, text) for letter, text in texts.items())
    assert choices_in(question + "\nAnswer with the letter.") == texts


def test_what_is_no_list_has_no_choices():
    assert choices_in("Is A. or B. right? (C) is not.") == {}
    assert choices_in("B. first\nC. second") == {}
    assert choices_in("A. one\nC. three\nB. two") == {"A": "one", "B": "two"}
    assert letters_of("?", "B") == ("A", "B", "C", "D", "E")
    assert letters_of("?", "G")[-1] == "G"
    assert letters_of(QUESTION, "B") == LETTERS


# ---- MMMU


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"), ("B.", "B"), ("(B)", "B"), ("The answer is (B).", "B"), ("The answer is B.", "B"),
        ("(A) is wrong, so (C)", "C"), ("A or B or D", "D"), ("A and (B)", "B"), ("Answer: B", "B"),
        ("", None), ("b", None), ("B:", "B"), ("the dog", None), ("E", None), ("'C'", "C"), ("(E)", None),
        ("I am quite sure it is the dog", "B"), ("It is the dog and no 12 HORSES here", "C"),
        ("Answer:B", None), ("B, I think", None), ("choose B because it barks", "B"), ("ABC", None),
    ],
)  # fmt: skip
def test_mmmu_s_letter_by_hand(answer: str, letter: str | None):
    assert parse_choice(answer, QUESTION, LETTERS) == letter
    scored = SCORERS["mmmu"].score(answer, sample("B", question=QUESTION))
    assert scored == float(letter == "B"), "where nothing is found the answer is wrong, and none is drawn"


def mmmu_by_the_rule(answer: str, texts: dict[str, str]) -> str | None:
    """The rule of the benchmark: bracketed letters, else free ones, else texts; the last wins."""
    for mark in (",", ".", "!", "?", ";", ":", "'"):
        answer = answer.strip(mark)
    padded = " " + answer + " "
    bracketed = [letter for letter in texts if "(" + letter + ")" in padded]
    free = [letter for letter in texts if " " + letter + " " in padded]
    if bracketed:
        return sorted(bracketed, key=lambda letter: padded.rindex(f"({letter})"))[-1]
    if free:
        return sorted(free, key=lambda letter: padded.rindex(f" {letter} "))[-1]
    low = padded.lower()
    named = [letter for letter, text in texts.items() if text.lower() in low]
    if len(padded.split()) > 5 and named:
        return max(named, key=lambda letter: low.rindex(texts[letter].lower()))
    return None


@given(
    st.lists(
        st.sampled_from(
            ["A", "B", "(C)", "(B)", "D.", "a red cat", "the dog", "12 horses", "is", "so", "it"]
        ),
        max_size=9,
    )
)
@settings(deadline=None, max_examples=300)
def test_mmmu_s_letter_by_the_rule(words: list[str]):
    answer = " ".join(words)
    assert parse_choice(answer, QUESTION, LETTERS) == mmmu_by_the_rule(answer, choices_in(QUESTION))


@pytest.mark.parametrize(
    ("answer", "references", "right"),
    [
        ("12", ("12",), True), ("The answer is 12.", ("12",), True), ("x = 12.0", ("12",), True),
        ("It costs 1,000 dollars", ("1000",), True), ("1000", ("1,000",), True),
        ("about 12.004", ("12",), True),
        ("12.5", ("12",), False), ("-3", ("-3",), True), ("3", ("-3",), False), ("", ("12",), False),
        ("It is a Monet painting", ("Monet",), True), ("Manet", ("Monet",), False),
        ("1.5e3 J", ("1500",), True),
        ("50%", ("50",), True), ("the result is x", ("x",), True), ("maximum", ("x",), False),
        ("The value is 3, so the answer is 4", ("4",), True), ("one\nso it is blue", ("blue", "azure"), True),
        ("The colour is red.\nBut not so sure", ("red",), True), ("x = .75", ("0.75",), True),
        (".75", ("0.75",), False),  # the outer points go, as in the original
    ],
)  # fmt: skip
def test_mmmu_s_open_answers_by_hand(answer: str, references: tuple[str, ...], right: bool):
    assert SCORERS["mmmu"].score(answer, sample(*references)) == float(right)


def mmmu_open_by_the_rule(answer: str) -> set[str | float]:
    """The values that the benchmark reads from an answer: key parts and their numbers, normalised."""
    text = answer.strip().strip(".").lower()
    lines, keys = text.split("\n"), []
    for place, line in enumerate(lines):
        marks = ["could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result "]
        marks += ["="] * (place == len(lines) - 1)
        shortest = None
        for mark in marks:
            if mark not in line:
                continue
            tail = line.split(mark)[-1].strip()
            if not shortest or len(tail) < len(shortest):
                shortest = tail
        if shortest and shortest not in list(":,.!?;'"):
            keys.append(shortest)
    keys = keys or [text]
    numbers = []
    for key in keys:
        numbers += re.findall(r"-?\b\d{1,3}(?:,\d{3})+\b", key)
        numbers += re.findall(r"-?\d+(?:\.\d+)?[eE][+-]?\d+", key)
        numbers += re.findall(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])", key)
    values = set()
    for value in (part.strip() for part in keys + numbers):
        try:
            values.add(round(float(value.replace(",", "")), 2))
        except ValueError:
            values |= {" " + value, value + " "} if len(value) == 1 else {value}
    return values


@given(
    st.lists(
        st.sampled_from(["the", "answer is", "so", "=", "1,200", "3.456", "-2", "1e3", "x", "\n", "is ",
        "final", "."]),
        max_size=10,
    ).map(" ".join)
)  # fmt: skip
@settings(deadline=None, max_examples=300)
def test_mmmu_s_open_answers_by_the_rule(answer: str):
    assert set(parse_open(answer)) == mmmu_open_by_the_rule(answer)


# ---- ScienceQA


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("B", True), (" B\n", True), ("B. the dog", True), ("The answer is B.", True), ("b", False),
        ("", False),
        ("B.", False), ("(B)", False), ("The answer is (B).", False), ("The answer is B", False),
        ("The answer is A. No: The answer is B.", False), ("So, The answer is B. It barks.", True),
        ("E", False),
        ("A", False), ("Because it barks", False),
    ],
)  # fmt: skip
def test_scienceqa_s_letter(answer: str, right: bool):
    assert SCORERS["scienceqa"].score(answer, sample("B", question=QUESTION)) == float(right)


# ---- MMStar


@pytest.mark.parametrize("letter", "ABCD")
@pytest.mark.parametrize(
    ("form", "right"),
    [
        ("{}", True), ("({}) a cat", True), ("Option {}", True), ("The answer is {}.", True),
        ("{}: a cat", True),
        ("The answer is ({}).", False), ("I say {}", False), ("  {}\n", True), ("The  answer is {}", False),
    ],
)  # fmt: skip
def test_mmstar_s_letter_stands_at_the_beginning(letter: str, form: str, right: bool):
    scorer = SCORERS["mmstar"]
    assert scorer.score(form.format(letter), sample(letter)) == float(right)
    assert scorer.score(form.format(letter).lower(), sample(letter)) == float(right)


def test_mmstar_takes_because_for_b_as_its_own_code_does():
    assert SCORERS["mmstar"].score("Because it barks", sample("B")) == 1.0


def test_mmstar_s_abilities_are_groups():
    scorer = SCORERS["mmstar"]
    records = [record(scorer, said, "A", group=group) for said, group in (("A", "math"), ("B", "math"))]
    assert scorer.aggregate(records) == {"math": 0.5}
