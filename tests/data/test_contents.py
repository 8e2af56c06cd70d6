"""What a data set is said to hold, and its contact sheet."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from bivlm.data.contents import contents
from bivlm.data.images import open_image
from bivlm.data.sheet import CELL, MARGIN, contact_sheet
from bivlm.errors import InputError
from bivlm.types import Sample, Turn


def test_everything_is_counted(shelf: Path):
    rows = [
        {
            "image": f"{n}.png",
            "question": f"{n}?",
            "answer": "a" if n < 6 else None,
            "group": "x" if n < 5 else "y",
        }
        for n in range(8)
    ]
    rows.append({"image": None, "question": "Why?", "answer": None, "group": None})
    (shelf / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = contents(shelf / "d.jsonl")
    assert (found.container, found.shape) == ("JSON lines", "question and image")
    assert (found.rows, found.questions, found.images, found.without_image) == (9, 9, 8, 1)
    assert (found.answers, found.groups, found.splits) == (6, {"x": 5, "y": 3}, {"": 9})
    assert found.divided == {"train": 2, "test": 7}
    plain = found.to_dict()
    assert json.loads(json.dumps(plain))["samples"][0]["images"] == [str(shelf / "0.png")]
    assert len(plain["samples"]) == 5


def test_videos_are_counted_and_their_first_frames_drawn(shelf: Path):
    rows = [
        {"video": ["1.png", "2.png"], "question": "What happens?", "answer": "a"},
        {"image": "3.png", "question": "Is it?", "answer": "no"},
    ]
    (shelf / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = contents(shelf / "d.jsonl")
    assert (found.images, found.videos, found.without_image) == (1, 1, 0)
    shown = json.loads(json.dumps(found.to_dict()))["samples"]
    assert shown[0]["videos"] == [[str(shelf / "1.png"), str(shelf / "2.png")]]
    assert "videos" not in shown[1]
    sheets = []
    for source in (found.samples[0], replace(found.samples[0], image=shelf / "1.png")):
        contact_sheet([source], shelf / "sheet.png")
        sheets.append((shelf / "sheet.png").read_bytes())
    assert sheets[0] == sheets[1]


def test_splits_are_counted_and_every_row_is_read(shelf: Path):
    datasets.disable_progress_bars()
    whole = datasets.Dataset.from_dict({"question": ["a?", "b?", None]})
    datasets.DatasetDict({"train": whole, "test": whole.select([0, 1])}).save_to_disk(shelf / "set")
    found = contents(shelf / "set", split="test")
    assert (found.splits, found.split, found.questions, found.divided) == (
        {"train": 3, "test": 2},
        "test",
        2,
        None,
    )
    with pytest.raises(InputError, match="set/train:2: "):
        contents(shelf / "set")


def test_the_set_that_comes_along_is_counted():
    found = contents("easy-vqa")
    assert (found.splits, found.questions) == ({"train": 38575, "test": 9673}, 9673)


def test_a_missing_image_is_found(shelf: Path):
    (shelf / "d.jsonl").write_text(json.dumps({"image": "none.png", "question": "a?"}))
    with pytest.raises(InputError, match=r"d\.jsonl:1: there is no image file"):
        contents(shelf / "d.jsonl")


def test_a_sheet_shows_every_image(shelf: Path):
    first, second = shelf / "0.png", shelf / "1.png"
    turn = Turn((second, "And?"), "Yes.")
    samples = [
        Sample(first, "Which colour?\n" * 20, ("red", "dark red"), "d.jsonl:1", group="colours"),
        Sample((first, second), "Which is larger?", (), "d.jsonl:2"),
        Sample(None, "Why? " * 100, ("because",), "d.jsonl:3", turns=(turn,)),
        Sample(None, "Pourquoi ? 为什么", (), "d.jsonl:4"),
        Sample(second, "?", ("x",), "d.jsonl:5"),
    ]
    contact_sheet(samples, shelf / "sheet.png")
    with Image.open(shelf / "sheet.png") as sheet:
        assert sheet.width == 4 * (CELL + MARGIN) + MARGIN
        pixels = np.asarray(sheet)
    colours = [open_image(image).getpixel((0, 0)) for image in (first, second)]
    seen = [(pixels == colour).all(-1) for colour in colours]
    assert [int(one.sum()) > 1000 for one in seen] == [True, True]
    left = seen[0][:, : CELL + MARGIN].sum()
    assert left > seen[0][:, CELL + 2 * MARGIN : 2 * CELL + MARGIN].sum() > 0, "two images share a cell"


def test_a_sheet_that_cannot_be_written_is_told(shelf: Path):
    with pytest.raises(InputError, match=r"cannot be written .*; give another file"):
        contact_sheet([Sample(None, "?")], shelf / "no" / "sheet.png")
