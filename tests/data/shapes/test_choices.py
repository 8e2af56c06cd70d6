"""Options, and what may say which of them is right."""

from __future__ import annotations

from typing import Any

import pytest

from bivlm.data.places import Look
from bivlm.data.shapes import Row
from bivlm.data.shapes.choices import SHAPE, list_in_text
from bivlm.errors import InputError

OPTIONS = ["cat", "dog", "2"]


def answers(answer: Any, **fields: Any) -> tuple[str, ...]:
    record = {"question": "Which?", "choices": OPTIONS, "answer": answer, **fields}
    assert SHAPE.matches(record)
    [sample] = SHAPE.samples(Row(record, "d.jsonl:1", Look()))
    return sample.answers


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (0, ("A", "cat")),
        (1.0, ("B", "dog")),
        ("B", ("B", "dog")),
        ("(b).", ("B", "dog")),
        ("Dog ", ("B", "dog")),
        ("0", ("A", "cat")),
        ("2", ("C", "2")),
        (2, ("C", "2")),
        (["A"], ("A", "cat")),
        (None, ()),
        (-1, ()),
        ("?", ()),
    ],
    ids=str,
)
def test_an_index_a_letter_or_a_text_says_which_is_right(answer: Any, expected: tuple[str, ...]):
    assert answers(answer) == expected


def test_a_text_that_is_another_option_s_letter_is_not_accepted():
    assert answers("A", choices=["B", "A"]) == ("A",)


def test_options_in_columns_and_in_a_text():
    assert answers("B", choices=None, A="x", B="y", C="") == ("B", "y")
    assert answers("b", choices="['a', 'b']") == ("B",)
    assert answers(1, choices=None, options=["x", 7]) == ("B", "7")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"answer": 3}, "the answer '3' is none of the 3 options"),
        ({"answer": "bird"}, "the answer 'bird' is none of the 3 options"),
        ({"answer": "D"}, "the answer 'D' is none of the 3 options"),
        ({"answer": True}, "must be the right option's index from 0, its letter or its text, and is true or"),
        ({"answer": ["A", "B"]}, "and is a list"),
        ({"answer": 10**30}, "holds a number over"),
        ({"choices": ["one"]}, "1 options are there; give 2 to 26"),
        ({"choices": ["x"] * 27}, "27 options are there"),
        ({"choices": ["x", None]}, "'choices' must be a text, a number"),
        ({"choices": "[x"}, "'choices' must be a list, or the text of one"),
        ({"question": " "}, "'question' is empty"),
    ],
    ids=str,
)
def test_mistakes_are_named(fields: dict[str, Any], message: str):
    with pytest.raises(InputError) as caught:
        answers(**{"answer": 0, **fields})
    assert str(caught.value).startswith("d.jsonl:1: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text", ["[" * 5000, "__import__('os')", "[1", "{}", "['a'" + "," * 200_000 + "]", 3]
)
def test_a_list_in_a_text_is_a_literal_of_bounded_length(text: Any):
    with pytest.raises(InputError, match="must be a list, or the text of one"):
        list_in_text(text, "options", "d.jsonl:1")
