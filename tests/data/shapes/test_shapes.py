"""All shapes together: no record gives anything but samples or a refusal, and the documents list them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bivlm.data.containers import CONTAINERS
from bivlm.data.places import Look
from bivlm.data.samples import read_samples
from bivlm.data.shapes import FIELDS, SHAPES, Row, find_shape, samples_of
from bivlm.errors import InputError
from bivlm.types import Sample

DOCUMENT = Path(__file__).parents[3] / "docs" / "questions.md"
ENTRIES = ("type", "text", "role", "content", "from", "value", "user", "assistant", "bytes", "path", "answer")
WORDS = st.sampled_from(
    [
        "",
        "a.png",
        "<image>",
        "<image 1>",
        "user",
        "human",
        "gpt",
        "assistant",
        "image",
        "text",
        "[]",
        "['a']",
        "B",
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(ENTRIES), inner, max_size=4),
    max_leaves=12,
)
RECORDS = st.dictionaries(
    st.sampled_from([*sorted(FIELDS), "A", "B", "image_1", "label", "group"]), VALUES, max_size=6
)


@given(RECORDS, st.booleans())
@settings(deadline=None, max_examples=100)
def test_a_record_gives_samples_or_a_refusal(record: dict[str, Any], wanted: bool):
    refused, found = "", []
    try:
        shape = find_shape(record, "d.jsonl:1")
        found = samples_of(shape, frozenset(record), Row(record, "d.jsonl:1", Look(wanted=wanted)))
    except InputError as error:
        refused = str(error)
    if refused:
        assert refused.startswith("d.jsonl:1: ")
        assert refused.isprintable()
        assert len(refused) < 1000
        return
    assert found
    for sample in found:
        assert isinstance(sample, Sample)
        assert sample.question.strip()
        assert all(isinstance(answer, str) for answer in sample.answers)


@given(st.lists(RECORDS | VALUES, max_size=3), st.booleans())
@settings(deadline=None, max_examples=30)
def test_a_file_gives_samples_or_a_refusal(tmp_path_factory: Any, records: list[Any], in_lines: bool):
    file = tmp_path_factory.mktemp("any") / ("d.jsonl" if in_lines else "d.json")
    lines = [json.dumps(record) for record in records]
    file.write_text("\n".join(lines) if in_lines else f"[{','.join(lines)}]")
    refused = ""
    try:
        read_samples(file)
    except InputError as error:
        refused = str(error)
    assert "\n" not in refused


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_a_shape_lacks_what_it_needs(shape: Any):
    assert shape.lacks({}) == [names[0] for names in shape.fields]
    assert shape.lacks(dict.fromkeys((names[-1] for names in shape.fields), "x")) == []
    assert not shape.matches({})


def test_a_row_of_another_shape_is_named(tmp_path: Path):
    rows = [{"question": "What?"}, {"messages": [{"role": "user", "content": "What?"}]}]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(InputError) as caught:
        read_samples(tmp_path / "d.jsonl")
    assert (
        str(caught.value)
        == "d.jsonl:2: the field 'question' is missing (it has messages); the rows before are of the shape"
        " question without an image, and this one is of messages (OpenAI)"
    )
    rows = [{"question": "What?"}, {"question": "What?", "image": None}]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(InputError, match=r"d\.jsonl:2: the rows before .*; make two files of them"):
        read_samples(tmp_path / "d.jsonl")


def test_rows_with_the_same_fields_may_be_of_two_shapes(tmp_path: Path):
    row = {"image": None, "question": "What?", "answer": "4", "choices": None}
    rows = [row, {**row, "choices": ["3", "4"]}]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    free, chosen = read_samples(tmp_path / "d.jsonl")
    assert (free.answers, chosen.answers) == (("4",), ("B", "4"))


def test_an_unknown_shape_says_what_is_nearest():
    with pytest.raises(InputError) as caught:
        find_shape({"foo": 1}, "d.jsonl:1")
    assert (
        str(caught.value)
        == "d.jsonl:1: no shape that is known (it has foo). The nearest: question and image, which lacks"
        " 'image' and 'question'; text, which lacks 'text'"
    )


def cell(names: tuple[str, ...]) -> str:
    return " or ".join(f"`{name}`" for name in names)


def rows_of_table(title: str) -> list[list[str]]:
    """The rows of the table under a heading of the documents."""
    section = DOCUMENT.read_text(encoding="utf-8").split(f"## {title}\n")[1].split("\n## ")[0]
    lines = re.findall(r"^\| (.*) \|$", section, flags=re.MULTILINE)
    return [line.split(" | ") for line in lines if not line.startswith("---")][1:]


def test_the_documents_list_every_shape():
    expected = [
        [
            shape.name,
            ", ".join(cell(names) for names in shape.fields),
            ", ".join(f"`{name}`" for name in shape.more),
            shape.example,
        ]
        for shape in SHAPES
    ]
    assert rows_of_table("What a record means") == expected


def test_the_documents_list_every_container():
    expected = [[one.name, one.what] for one in CONTAINERS if one.what]
    assert [row[:2] for row in rows_of_table("How records are stored")][: len(expected)] == expected
