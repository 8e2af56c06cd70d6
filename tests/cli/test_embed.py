"""bivlm embed: a table, JSON, a file, and mistakes."""

from __future__ import annotations

import json

import pytest

from bivlm.eval.embedding.files import read_vectors

ROWS = [
    {"query": "red", "positives": [{"image": "image.png"}], "candidates": ["blue", "green"]},
    {"query": {"image": "image.png", "text": "which?"}, "positives": ["red"], "candidates": ["blue"]},
]


@pytest.fixture
def rows(questions):
    path = questions["DATA"].parent / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_a_search_is_measured_and_its_vectors_are_kept(source, rows, run, tmp_path):
    out = tmp_path / "v.safetensors"
    code, said, _ = run("embed", source, "--data", rows, "--reference", source, "--out", out, "--json")
    found = json.loads(said)
    assert code == 0
    assert found["retrieval"]["documents"] == 4
    assert found["closeness"]["drift"] < 1e-4
    kept = read_vectors(out)
    assert kept.query_ids == ("q1", "q2")
    assert kept.documents.shape == (4, found["dimensions"])
    code, _, error = run("embed", source, "--data", rows, "--out", out)
    assert code == 2
    assert "is there already" in error


def test_a_table_and_items_without_queries(source, rows, run):
    code, said, _ = run("embed", source, "--data", rows, "--pooling", "mean", "--prompt", "plain")
    assert code == 0
    assert "hit@1" in said
    assert "mean" in said
    items = rows.parent / "items.jsonl"
    items.write_text('{"text": "red"}\n')
    code, _, error = run("embed", source, "--data", items)
    assert code == 2
    assert "give --out or --reference" in error
