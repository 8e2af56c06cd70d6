"""How questions are scored for which no scorer is named."""

import pytest

from bivlm.eval.scoring import scorer_named
from bivlm.types import Sample

ASKED = "Which is it?\nA. a cat\nB. a dog\nC. 1,000\nAnswer with the option's letter."
OWN = scorer_named("by_references")


def choice(*answers):
    return Sample(None, ASKED, answers)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("A", 1),  # an article without choices: nothing would be left of it
        ("(A)", 1),
        ("A.", 1),
        ("A. a cat", 1),
        ("A: a dog", 1),  # the letter decides
        (" A\n", 1),
        ("A cat", 1),
        ("cat", 1),
        ("B", 0),
        ("a", 0),
        ("B. a cat", 0),
        ("a dog", 0),
        ("", 0),
    ],
)
def test_multiple_choice_is_right_by_letter_or_text(answer, right):
    assert OWN.score(answer, choice("A", "a cat")) == right


def test_a_letter_alone_is_enough():
    assert OWN.usable(choice("A"))
    assert OWN.score("A", choice("A")) == 1
    assert OWN.score("cat", choice("A")) == 0


def test_a_letter_that_no_choice_has_is_a_text():
    sample = Sample(None, "Which letter is shown?", ("B",))
    assert OWN.metric([sample]) == "exact_match"
    assert OWN.score("b", sample) == 1
    assert OWN.score("B. or not", sample) == 0


def test_every_kind_is_named():
    several = [choice("B", "a dog"), Sample(None, "What?", ("cat",)), Sample(None, "What?", ("cat",) * 10)]
    assert OWN.metric(several) == "exact_match+multiple_choice+vqa_accuracy"
