"""Files and folders: splits, damage, limits, and what each mistake says."""

from __future__ import annotations

import json
import os
from pathlib import Path

import datasets
import pytest

from bivlm.data.containers import folders as folders_module
from bivlm.data.containers import json_file, open_set
from bivlm.data.containers.base import split_in_name
from bivlm.data.containers.hub import is_hub_id
from bivlm.data.samples import read_samples
from bivlm.errors import InputError

ROW = {"question": "What?", "answer": "cat"}


def said(source: Path | str, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        read_samples(source, **options)
    assert str(caught.value).isprintable()
    return str(caught.value)


def questions(count: int) -> datasets.Dataset:
    datasets.disable_progress_bars()
    return datasets.Dataset.from_dict({"question": [f"{n}?" for n in range(count)]})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", "d.json holds no samples"),
        (b"{}", "d.json is an object with no list of records (it has )"),
        (b"[1]", "d.json[0]: each entry must be an object, and is the number 1"),
        (b'[{"question": "a"}, []]', "d.json[1]: each entry must be an object, and is a list"),
        (b'[\n{"question": "a"},\n{"question": }]', "d.json:3: not JSON (Expecting value at column 14)"),
        (b'{"question": "a"}\n{\n"question": "b"}', "d.json:2: not JSON"),
        (b'{\n"question": "a"}\n{\n"question": "b"}', "several objects are there: write each as one line"),
        (b'[{"question": "\xff"}]', "d.json: not a text in UTF-8 (invalid start byte at byte 15)"),
        (b"[" * 50_000, "d.json:1: not JSON"),
        (
            b'{"a": [{"question": "a"}], "b": [{"question": "b"}]}',
            "an object with several lists of records: a, b",
        ),
        (b'{"annotations": []}', "d.json holds annotations alone"),
        ("\ufeff[]".encode(), "d.json holds no samples"),
        (b"\0\1\2", "d.json:1: not JSON"),
        (b"[" + b'{"question": "a"},' * 3, "d.json:1: not JSON"),
    ],
    ids=range(14),
)
def test_a_damaged_json_file_is_named(content: bytes, message: str, tmp_path: Path):
    (tmp_path / "d.json").write_bytes(content)
    assert message in said(tmp_path / "d.json")


def test_a_json_file_of_splits(tmp_path: Path):
    (tmp_path / "d.json").write_text(json.dumps({"train": [ROW], "test": [ROW, ROW]}))
    assert len(read_samples(tmp_path / "d.json", split="test")) == 2
    assert read_samples(tmp_path / "d.json", split="train")[0].origin == "d.json train[0]"
    assert "has the splits train, test; choose one with --split" in said(tmp_path / "d.json")


def test_a_large_json_file_is_to_be_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "d.json").write_text(json.dumps([ROW]))
    monkeypatch.setattr(json_file, "FILE_BYTES", 10)
    assert "at most 0 are read at once; write each record as one line (jq -c '.[]')" in said(
        tmp_path / "d.json"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no samples; it needs a line with the names"),
        (b"question,answer\n", "holds no samples; it needs a line with the names"),
        (b"question,answer\na,b\nc,d,e\n", "Expected 2 fields in line 3, saw 3"),
        ("question,answer\ncafé,b\n".encode("latin-1"), "'utf-8' codec can't decode byte 0xe9"),
        (b'question,answer\n"a,b\n', "EOF inside string"),
        (b"question,question\na,b\n", "two columns have the same name (question, question)"),
        (b"foo,bar\na,b\n", "no shape that is known (it has foo, bar)"),
        (b"question,answer\n,b\n", "d.csv row 1: "),
    ],
    ids=range(8),
)
def test_a_damaged_table_is_named(content: bytes, message: str, tmp_path: Path, capfd: pytest.CaptureFixture):
    (tmp_path / "d.csv").write_bytes(content)
    found = said(tmp_path / "d.csv")
    assert message in found
    assert found.startswith("d.csv")
    assert capfd.readouterr().err == "", "the libraries stay silent"


def test_the_texts_of_a_table_stay_as_they_are(tmp_path: Path):
    (tmp_path / "d.csv").write_text('question,answer\nNA,None\n"two\nlines",1.0\nnull,\n')
    samples = read_samples(tmp_path / "d.csv")
    assert [(sample.question, sample.answers) for sample in samples] == [
        ("NA", ("None",)),
        ("two\nlines", ("1.0",)),
        ("null", ()),
    ]
    assert [sample.origin for sample in samples] == ["d.csv row 1", "d.csv row 2", "d.csv row 3"]


