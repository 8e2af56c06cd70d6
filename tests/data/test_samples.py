"""Data sets from every place, subsets of them, and what each mistake says."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bivlm.data.samples import read_samples, shuffle_images
from bivlm.errors import InputError
from bivlm.types import Sample


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images; "copy.png" has the bytes of "red.png"."""
    for name, colour in (("red", "red"), ("copy", "red"), ("blue", "blue"), ("green", "green")):
        Image.new("RGB", (4, 4), colour).save(tmp_path / f"{name}.png")
    return tmp_path


def write_lines(file: Path, *records: Any) -> Path:
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


def row(image: str = "red.png", question: str = "Which colour?", **more: Any) -> dict[str, Any]:
    return {"image": image, "question": question, "answer": "red", **more}


def refusal(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_samples(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- JSONL


def test_jsonl_gives_samples_in_order_with_their_line(folder: Path):
    file = write_lines(folder / "vqa.jsonl", row(), row("blue.png", "Und welche Farbe? ä", answer="blau"))
    assert read_samples(file) == [
        Sample(folder / "red.png", "Which colour?", ("red",), "vqa.jsonl:1"),
        Sample(folder / "blue.png", "Und welche Farbe? ä", ("blau",), "vqa.jsonl:2"),
    ]
    assert read_samples(str(file)) == read_samples(file)


def test_blank_lines_a_byte_order_mark_and_windows_line_ends_do_no_harm(folder: Path):
    line = json.dumps(row(question="Line separator \u2028 here?"), ensure_ascii=False)
    (folder / "vqa.jsonl").write_bytes(f"\ufeff{line}\r\n\r\n{line}".encode())
    assert [sample.origin for sample in read_samples(folder / "vqa.jsonl")] == ["vqa.jsonl:1", "vqa.jsonl:3"]


def test_every_image_of_a_line_is_looked_for_and_confined(folder: Path, tmp_path_factory: Any):
    records = (
        {"images": ["red.png", "no.png"], "question": "Which?"},
        {"question": [{"type": "text", "text": "This?"}, {"type": "image", "image": "blue.png"}]},
        {"image": None, "question": "Why?"},
    )
    file = write_lines(folder / "vqa.jsonl", *records)
    assert f"vqa.jsonl:1: there is no image file {folder / 'no.png'}" in refusal(file)
    (folder / "no.png").write_bytes((folder / "green.png").read_bytes())
    samples = read_samples(file, data_root=folder)
    assert [sample.images for sample in samples] == [
        (folder / "red.png", folder / "no.png"),
        (folder / "blue.png",),
        (),
    ]
    assert samples[1].parts == ("This?", folder / "blue.png")
    assert all(not sample.images for sample in read_samples(file, images=False))
    other = tmp_path_factory.mktemp("other")
    assert f"lies outside {other}" in refusal(file, data_root=other)


def test_shuffled_images_keep_their_number_and_places(folder: Path):
    red, blue, green = (folder / f"{name}.png" for name in ("red", "blue", "green"))
    samples = [Sample((red, blue), "Which?"), Sample.of(("Is ", green, " red?")), Sample(None, "Why?")]
    shuffled = shuffle_images(samples)
    assert [len(sample.images) for sample in shuffled] == [2, 1, 0]
    assert shuffled[1].places == samples[1].places
    pairs = [
        pair
        for one, other in zip(samples, shuffled, strict=True)
        for pair in zip(one.images, other.images, strict=True)
    ]
    assert all(before != after for before, after in pairs)
    assert shuffled[2] == samples[2]


def test_absolute_image_paths_stay(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    file = write_lines(tmp_path_factory.mktemp("other") / "vqa.jsonl", row(str(folder / "red.png")))
    assert read_samples(file)[0].image == folder / "red.png"


def test_a_question_of_ten_thousand_characters_is_read(folder: Path):
    file = write_lines(folder / "vqa.jsonl", row(question="why " * 2500))
    assert len(read_samples(file)[0].question) == 10_000


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            b"{'image': 1}",
            "vqa.jsonl:2: not JSON (Expecting property name enclosed in double quotes at column 2)",
        ),
        (b'{"image": "red.png"', "vqa.jsonl:2: not JSON"),
        (b"[" * 100_000, "vqa.jsonl:2: not JSON"),
        (
            b"[1, 2]",
            "vqa.jsonl:2: a JSON array; write each of its entries as one line",
        ),
        (
            b'"red"',
            'vqa.jsonl:2: each line must be one JSON object with image, question and answer, not "red"',
        ),
        (b'{"image": "\xff"}', "vqa.jsonl:2: not a text in UTF-8 (invalid start byte at byte 11)"),
        (b'{"question": "Which?"}', "vqa.jsonl:2: the field 'image' is missing (it has question)"),
        (b'{"image": 5, "question": "Which?"}', "vqa.jsonl:2: 'image' must be a text, and is the number 5"),
        (b'{"image": "red.png"}', "vqa.jsonl:2: the field 'question' is missing (it has image)"),
        (b'{"image": "red.png", "question": "Which?", "answer": {}}', "vqa.jsonl:2: 'answer' must be a text"),
        (b'{"image": "no.png", "question": "Which?"}', "vqa.jsonl:2: there is no image file"),
        (b'{"image": "a\\u0000b", "question": "Which?"}', "vqa.jsonl:2: there is no image file"),
        (b'{"image": ".", "question": "Which?"}', "vqa.jsonl:2: there is no image file"),
    ],
    ids=lambda value: value[:40] if isinstance(value, bytes) else "",
)
def test_a_bad_line_is_named(line: bytes, message: str, folder: Path):
    file = write_lines(folder / "vqa.jsonl", row())
    file.write_bytes(file.read_bytes() + line + b"\n")
    assert message in refusal(file)
    assert message in refusal(file, limit=1), "all lines are checked, whatever the limit"


