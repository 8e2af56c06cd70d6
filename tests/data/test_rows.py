"""What a record may hold, and what each mistake in it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bivlm.data.rows import text_field, to_sample
from bivlm.errors import InputError

IMAGE = Path("cat.png")


def answers_of(**fields: Any) -> tuple[str, ...]:
    return to_sample(
        {"question": "What is it?", **fields}, IMAGE, "vqa.jsonl:12", answers_required=False
    ).answers


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ()),
        ({"answer": None, "answers": None}, ()),
        ({"answers": []}, ()),
        ({"answer": "cat"}, ("cat",)),
        ({"answers": ["cat", "a cat", "cat"]}, ("cat", "a cat", "cat")),
        ({"answers": [{"answer": "cat", "answer_id": 1}, {"answer": "dog", "answer_id": 2}]}, ("cat", "dog")),
        ({"answers": {"answer": ["cat", "dog"], "answer_id": [1, 2]}}, ("cat", "dog")),
        ({"answers": "cat"}, ("cat",)),
        ({"answer": ["cat", "dog"]}, ("cat", "dog")),
        ({"answer": "dog", "answers": ["cat"]}, ("cat",)),
        ({"answer": "dog", "answers": None}, ("dog",)),
        ({"answers": ["cat", ""]}, ("cat", "")),
    ],
    ids=str,
)
def test_answers_in_every_form(fields: dict[str, Any], expected: tuple[str, ...]):
    assert answers_of(**fields) == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"answer": 2},
            (
                "vqa.jsonl:12: 'answer' must be a text, a list of texts or a list of {\"answer\": text}, and"
                " holds the number 2"
            ),
        ),
        ({"answers": ["cat", None]}, "holds null"),
        ({"answers": [["cat"]]}, "holds a list"),
        ({"answers": [{"text": "cat"}]}, "holds an object"),
        ({"answer": True}, "holds true or false"),
        ({"answer": 10**40}, "holds a number"),
        ({"answer": " "}, "vqa.jsonl:12: 'answer' is empty"),
        ({"answers": ["", " "]}, "vqa.jsonl:12: 'answers' is empty"),
        ({"answer": "\ud800"}, r"vqa.jsonl:12: 'answer' holds half a character (\ud800)"),
        ({"question": None}, "vqa.jsonl:12: the field 'question' is missing (it has question)"),
        ({"question": 7}, "vqa.jsonl:12: 'question' must be a text, and is the number 7"),
        ({"question": "\n"}, "vqa.jsonl:12: 'question' is empty"),
        ({"question": "a\udfff"}, "'question' holds half a character"),
    ],
    ids=str,
)
def test_mistakes_are_named(fields: dict[str, Any], message: str):
    with pytest.raises(InputError) as caught:
        answers_of(**fields)
    assert message in str(caught.value)


def test_answers_can_be_required():
    with pytest.raises(InputError, match="set:3: neither 'answer' nor 'answers' is there"):
        to_sample({"question": "What is it?"}, IMAGE, "set:3", answers_required=True)
    assert to_sample(
        {"question": "What is it?", "answer": "cat"}, IMAGE, "set:3", answers_required=True
    ).answers == ("cat",)


def test_an_empty_record_has_no_fields_to_list():
    with pytest.raises(InputError, match=r"the field 'image' is missing \(it is empty\)"):
        text_field({}, "image", "set:3")


def test_the_record_is_left_alone():
    record = {"question": "What is it?", "answers": [{"answer": "cat"}], "more": 1}
    to_sample(record, IMAGE, "set:3", answers_required=True)
    assert record == {"question": "What is it?", "answers": [{"answer": "cat"}], "more": 1}
