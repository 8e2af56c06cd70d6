"""Hugging Face data sets on the disk: with embedded images, with paths, with splits; and damaged ones."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bivlm.data.images import open_image
from bivlm.data.samples import read_samples
from bivlm.errors import InputError

datasets = pytest.importorskip("datasets")

TEXT = datasets.Value("string")
VOTES = [{"answer": "red", "answer_id": 1}, {"answer": "dark red", "answer_id": 2}]


@pytest.fixture(autouse=True)
def _quiet():
    datasets.disable_progress_bars()


def colours(count: int) -> list[Image.Image]:
    return [Image.new("RGB", (3, 2), (index * 20, 0, 255)) for index in range(count)]


def make(columns: dict[str, list[Any]], **features: Any) -> Any:
    names = {"image": datasets.Image(), "question": TEXT, "answer": TEXT, **features}
    return datasets.Dataset.from_dict(
        columns, features=datasets.Features({name: names[name] for name in columns})
    )


def questions(count: int) -> dict[str, list[Any]]:
    return {
        "image": colours(count),
        "question": [f"{n}?" for n in range(count)],
        "answer": [f"a{n}" for n in range(count)],
    }


def saved(dataset: Any, folder: Path, **options: Any) -> Path:
    dataset.save_to_disk(folder, **options)
    return folder


def refusal(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_samples(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_column_of_images_holds_several_for_a_row(tmp_path: Path):
    first, second, third = colours(3)
    several = datasets.Sequence(datasets.Image())
    columns = {
        "images": [[first, second], [third], []],
        "question": ["a?", "b?", "c?"],
        "system": ["Be brief."] * 3,
    }
    samples = read_samples(saved(make(columns, images=several, system=TEXT), tmp_path / "set"))
    assert [[open_image(image).getpixel((0, 0))[0] for image in one.images] for one in samples] == [
        [0, 20], [40], [],
    ]  # fmt: skip
    assert {sample.system for sample in samples} == {"Be brief."}


def test_a_column_of_images_may_name_files(tmp_path: Path):
    colours(1)[0].save(tmp_path / "a.png")
    columns = {"images": [[str(tmp_path / "a.png")]], "question": ["a?"]}
    [sample] = read_samples(saved(make(columns, images=datasets.Sequence(TEXT)), tmp_path / "set"))
    assert sample.images == (tmp_path / "a.png",)


def test_a_column_of_images_that_holds_none_is_named(tmp_path: Path):
    columns = {"images": ["a.png"], "question": ["a?"]}
    folder = saved(make(columns, images=TEXT), tmp_path / "set")
    assert refusal(folder) == "set:0: 'images' must be a list of texts, and is a str"


def test_a_question_that_is_a_list_of_texts_is_refused(tmp_path: Path):
    columns = {"question": [["a?"]]}
    folder = saved(make(columns, question=datasets.Sequence(TEXT)), tmp_path / "set")
    assert "set:0: each part of 'question' must be" in refusal(folder)


@pytest.mark.parametrize("shards", [1, 3])
def test_rows_become_samples_with_undecoded_images(shards: int, tmp_path: Path):
    folder = saved(make(questions(7)), tmp_path / "set", num_shards=shards)
    samples = read_samples(folder)
    assert [(s.question, s.answers, s.origin) for s in samples] == [
        (f"{n}?", (f"a{n}",), f"set:{n}") for n in range(7)
    ]
    assert all(sample.image.tile for sample in samples)
    for sample, image in zip(samples, colours(7), strict=True):
        assert np.array_equal(np.asarray(open_image(sample.image, sample.origin)), np.asarray(image))
    assert all(sample.image.tile for sample in samples)


def test_a_limit_reads_its_rows_alone(tmp_path: Path):
    folder = saved(make(questions(9)), tmp_path / "set", num_shards=2)
    chosen = read_samples(folder, limit=4, seed=1)
    numbers = [int(sample.origin.partition(":")[2]) for sample in chosen]
    assert len(numbers) == 4
    assert numbers == sorted(numbers)
    for number, sample in zip(numbers, chosen, strict=True):
        assert sample.question == f"{number}?"
        assert np.array_equal(
            np.asarray(open_image(sample.image, sample.origin)), np.asarray(colours(9)[number])
        )


def test_rows_that_were_selected_and_turned_round(tmp_path: Path):
    folder = saved(make(questions(6)).select([4, 1, 3]), tmp_path / "set")
    samples = read_samples(folder)
    assert [sample.question for sample in samples] == ["4?", "1?", "3?"]
    assert [open_image(sample.image, sample.origin).getpixel((0, 0))[0] for sample in samples] == [80, 20, 60]


@pytest.mark.parametrize(
    ("feature", "value"),
    [
        ([{"answer": TEXT, "answer_id": datasets.Value("int64")}], VOTES),
        ({"answer": [TEXT]}, {"answer": ["red", "dark red"]}),
        ([TEXT], ["red", "dark red"]),
    ],
    ids=["records", "lists", "texts"],
)
def test_several_answers_in_every_form(feature: Any, value: Any, tmp_path: Path):
    columns = {"image": colours(1), "question": ["Which?"], "answers": [value]}
    assert read_samples(saved(make(columns, answers=feature), tmp_path / "set"))[0].answers == (
        "red",
        "dark red",
    )


def test_splits(tmp_path: Path):
    whole = make(questions(3))
    folder = saved(datasets.DatasetDict({"train": whole, "test": whole.select([2])}), tmp_path / "set")
    assert [(s.question, s.origin) for s in read_samples(folder, split="test")] == [("2?", "set/test:0")]
    assert (
        refusal(folder)
        == f"{folder} has the splits train, test; choose one with --split (split= in Python), such as train"
    )
    assert "has the splits train, test and no 'dev'" in refusal(folder, split="dev")
    assert [sample.origin for sample in read_samples(folder / "test")] == ["test:0"]
    assert len(read_samples(saved(whole, tmp_path / "plain"))) == 3, "a set without splits is read whole"


def test_images_as_paths(tmp_path: Path):
    colours(1)[0].save(tmp_path / "far.png")
    columns = {"image": [str(tmp_path / "far.png"), "near.png"], "question": ["a?", "b?"]}
    folder = saved(make(columns, image=TEXT), tmp_path / "set")
    assert f"set:1: there is no image file {folder / 'near.png'}" in refusal(folder)
    colours(1)[0].save(folder / "near.png")
    assert [sample.image for sample in read_samples(folder)] == [tmp_path / "far.png", folder / "near.png"]


def test_an_image_feature_that_names_a_file(tmp_path: Path):
    image = colours(1)[0]
    image.save(tmp_path / "far.png")
    feature = datasets.Image(decode=False)
    columns = {"image": [{"bytes": None, "path": str(tmp_path / "far.png")}], "question": ["a?"]}
    path = tmp_path / "set"
    datasets.Dataset.from_dict(columns).cast(
        datasets.Features({"image": feature, "question": TEXT})
    ).save_to_disk(path)
    samples = read_samples(path)
    assert np.array_equal(np.asarray(open_image(samples[0].image)), np.asarray(image))


@pytest.mark.parametrize(
    ("columns", "features", "message"),
    [
        (
            {"picture": colours(1), "question": ["a?"]},
            {"picture": datasets.Image()},
            "no shape that is known (it has picture, question). The nearest: question and image, which lacks"
            " 'image'; question and number of an image, which lacks 'image_id'. If these names mean the same:"
            " --columns image=picture",
        ),
        (
            {"image": [1], "question": ["a?"]},
            {"image": datasets.Value("int64")},
            "set:0: 'image' must be a text, and is the number 1",
        ),
        (
            {"image": [{"bytes": b"none", "path": None}], "question": ["a?"]},
            {},
            "set:0: the image cannot be read as an image",
        ),
        ({"image": colours(2), "question": ["a?", None]}, {}, "set:1: the field 'question' is missing"),
        (
            {"image": colours(1), "question": [3]},
            {"question": datasets.Value("int64")},
            "set:0: 'question' must be a text",
        ),
        ({"image": [], "question": []}, {}, "set is an empty or damaged Hugging Face data set"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistakes_are_named(
    columns: dict[str, list[Any]], features: dict[str, Any], message: str, tmp_path: Path
):
    assert message in refusal(saved(make(columns, **features), tmp_path / "set"))


@pytest.mark.parametrize("feature", [datasets.Image(), TEXT], ids=["image", "path"])
def test_a_missing_image_is_a_question_without_one(feature: Any, tmp_path: Path):
    columns = {"image": [None], "question": ["a?"]}
    assert read_samples(saved(make(columns, image=feature), tmp_path / "set"))[0].images == ()


def test_a_split_without_rows_is_refused(tmp_path: Path):
    """Next to a split with rows, an empty one is written with a file."""
    whole = make(questions(2))
    folder = saved(datasets.DatasetDict({"train": whole, "test": whole.select([])}), tmp_path / "set")
    assert "set" in refusal(folder, split="test")


def test_answers_are_required_on_demand(tmp_path: Path):
    folder = saved(make({"image": colours(1), "question": ["a?"]}), tmp_path / "set")
    assert read_samples(folder)[0].answers == ()
    assert refusal(folder, answers_required=True).startswith("set:0: neither 'answer' nor 'answers' is there")


@pytest.mark.parametrize("damage", ["cut", "gone", "index"])
def test_a_damaged_set_is_refused(damage: str, tmp_path: Path):
    folder = saved(make(questions(4)), tmp_path / "set")
    (file,) = folder.glob("*.arrow")
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:100])
    elif damage == "gone":
        file.unlink()
    else:
        (folder / "state.json").write_text("{")
    assert "is an empty or damaged Hugging Face data set" in refusal(folder)


def test_a_jpeg_of_a_camera_comes_out_upright(tmp_path: Path):
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.new("RGB", (3, 2)).save(buffer, "JPEG", exif=exif)
    columns = {"image": [{"bytes": buffer.getvalue(), "path": None}], "question": ["a?"]}
    assert open_image(read_samples(saved(make(columns), tmp_path / "set"))[0].image).size == (2, 3)
