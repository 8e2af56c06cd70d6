"""Every kind of data set that people have: read, or refused in words that say what to do. The data are made
here, in the form in which each is published.
"""

from __future__ import annotations

import base64
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from bivlm.data.images import open_image
from bivlm.data.samples import read_samples
from bivlm.errors import InputError
from bivlm.types import Sample, Turn
from pictures import encoded
from told import Told

Q, A = "What is it?", "red"
PLAIN = {"image": "0.png", "question": Q, "answer": A}


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def lines(path: Path, *records: Any) -> Path:
    return write(path, "".join(json.dumps(record) + "\n" for record in records))


def uri(shelf: Path) -> str:
    return "data:image/png;base64," + base64.b64encode((shelf / "0.png").read_bytes()).decode()


def one(source: Path | str, **options: Any) -> Sample:
    [sample] = read_samples(source, **options)
    return sample


def said(source: Path | str, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_samples(source, **options)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 700
    return message


def same(sample: Sample, shelf: Path, *numbers: int) -> bool:
    """Whether a sample shows these pictures of the shelf, in this order."""
    return [open_image(image).tobytes() for image in sample.images] == [
        open_image(shelf / f"{number}.png").tobytes() for number in numbers
    ]


# ---- how records are stored

STORED: dict[str, Callable[[Path], Path]] = {
    "JSON lines": lambda shelf: lines(shelf / "d.jsonl", PLAIN),
    "JSON lines with absolute paths": lambda shelf: lines(
        shelf / "a" / "d.jsonl", {**PLAIN, "image": str(shelf / "0.png")}
    ),
    "JSON array": lambda shelf: write(shelf / "d.json", [PLAIN]),
    "JSON array over several lines": lambda shelf: write(shelf / "d.json", json.dumps([PLAIN], indent=1)),
    "array in a file called jsonl": lambda shelf: write(shelf / "d.jsonl", [PLAIN]),
    "object that holds the list": lambda shelf: write(shelf / "d.json", {"version": 1, "data": [PLAIN]}),
    "objects by their id": lambda shelf: write(shelf / "d.json", {"7": PLAIN}),
    "one object": lambda shelf: write(shelf / "d.json", json.dumps(PLAIN, indent=1)),
    "CSV": lambda shelf: write(shelf / "d.csv", f"image,question,answer\n0.png,{Q},{A}\n"),
    "CSV of a spreadsheet": lambda shelf: write(
        shelf / "d.csv", f"\ufeffimage;question;answer\r\n0.png;{Q};{A}\r\n"
    ),
    "TSV": lambda shelf: write(shelf / "d.tsv", f"image\tquestion\tanswer\n0.png\t{Q}\t{A}\n"),
    "TSV with base64": lambda shelf: write(
        shelf / "d.tsv", f"image\tquestion\tanswer\n{uri(shelf).partition(',')[2]}\t{Q}\t{A}\n"
    ),
    "parquet with the bytes": lambda shelf: parquet(shelf / "d.parquet", [0]),
    "parquet in a folder with marks": lambda shelf: parquet(shelf / "a [1] *" / "d.parquet", [0]),
    "clone of a hub data set": (
        lambda shelf: parquet(shelf / "clone" / "data" / "test-00000-of-00001.parquet", [0]).parents[1]
    ),
    "saved data set": lambda shelf: saved(shelf / "saved", [0]),
    "image folder with metadata": lambda shelf: (
        lines(shelf / "metadata.jsonl", {"file_name": "0.png", "question": Q, "answer": A}).parent
    ),
    "image folder with a table": lambda shelf: (
        write(shelf / "metadata.csv", f"file_name,question,answer\n0.png,{Q},{A}\n").parent
    ),
    "folder with one data file": lambda shelf: write(shelf / "questions.json", [PLAIN]).parent,
}


def table(shades: list[int]) -> datasets.Dataset:
    columns = {
        "image": [{"bytes": encoded(shade), "path": None} for shade in shades],
        "question": [Q for _ in shades],
        "answer": [A for _ in shades],
    }
    text = datasets.Value("string")
    features = datasets.Features({"image": datasets.Image(), "question": text, "answer": text})
    return datasets.Dataset.from_dict(columns, features=features)


def parquet(path: Path, shades: list[int]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.disable_progress_bars()
    table(shades).to_parquet(path)
    return path


def saved(folder: Path, shades: list[int]) -> Path:
    datasets.disable_progress_bars()
    table(shades).save_to_disk(folder)
    return folder


@pytest.mark.parametrize("name", STORED)
def test_it_is_read_wherever_it_is_stored(name: str, shelf: Path):
    sample = one(STORED[name](shelf))
    assert (sample.question, sample.answers) == (Q, (A,))
    assert same(sample, shelf, 0)
    assert sample.origin


# ---- what records mean


def test_llava_conversations(shelf: Path):
    turns = [
        {"from": "human", "value": "<image>\nWhat is it?"},
        {"from": "gpt", "value": "A cat."},
        {"from": "human", "value": "And its colour?"},
        {"from": "gpt", "value": "Red."},
    ]
    for file in (
        write(shelf / "llava.json", [{"id": "1", "image": "0.png", "conversations": turns}]),
        lines(shelf / "llava.jsonl", {"id": "1", "image": "0.png", "conversations": turns}),
    ):
        first, second = read_samples(file)
        assert (first.parts, first.answers, first.turns) == (
            (shelf / "0.png", "What is it?"),
            ("A cat.",),
            (),
        )
        assert (second.parts, second.answers) == (("And its colour?",), ("Red.",))
        assert second.turns == (Turn((shelf / "0.png", "What is it?"), "A cat."),)
        assert second.images == (shelf / "0.png",)


def test_sharegpt_and_openai_messages(shelf: Path):
    sharegpt = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Is <image> or <image> red?"},
            {"role": "assistant", "content": "The first."},
        ],
        "images": ["0.png", "1.png"],
    }
    sample = one(write(shelf / "s.json", [sharegpt]))
    assert sample.parts == ("Is ", shelf / "0.png", " or ", shelf / "1.png", " red?")
    assert (sample.system, sample.answers) == ("Be brief.", ("The first.",))
    parts = [{"type": "text", "text": Q}, {"type": "image_url", "image_url": {"url": uri(shelf)}}]
    openai = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": A}]}
    sample = one(lines(shelf / "o.jsonl", openai))
    assert sample.parts[0] == Q
    assert same(sample, shelf, 0)
    parts[1]["image_url"]["url"] = "https://example.org/a.png"
    assert "nothing is fetched" in said(lines(shelf / "o.jsonl", openai))


