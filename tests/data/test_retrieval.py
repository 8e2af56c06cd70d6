"""Rows of queries and documents: every form, every document once, and what is wrong in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from bivlm.data.retrieval import read_retrieval
from bivlm.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("red", "blue"):
        Image.new("RGB", (8, 8), name).save(tmp_path / f"{name}.png")
    return tmp_path


def written(folder: Path, *rows: object) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


RED = {"query": "red", "positives": [{"image": "red.png"}], "candidates": [{"image": "blue.png"}, "blue"]}
BOTH = {
    "query": {"text": "now blue", "image": "red.png", "id": "b"},
    "positives": [{"image": "blue.png"}, {"text": "blue"}],
    "candidates": [{"image": "red.png"}, {"image": "blue.png"}],
}


def test_every_document_is_there_once(folder: Path):
    found = read_retrieval(written(folder, RED, BOTH))
    assert [entry.id for entry in found.queries] == ["q1", "b"]
    assert [entry.id for entry in found.documents] == ["d1", "d2", "d3"]
    assert found.relevant == ((0,), (1, 2))
    assert found.pools == ((0, 1, 2), (1, 2, 0))
    assert found.queries[1].sample.question == "now blue"
    assert found.queries[1].sample.image == folder / "red.png"
    assert found.queries[1].sample.origin == "rows.jsonl:2"
    assert [sample.question for sample in found.samples] == ["red", "now blue", "", "", "blue"]


def test_without_candidates_the_documents_of_all_rows_are_ranked(folder: Path):
    rows = [
        {"query": "red", "positives": ["a"]},
        {"query": "blue", "positives": ["b", "a"], "candidates": ["c"]},
    ]
    found = read_retrieval(written(folder, *rows), system="Embed it.")
    assert found.pools == ((0, 1, 2), (1, 0, 2))
    assert {sample.system for sample in found.samples} == {"Embed it."}


def test_items_alone(folder: Path):
    found = read_retrieval(
        written(folder, {"text": "red", "id": 7}, {"image": "red.png"}, {"text": "red", "id": 7})
    )
    assert [entry.id for entry in found.documents] == ["7", "d2"]
    assert not found.queries


def test_a_limit_draws_rows(folder: Path):
    rows = [{"query": f"q{n}", "positives": ["a"], "candidates": [f"c{n}"]} for n in range(9)]
    found = read_retrieval(written(folder, *rows), limit=3, seed=1)
    assert len(found.queries) == 3
    assert found == read_retrieval(written(folder, *rows), limit=3, seed=1)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{**RED, "query": ""}], "rows.jsonl:1: 'query' is empty"),
        ([{**RED, "query": {"text": " "}}], "the text of 'query' is empty"),
        ([{**RED, "query": {}}], "'query' has no 'text' and no 'image'"),
        ([{**RED, "query": 3}], "'query' must be a text, or an object"),
        ([{**RED, "positives": []}], "'positives' is missing or empty"),
        ([{"query": "red", "candidates": ["a"]}], "'positives' is missing or empty"),
        ([{**RED, "positives": "red.png"}], "'positives' must be a list, and is a str"),
        ([{**RED, "candidates": []}], "nothing to rank but the positives"),
        ([{**RED, "candidates": [{"image": "red.png"}]}], "nothing to rank but the positives"),
        ([{"query": "red", "positives": ["a"]}], "nothing to rank but the positives"),
        ([{**RED, "positives": [{"image": "no.png"}]}], "there is no image file .*no.png"),
        ([{**RED, "positives": [{"image": "https://a.b/c.png"}]}], "the image is a URL"),
        ([BOTH, BOTH], "the id 'b' is that of an earlier query"),
        ([{**BOTH, "query": {"text": "a", "id": []}}], "the id of 'query' must be a text"),
        ([{"text": "a", "id": 7}, {"text": "b", "id": "7"}], "rows.jsonl:2: the id '7' is that of another"),
        ([{"text": "a", "id": "d2"}, {"text": "b"}], "rows.jsonl:2: the id 'd2' is that of another"),
        ([{**RED, "positives": [""]}], "'positives' is empty"),
        ([{**RED, "positives": [None]}], "'positives' must be a text, or an object"),
        ([{**RED, "positives": None}], "'positives' is missing or empty"),
        ([{**RED, "candidates": ["  "]}], "'candidates' is empty"),
        ([RED, {"text": "blue"}], "rows.jsonl:2: some rows have a query and others have none"),
        ([{"image": "red.png", "text": ""}], "the text of the item is empty"),
        ([{"question": "red"}], "the item has no 'text' and no 'image' .it has question."),
        ([], "holds no rows"),
    ],
)
def test_what_is_wrong_is_named(folder: Path, rows: list, said: str):
    with pytest.raises(InputError, match=said):
        read_retrieval(written(folder, *rows))


def test_splits_and_roots_and_limits(folder: Path):
    path = written(folder, RED)
    with pytest.raises(InputError, match="has no splits"):
        read_retrieval(path, split="test")
    with pytest.raises(InputError, match="a limit of 0 rows"):
        read_retrieval(path, limit=0)
    (folder / "inside").mkdir()
    with pytest.raises(InputError, match="lies outside"):
        read_retrieval(path, data_root=folder / "inside")