def test_a_damaged_parquet_file_and_a_pointer_are_named(tmp_path: Path):
    questions(2).to_parquet(tmp_path / "d.parquet")
    content = (tmp_path / "d.parquet").read_bytes()
    (tmp_path / "d.parquet").write_bytes(content[: len(content) // 2])
    assert "d.parquet cannot be read (" in said(tmp_path / "d.parquet")
    clone = tmp_path / "clone"
    clone.mkdir()
    (clone / "test-00000-of-00001.parquet").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "is a pointer of git-lfs; fetch its content with: git lfs pull" in said(clone)
    (tmp_path / "a::b.parquet").write_bytes(content)
    assert "has '::' or '://' in its name; rename it" in said(tmp_path / "a::b.parquet")


def test_a_parquet_file_may_be_of_a_split(tmp_path: Path):
    file = tmp_path / "validation-00000-of-00002.parquet"
    questions(3).to_parquet(file)
    assert len(read_samples(file)) == len(read_samples(file, split="test")) == 3
    assert "has the splits validation and no 'train'" in said(file, split="train")


def test_a_clone_has_splits_and_configurations(tmp_path: Path):
    for place, count in {
        "data/train-00000-of-00002.parquet": 1,
        "data/train-00001-of-00002.parquet": 2,
        "data/test-00000-of-00001.parquet": 4,
        ".cache/test-00000-of-00001.parquet": 8,
    }.items():
        (tmp_path / place).parent.mkdir(exist_ok=True)
        questions(count).to_parquet(tmp_path / place)
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- data_files: https://example.org/evil.parquet\n---\n"
    )
    assert len(read_samples(tmp_path, split="train")) == 3
    assert read_samples(tmp_path, split="test")[0].origin == f"{tmp_path.name}/test:0"
    (tmp_path / "Art").mkdir()
    questions(1).to_parquet(tmp_path / "Art" / "test-00000-of-00001.parquet")
    assert (
        f"holds several data sets (., Art); give the folder of one of them, such as {tmp_path / 'Art'}"
        in said(tmp_path)
    )
    assert len(read_samples(tmp_path / "Art", split="test")) == 1


def test_a_file_for_each_split(tmp_path: Path):
    (tmp_path / "vqa_train.jsonl").write_text(json.dumps(ROW))
    (tmp_path / "vqa_test.json").write_text(json.dumps([ROW, ROW]))
    assert len(read_samples(tmp_path, split="test")) == 2
    assert read_samples(tmp_path, split="train")[0].origin == f"{tmp_path.name}/vqa_train.jsonl:1"
    (tmp_path / "more.csv").write_text("question\na\n")
    assert "holds 3 data files (more.csv, vqa_test.json, vqa_train.jsonl); give one of them" in said(tmp_path)


def test_images_in_folders_of_splits(shelf: Path):
    for number, split in enumerate(("train", "train", "test")):
        (shelf / split).mkdir(exist_ok=True)
        (shelf / f"{number}.png").rename(shelf / split / f"{number}.png")
    for left in shelf.glob("*.png"):
        left.unlink()
    assert [sample.image for sample in read_samples(shelf, split="test")] == [shelf / "test" / "2.png"]
    assert len(read_samples(shelf, split="train")) == 2


def test_a_folder_of_too_many_files_is_not_searched(shelf: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(folders_module, "MOST_FILES", 3)
    assert "holds over 3 files; give the data file, or a folder inside" in said(shelf)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("name", ["d.json", "d.jsonl", "d.csv"])
def test_a_file_without_permission_is_named(name: str, tmp_path: Path):
    (tmp_path / name).write_text("x")
    (tmp_path / name).chmod(0)
    assert "cannot be read" in said(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00010-abcdef.parquet", "train"),
        ("test.mini-00000-of-00001.parquet", "test.mini"),
        ("llava_v1_5_train.json", "train"),
        ("TextVQA_0.5.1_val.json", "val"),
        ("train_test.json", ""),
        ("contest.json", ""),
        ("vqa.json", ""),
    ],
)
def test_the_split_in_a_name(name: str, split: str):
    assert split_in_name(Path(name)) == split


@pytest.mark.parametrize(
    ("name", "is_id"),
    [
        ("HuggingFaceM4/VQAv2", True),
        ("MMMU/MMMU:Art_Theory", True),
        ("data/vqa.jsonl", False),
        ("data/all.parquet", False),
        ("../a/b", False),
        ("a/b/c", False),
        ("vqa", False),
        ("a/b:c:d", False),
    ],
)
def test_what_looks_like_a_data_set_of_the_hub(name: str, is_id: bool):
    assert is_hub_id(name) is is_id


def test_a_data_set_of_the_hub(monkeypatch: pytest.MonkeyPatch):
    loaded = []

    def load(name: str, configuration: str, split: str) -> datasets.Dataset:
        loaded.append((name, configuration, split))
        return questions(3)

    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name: ["Art", "Math"])
    monkeypatch.setattr(
        datasets, "get_dataset_split_names", lambda name, configuration: ["dev", "validation"]
    )
    monkeypatch.setattr(datasets, "load_dataset", load)
    assert "MMMU/MMMU has the configurations Art, Math; give one of them: MMMU/MMMU:Art" in said("MMMU/MMMU")
    samples = read_samples("MMMU/MMMU:Math", split="test")
    assert [sample.origin for sample in samples] == [f"MMMU/MMMU/validation:{number}" for number in range(3)]
    assert loaded == [("MMMU/MMMU", "Math", "validation")]


def test_a_missing_path_in_a_folder_that_is_there_is_no_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    with pytest.raises(InputError, match="there is no data set photos/vqa; give easy-vqa"):
        open_set("photos/vqa")