def test_all_missing_images_are_counted_before_anything_starts(folder: Path):
    file = write_lines(folder / "vqa.jsonl", row(), row("no.png"), row(), row("nor.png"))
    assert (
        refusal(file)
        == f"vqa.jsonl:2: there is no image file {folder / 'no.png'} (and 1 more lines name images that are"
        " not there); paths are relative to the folder of the data file, or to --data-root"
    )


def test_answers_are_required_on_demand(folder: Path):
    file = write_lines(folder / "vqa.jsonl", row(), {"image": "red.png", "question": "Which colour?"})
    assert [sample.answers for sample in read_samples(file)] == [("red",), ()]
    assert refusal(file, answers_required=True).startswith(
        "vqa.jsonl:2: neither 'answer' nor 'answers' is there"
    )


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file_is_refused(content: bytes, folder: Path):
    (folder / "vqa.jsonl").write_bytes(content)
    assert "vqa.jsonl holds no samples" in refusal(folder / "vqa.jsonl")


def test_a_missing_source_is_refused_with_what_there_could_be(tmp_path: Path):
    assert refusal(tmp_path / "no.jsonl").startswith(
        f"there is no data set {tmp_path / 'no.jsonl'}; give easy-vqa, a file (JSON, JSONL"
    )


def test_an_image_as_source_is_refused(folder: Path):
    assert "red.png:1: not a text in UTF-8" in refusal(folder / "red.png")


# ---- folders


@pytest.mark.parametrize("named_by", ["file_name", "image"])
def test_a_folder_with_metadata(named_by: str, folder: Path):
    write_lines(
        folder / "metadata.jsonl",
        {named_by: "red.png", "question": "Which colour?", "answers": ["red", "dark red"]},
    )
    assert read_samples(folder) == [
        Sample(folder / "red.png", "Which colour?", ("red", "dark red"), f"{folder.name}/metadata.jsonl:1")
    ]


def test_splits_of_a_folder_are_folders(folder: Path):
    for split in ("train", "test"):
        (folder / split).mkdir()
        shutil.copy(folder / "red.png", folder / split)
        write_lines(folder / split / "metadata.jsonl", row(question=f"{split}?"))
    assert [sample.question for sample in read_samples(folder, split="test")] == ["test?"]
    assert read_samples(folder, split="test")[0].origin == f"{folder.name}/test/metadata.jsonl:1"
    assert (
        refusal(folder)
        == f"{folder} has the splits test, train; choose one with --split (split= in Python), such as test"
    )
    assert "has the splits test, train and no 'dev'" in refusal(folder, split="dev")
    assert [sample.question for sample in read_samples(folder / "train")] == ["train?"]


