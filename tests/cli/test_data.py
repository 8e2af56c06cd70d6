"""bivlm data: the words, the JSON, the sheet; and the options that name columns and splits."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from PIL import Image

from bivlm.cli.shared import columns_of, split_of
from bivlm.errors import InputError


@pytest.fixture
def folder(tmp_path):
    for number, colour in enumerate(("red", "green", "blue", "white")):
        Image.new("RGB", (40, 30), colour).save(tmp_path / f"{number}.png")
    rows = [
        {"image": f"{n}.png", "query": f"Which colour has {n}?", "label": n, "group": "colours"}
        for n in range(4)
    ]
    (tmp_path / "vqa.json").write_text(json.dumps(rows))
    return tmp_path


def test_a_data_set_is_shown(run, folder):
    columns = ("--columns", "question=query,answer=label")
    code, out, _ = run("data", folder / "vqa.json", *columns, "--sheet", folder / "sheet.png")
    assert code == 0
    for words in (
        "stored as   JSON", "shape       question and image", "questions   4", "groups      colours 4",
        "1 questions would calibrate, 3 be asked, about different images", "Which colour has 3?",
    ):  # fmt: skip
        assert words in out
    with Image.open(folder / "sheet.png") as sheet:
        assert sheet.width > 1000
    code, out, _ = run("data", folder / "vqa.json", *columns, "--json")
    assert json.loads(out)["divided"] == {"train": 1, "test": 3}


def test_videos_are_shown(run, folder):
    rows = [
        {"video": ["0.png", "1.png"], "question": "What happens?"},
        {"video": "0.png", "question": "And?"},
    ]
    (folder / "clips.json").write_text(json.dumps(rows))
    code, out, _ = run("data", folder / "clips.json", "--sheet", folder / "sheet.png")
    assert code == 0
    for words in ("images      0", "videos      2", "video of 2 frames"):
        assert words in out


def test_a_data_set_that_is_not_read_is_told(run, folder):
    code, _, err = run("data", folder / "vqa.json")
    assert code == 2
    assert "--columns question=query,answer=label" in err.replace("\n", " ")


def test_it_starts_without_torch(folder):
    script = (
        "import sys; from bivlm import cli\n"
        "sys.argv = ['bivlm', 'data', sys.argv[1], '--columns', 'question=query']\n"
        "try: cli.main()\nexcept SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'datasets'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script, folder / "vqa.json"], check=True, capture_output=True)


def test_columns_and_splits_are_read():
    assert columns_of(None) == {}
    assert columns_of("question=query, answer = label") == {"question": "query", "answer": "label"}
    for text in ("question", "question=", "=query", ""):
        with pytest.raises(InputError, match="give FIELD=COLUMN"):
            columns_of(text)
    assert [split_of(text, "test") for text in (None, "all", "dev")] == ["test", None, "dev"]