def test_messages_with_a_list_of_images_next_to_them(shelf: Path):
    content = [{"type": "image"}, {"type": "text", "text": Q}, {"type": "image"}]
    record = {
        "messages": [{"role": "user", "content": content}, {"role": "assistant", "content": A}],
        "images": ["1.png", "0.png"],
    }
    sample = one(lines(shelf / "m.jsonl", record))
    assert sample.parts == (shelf / "1.png", Q, shelf / "0.png")
    record["images"] = ["1.png"]
    assert "places for 2 images, and 1 are there" in said(lines(shelf / "m.jsonl", record))


def test_pairs_of_user_and_assistant(shelf: Path):
    texts = [{"user": Q, "assistant": A, "source": "vqa"}, {"user": "Sure?", "assistant": "Yes."}]
    first, second = read_samples(lines(shelf / "c.jsonl", {"images": ["0.png"], "texts": texts}))
    assert first.parts == (shelf / "0.png", Q)
    assert second.turns[0].answer == A


def vqa(shelf: Path, annotations: str | None = "v2_mscoco_val2014_annotations.json") -> Path:
    """VQAv2 as it is published; its images in a folder next to it."""
    (shelf / "val2014").mkdir(exist_ok=True)
    for shade, number in ((0, 42), (1, 43)):
        picture = (shelf / f"{shade}.png").read_bytes()
        (shelf / "val2014" / f"COCO_val2014_{number:012d}.jpg").write_bytes(picture)
    if annotations:
        votes = [{"answer": answer, "answer_id": 1} for answer in ("cat", "cat", "dog", "cat")]
        answered = {"question_id": 42000, "image_id": 42, "answer_type": "other", "answers": votes}
        write(shelf / annotations, {"annotations": [answered]})
    asked = [{"image_id": number, "question": Q, "question_id": number * 1000} for number in (42, 43)]
    content = {"data_subtype": "val2014", "questions": asked}
    return write(shelf / "v2_OpenEnded_mscoco_val2014_questions.json", content)


def test_vqav2_finds_its_annotations_and_its_images(shelf: Path):
    first, second = read_samples(vqa(shelf))
    assert (first.answers, first.group) == (("cat", "cat", "dog", "cat"), "other")
    assert same(first, shelf, 0)
    assert second.answers == ()
    assert same(second, shelf, 1)


def test_vqav2_in_two_files_that_are_named(shelf: Path):
    file = vqa(shelf, "answers.json")
    assert read_samples(file)[0].answers == ()
    both = read_samples(f"{file}+{shelf / 'answers.json'}")
    assert both[0].answers == ("cat", "cat", "dog", "cat")
    assert "give the file of the questions" in said(shelf / "answers.json")
    write(shelf / "other.json", {"annotations": [{"question_id": 1, "answers": ["a"]}]})
    assert "they do not match" in said(f"{file}+{shelf / 'other.json'}")


