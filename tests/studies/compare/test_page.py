"""The page of a comparison: the files, and what stands in them."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from bivlm.errors import InputError
from bivlm.studies.compare.folder import run_name
from bivlm.studies.compare.page import write_page
from bivlm.studies.compare.result import ComparisonRow
from comparing import LANGUAGE, PRESETS


def test_files(made):
    found, out = made
    assert {path.name for path in out.iterdir()} == {
        ".bivlm-compare", "reference", "models", "runs", "comparison.md", "comparison.json", "comparison.png",
    }  # fmt: skip
    assert not list((out / "models").iterdir())
    assert [path.name for path in (out / ".bivlm-compare").iterdir()] == ["lock"]
    written = json.loads((out / "comparison.json").read_text())
    assert tuple(ComparisonRow.from_dict(row) for row in written["rows"]) == found.rows
    with Image.open(out / "comparison.png") as picture:
        assert min(picture.size) > 800
    for name in (f"{run_name(PRESETS[0], LANGUAGE)}.json", "full-precision.json"):
        record = json.loads((out / "runs" / name).read_text())
        assert len(record["evaluation"]["records"]) == 4
        assert record["machine"]["torch"] == torch.__version__
    assert record["fingerprint"].keys() >= {"model", "samples"}


def test_markdown(made):
    found, out = made
    lines = (out / "comparison.md").read_text().splitlines()
    table = [line for line in lines if line.startswith("| ")]
    assert len(table) == 1 + len(found.rows)
    assert len({line.count("|") for line in table}) == 1
    assert found.machine in "\n".join(lines)
    assert "    bivlm compare MODEL | x" in lines


def test_a_page_may_have_another_name_and_no_picture(made, tmp_path):
    write_page(made[0], tmp_path / "new", "methods", picture=False)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["methods.json", "methods.md"]
    assert "![" not in (tmp_path / "new" / "methods.md").read_text()


def test_a_folder_that_cannot_be_written_is_told(made, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="cannot be written"):
        write_page(made[0], tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
