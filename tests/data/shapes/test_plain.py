"""What a record may hold, and what each mistake in it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bivlm.data.fields import text_field
from bivlm.data.places import Look
from bivlm.data.shapes import Row, samples_of
from bivlm.data.shapes.plain import SHAPE
from bivlm.errors import InputError
from bivlm.types import Sample


def answers_of(**fields: Any) -> tuple[str, ...]:
    record = {"image": "cat.png", "question": "What is it?", **fields}
    [sample] = SHAPE.samples(Row(record, "vqa.jsonl:12", Look()))
    return sample.answers


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
        ({"answers": [], "answer": "red"}, ("red",)),
        ({"answers": {"answer": []}, "answer": "red"}, ("red",)),
        ({"answer": [], "answers": []}, ()),
        ({"answer": 3}, ("3",)),
        ({"answer": 0}, ("0",)),
        ({"answer": 2.5}, ("2.5",)),
        ({"answer": 3.0}, ("3",)),
        ({"answer": -1.0}, ("-1",)),
        ({"answers": [2, "two", {"answer": 2.0}]}, ("2", "two", "2")),
    ],
    ids=str,
)
def test_answers_in_every_form(fields: dict[str, Any], expected: tuple[str, ...]):
    assert answers_of(**fields) == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"answer": {"text": "cat"}},
            (
                "vqa.jsonl:12: 'answer' must be a text, a number, or a list of these or of {\"answer\":"
                " text}, and holds an object"
            ),
        ),
        ({"answers": ["cat", None]}, "holds null"),
        ({"answers": [["cat"]]}, "holds a list"),
        ({"answers": [{"text": "cat"}]}, "holds an object"),
        ({"answer": True}, 'holds true or false; write "yes" or "no"'),
        ({"answers": [False]}, "holds true or false"),
        ({"answer": 10**40}, "holds a number over 1000000000000000; write it as a text"),
        ({"answer": float("nan")}, "holds the number nan"),
        ({"answer": float("-inf")}, "holds the number -inf"),
        ({"answers": [], "answer": ""}, "'answer' is empty"),
        ({"answers": [[]]}, "holds a list"),
        ({"answer": " "}, "vqa.jsonl:12: 'answer' is empty"),
        ({"answers": ["", " "]}, "vqa.jsonl:12: 'answers' is empty"),
        ({"answer": "\ud800"}, r"vqa.jsonl:12: 'answer' holds half a character (\ud800)"),
        ({"question": None}, "vqa.jsonl:12: the field 'question' is missing (it has image, question)"),
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


def found(record: dict[str, Any], wanted: bool = True) -> Sample:
    [sample] = SHAPE.samples(Row(record, "vqa.jsonl:3", Look(wanted=wanted)))
    return sample


def test_several_images_come_before_the_question():
    sample = found({"images": ["a.png", "b.png"], "question": "Which?", "system": "Be brief."})
    assert sample == Sample((Path("a.png"), Path("b.png")), "Which?", (), "vqa.jsonl:3", "Be brief.")
    assert sample.parts == (Path("a.png"), Path("b.png"), "Which?")


def test_a_question_in_parts_says_where_its_images_are():
    text, image = {"type": "text", "text": "Is "}, {"type": "image", "image": "a.png"}
    sample = found({"question": [text, image, {"type": "text", "text": " red?"}], "answer": "yes"})
    assert sample.parts == ("Is ", Path("a.png"), " red?")
    assert (sample.question, sample.answers) == ("Is  red?", ("yes",))
    assert found({"question": [image, text]}) == Sample(Path("a.png"), "Is ", (), "vqa.jsonl:3")
    assert found({"question": [text]}).images == ()
    assert found({"question": [text, image]}, wanted=False).images == ()


@pytest.mark.parametrize("record", [{"image": None}, {"images": []}])
def test_a_record_may_say_that_it_has_no_image(record: dict[str, Any]):
    assert found({**record, "question": "Why?"}).images == ()
    with pytest.raises(InputError, match="the field 'image' is missing"):
        found({"question": "Why?"})


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"images": "a.png", "question": "?"}, "'images' must be a list of texts, and is a str"),
        ({"images": ["a.png", None], "question": "?"}, "an entry of 'images' must be a text, and is null"),
        ({"image": "a.png", "images": ["b.png"]}, "both 'image' and 'images' are there; give one"),
        ({"question": []}, "'question' is a list without a text"),
        ({"question": [{"type": "image", "image": "a.png"}]}, "'question' is a list without a text"),
        ({"question": ["Is it red?"]}, "and one is a str"),
        ({"question": [{"type": "audio", "audio": "a.wav"}]}, "and one is of type audio"),
        ({"question": [{"type": "text", "text": " "}]}, "a text in 'question' is empty"),
        (
            {"question": [{"type": "text", "text": "?"}, {"type": "image"}]},
            "an image in 'question' must be a text, and is null",
        ),
        ({"question": [{"type": "text", "text": "?"}], "image": "a.png"}, "and 'image' is there too"),
        ({"image": {"bytes": None, "path": ""}, "question": "?"}, "there is no image in 'image'"),
        ({"image": {"bytes": "AAAA"}, "question": "?"}, "'image' must be a text, and is an object"),
        ({"image": "a.png", "question": "?", "system": ""}, "'system' is empty"),
        ({"image": "a.png", "question": "?", "system": 1}, "'system' must be a text"),
    ],
    ids=str,
)
def test_mistakes_about_images_are_named(record: dict[str, Any], message: str):
    with pytest.raises(InputError) as caught:
        found(record)
    assert message in str(caught.value)
    assert str(caught.value).startswith("vqa.jsonl:3: ")


def test_a_field_next_to_the_question_does_not_matter():
    assert answers_of(conversations=[], messages="x", answer="cat") == ("cat",)


def test_answers_can_be_required():
    record = {"image": "cat.png", "question": "What is it?"}
    row = Row(record, "set:3", Look())
    with pytest.raises(InputError, match="set:3: neither 'answer' nor 'answers' is there"):
        samples_of(SHAPE, frozenset(record), row, answers_required=True)
    answered = Row({**record, "answer": "cat"}, "set:3", Look())
    [sample] = samples_of(SHAPE, frozenset(record), answered, answers_required=True)
    assert sample.answers == ("cat",)


def test_an_empty_record_has_no_fields_to_list():
    with pytest.raises(InputError, match=r"the field 'image' is missing \(it is empty\)"):
        text_field({}, "image", "set:3")


def test_the_record_is_left_alone():
    record = {"image": None, "question": "What is it?", "answers": [{"answer": "cat"}], "more": 1}
    found(record)
    assert record == {"image": None, "question": "What is it?", "answers": [{"answer": "cat"}], "more": 1}