def test_textvqa(shelf: Path):
    picture = (shelf / "0.png").read_bytes()
    (shelf / "train_images").mkdir()
    (shelf / "train_images" / "0054c91397f2fe05.jpg").write_bytes(picture)
    record = {
        "question_id": 1, "image_id": "0054c91397f2fe05", "question": Q, "answers": ["nokia"] * 10,
        "image_width": 1024, "flickr_original_url": "https://example.org/a.jpg",
    }  # fmt: skip
    content = {"dataset_type": "val", "dataset_name": "textvqa", "data": [record]}
    sample = one(write(shelf / "TextVQA_0.5.1_val.json", content))
    assert sample.answers == ("nokia",) * 10
    assert same(sample, shelf, 0)
    (shelf / "train_images" / "0054c91397f2fe05.jpg").unlink()
    assert "there is no image file" in said(shelf / "TextVQA_0.5.1_val.json")


def test_scienceqa(shelf: Path):
    record = {
        "question": "Which is warm?", "choices": ["ice", "fire"], "answer": 1, "hint": "Look.",
        "image": None, "subject": "natural science", "lecture": "Long.", "category": "x",
    }  # fmt: skip
    sample = one(lines(shelf / "sqa.jsonl", record))
    assert (
        sample.question == "Context: Look.\nWhich is warm?\nA. ice\nB. fire\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert (sample.answers, sample.group, sample.images) == (("B", "fire"), "natural science", ())
    sample = one(lines(shelf / "sqa.jsonl", {**record, "hint": "", "image": "0.png"}))
    assert sample.question.startswith("Which is warm?\nA. ice")
    assert same(sample, shelf, 0)


def test_mmmu(shelf: Path):
    record = {
        "id": "validation_Art_1", "question": "Is <image 1> like <image 2>?", "answer": "B",
        "options": "['yes', '<image 3>']", "question_type": "multiple-choice", "subfield": "Art",
        "image_1": "0.png", "image_2": "1.png", "image_3": "2.png", "image_4": None,
    }  # fmt: skip
    sample = one(lines(shelf / "mmmu.jsonl", record))
    assert sample.parts[:5] == ("Is ", shelf / "0.png", " like ", shelf / "1.png", "?\nA. yes\nB. ")
    assert sample.parts[5:] == (
        shelf / "2.png",
        "\n\nAnswer with the option's letter from the given choices directly.",
    )
    assert (sample.answers, sample.group) == (("B", "<image 3>"), "Art")
    opened = {**record, "options": "[]", "answer": "['24/7', '3.429']", "question": "How much is <image 1>?"}
    sample = one(lines(shelf / "mmmu.jsonl", opened))
    assert sample.answers == ("24/7", "3.429")
    assert sample.question.endswith("\n\nAnswer the question using a single word or phrase.")
    assert one(lines(shelf / "mmmu.jsonl", {**record, "answer": "?"})).answers == ()
    assert "<image 4> is named, and there is no such image" in said(
        lines(shelf / "mmmu.jsonl", {**record, "question": "<image 4>?"})
    )


def test_lettered_columns_of_a_benchmark_table(shelf: Path):
    head = "index\tquestion\tA\tB\tC\tanswer\tcategory\timage\n"
    file = write(shelf / "MMBench.tsv", f"{head}1\t{Q}\tcat\tdog\t\tB\tanimals\t0.png\n")
    sample = one(file)
    assert sample.question.splitlines()[:3] == [Q, "A. cat", "B. dog"]
    assert (sample.answers, sample.group) == (("B", "dog"), "animals")
    assert same(sample, shelf, 0)


def test_mme_in_a_table(shelf: Path):
    text = (
        "question_id\timage\tquestion\tanswer\tcategory\n1\t0.png\tIs it red? Please answer yes or"
        " no.\tYes\tcolor\n"
    )
    sample = one(write(shelf / "mme.tsv", text))
    assert (sample.answers, sample.group) == (("Yes",), "color")


def test_coco_captions(shelf: Path):
    (shelf / "val2017").mkdir()
    (shelf / "val2017" / "000000000139.jpg").write_bytes((shelf / "0.png").read_bytes())
    content = {
        "images": [{"id": 139, "file_name": "000000000139.jpg", "coco_url": "http://example.org/a.jpg"}],
        "annotations": [{"image_id": 139, "caption": "A room."}, {"image_id": 139, "caption": "A lounge."}],
    }
    sample = one(write(shelf / "annotations" / "captions_val2017.json", content))
    assert sample.answers == ("A room.", "A lounge.")
    assert sample.question == "Provide a one-sentence caption for the provided image."
    assert same(sample, shelf, 0)
    boxes = {**content, "annotations": [{"image_id": 139, "bbox": [0, 0, 1, 1]}]}
    assert "annotations without captions" in said(write(shelf / "instances_val2017.json", boxes))


def test_docvqa(shelf: Path):
    record = {
        "questionId": 49153, "question": Q, "image": "0.png", "docId": 1465, "ucsf_document_id": "xnbl",
        "question_types": ["handwritten", "form"], "answers": ["0.28", "0,28"],
    }  # fmt: skip
    sample = one(write(shelf / "val.json", {"dataset_name": "SP-DocVQA", "data": [record]}))
    assert (sample.answers, sample.group) == (("0.28", "0,28"), "handwritten")


def test_images_alone_and_texts_alone(shelf: Path):
    samples = read_samples(shelf)
    assert [sample.image for sample in samples] == [shelf / f"{number}.png" for number in range(8)]
    assert {sample.question for sample in samples} == {
        "Provide a one-sentence caption for the provided image."
    }
    assert one(lines(shelf / "t.jsonl", {"text": "Once upon a time."})).question == "Once upon a time."


def test_numbers_as_answers(shelf: Path):
    assert one(write(shelf / "d.json", [{**PLAIN, "answer": 3}])).answers == ("3",)
    file = write(shelf / "d.csv", "image,question,answer\n0.png,How many?,007\n")
    assert one(file).answers == ("007",), "a table's texts stay as they are"


def test_lists_of_images_data_uris_and_urls(shelf: Path):
    assert one(write(shelf / "d.json", [{**PLAIN, "image": ["0.png", "1.png"]}])).images == (
        shelf / "0.png",
        shelf / "1.png",
    )
    assert same(one(write(shelf / "d.json", [{**PLAIN, "image": uri(shelf)}])), shelf, 0)
    message = said(write(shelf / "d.json", [{**PLAIN, "image": "http://example.org/a.png"}]))
    assert message.startswith("d.json[0]: the image is a URL, http://example.org/a.png; nothing is fetched")
    broken = write(shelf / "d.json", [{**PLAIN, "image": uri(shelf)[:90] + "!"}])
    assert "damaged base64" in said(broken)


def test_questions_without_answers_are_read_where_none_are_needed(shelf: Path):
    file = write(shelf / "d.json", [{"image": "0.png", "question": Q}])
    assert one(file).answers == ()
    assert "accuracy needs one of them" in said(file, answers_required=True)


def test_other_names_of_columns(shelf: Path):
    file = write(shelf / "d.json", [{"image": "0.png", "query": Q, "label": A}])
    message = said(file)
    assert "no shape that is known (it has image, query, label)" in message
    assert "question and image, which lacks 'question'" in message
    assert message.endswith("--columns question=query,answer=label")
    sample = one(file, columns={"question": "query", "answer": "label"})
    assert (sample.question, sample.answers) == (Q, (A,))
    assert "there is no column 'prompt'" in said(file, columns={"question": "prompt"})
    assert "there is no field 'qestion'" in said(file, columns={"qestion": "query"})


def test_a_dictionary_of_splits(shelf: Path):
    folder = shelf / "dict"
    datasets.disable_progress_bars()
    whole = table([0, 1])
    datasets.DatasetDict({"validation": whole, "dev": whole.select([1])}).save_to_disk(folder)
    told = Told()
    assert len(read_samples(folder, split="test", events=told)) == 2
    assert told.lines == [f"{folder} has no split 'test': 'validation' is read"]
    assert "has the splits validation, dev and no 'train'; choose one with --split" in said(
        folder, split="train"
    )
    assert one(folder, split="dev").question == Q


def test_a_hub_id_without_a_network(monkeypatch: pytest.MonkeyPatch):
    def refused(*_: object, **__: object) -> None:
        raise ConnectionError("offline mode is enabled")

    monkeypatch.setattr(datasets, "get_dataset_config_names", refused)
    assert said("HuggingFaceM4/VQAv2").startswith(
        "there is no folder or file HuggingFaceM4/VQAv2, and the hub gives no data set of that name (offline"
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"%PDF-1.7 ...", "is a PDF; save its pages as images"),
        (b"\x1f\x8b\x08", "is compressed (gzip); unpack it"),
        (b"version https://git-lfs.github.com/spec/v1", "is a pointer of git-lfs"),
    ],
)
def test_what_holds_no_records_is_named(content: bytes, words: str, tmp_path: Path):
    (tmp_path / "d.bin").write_bytes(content)
    assert words in said(tmp_path / "d.bin")


def test_a_zip_is_to_be_unpacked(shelf: Path):
    with zipfile.ZipFile(shelf / "all.zip", "w") as archive:
        archive.write(shelf / "0.png", "0.png")
    assert "is a zip archive; unpack it" in said(shelf / "all.zip")