def test_an_empty_folder_is_refused(tmp_path: Path):
    assert "holds no data: neither metadata.jsonl nor parquet" in refusal(tmp_path)


# ---- easy-VQA


def test_easy_vqa_has_its_splits():
    test, train = read_samples("easy-vqa"), read_samples("easy-vqa", split="train")
    assert (len(test), len(train)) == (9673, 38575)
    assert read_samples("easy-vqa", split="test") == test
    assert "has the splits train and test" in refusal("easy-vqa", split="dev")


def test_easy_vqa_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "easy_vqa", None)
    assert "pip install 'bivlm[demo]'" in refusal("easy-vqa")


# ---- subsets


def test_a_limit_takes_a_seeded_subset_in_order(folder: Path):
    file = write_lines(folder / "vqa.jsonl", *(row(question=f"{number}?") for number in range(50)))
    everything = read_samples(file)
    chosen = read_samples(file, limit=10, seed=3)
    places = [everything.index(sample) for sample in chosen]
    assert places == sorted(set(places))
    assert len(places) == 10
    assert chosen == read_samples(file, limit=10, seed=3)
    assert chosen != read_samples(file, limit=10, seed=4)
    assert chosen != everything[:10]
    assert read_samples(file, limit=50) == read_samples(file, limit=99) == everything


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_of_nothing_is_refused(limit: int):
    assert f"a limit of {limit} samples" in refusal("easy-vqa", limit=limit)


# ---- wrong images


def test_every_question_gets_an_image_that_differs(folder: Path):
    names = ["red", "copy", "blue", "red", "green", "copy", "blue"]
    samples = [
        Sample(folder / f"{name}.png", f"{number}?", ("yes",), f"set:{number}")
        for number, name in enumerate(names)
    ]
    shuffled = shuffle_images(samples, seed=1)
    assert [(s.question, s.answers, s.origin) for s in shuffled] == [
        (s.question, s.answers, s.origin) for s in samples
    ]
    for before, after in zip(samples, shuffled, strict=True):
        assert after.image.read_bytes() != before.image.read_bytes()
    assert shuffled == shuffle_images(samples, seed=1)


@given(st.lists(st.integers(0, 6), min_size=2, max_size=30), st.integers(0, 5))
@settings(deadline=None, max_examples=60)
def test_shuffling_exchanges_whole_images(shades: list[int], seed: int):
    """Samples that shared an image share the new one, and no two images become the same."""
    samples = [Sample(Image.new("L", (2, 2), shade), "?") for shade in shades]
    if len(set(shades)) == 1:
        with pytest.raises(InputError, match="needs two that differ"):
            shuffle_images(samples, seed)
        return
    new = [sample.image.getpixel((0, 0)) for sample in shuffle_images(samples, seed)]
    exchange = dict(zip(shades, new, strict=True))
    assert [exchange[shade] for shade in shades] == new
    assert all(before != after for before, after in exchange.items())
    assert sorted(exchange.values()) == sorted(exchange)


def test_shuffling_depends_on_the_seed():
    samples = [Sample(Image.new("L", (2, 2), shade), "?") for shade in range(40)]
    orders = {
        tuple(sample.image.getpixel((0, 0)) for sample in shuffle_images(samples, seed)) for seed in range(5)
    }
    assert len(orders) == 5


def test_images_of_one_size_and_of_another_are_told_apart():
    samples = [Sample(Image.new("L", size, 0), "?") for size in ((2, 8), (8, 2), (4, 4))]
    assert Counter(sample.image.size for sample in shuffle_images(samples)) == Counter(
        [(2, 8), (8, 2), (4, 4)]
    )


def test_shuffling_names_an_image_that_is_gone(tmp_path: Path):
    with pytest.raises(InputError, match=r"set:1: the image .*no\.png does not exist"):
        shuffle_images([Sample(tmp_path / "no.png", "?", origin="set:1")])
