"""Benchmarks by name: data in each one's own format become questions as its rules put them, and are
scored.
"""

from __future__ import annotations

import json

import datasets
import pytest
from PIL import Image

from bivlm.errors import InputError
from bivlm.eval.records import Record
from bivlm.eval.scoring import SCORERS, scorer_named
from bivlm.eval.tasks import TASKS, samples_of_task, task_named
from bivlm.eval.tasks.base import ONE_WORD
from bivlm.types import Sample

RED = Image.new("RGB", (8, 8), "red")
YES_NO = " Please answer yes or no."
ASK_LETTER = "Answer with the option's letter from the given choices directly."
TEXTS, NUMBER = datasets.Sequence(datasets.Value("string")), datasets.Value("int64")
# task: split, a row, the question as it is put, the answers, the group
CASES = {
    "mme": (
        "test",
        {"question": f"Is it red?{YES_NO}", "answer": "Yes", "category": "color"},
        f"Is it red?{ONE_WORD}",
        ("Yes",),
        "color",
    ),
    "mmmu": (
        "validation",
        {"question": "What is <image 1>?", "options": "['cat', 'dog']", "answer": "B", "subfield": "Zoology"},
        f"What is ?\nA. cat\nB. dog\n\n{ASK_LETTER}",
        ("B", "dog"),
        "Zoology",
    ),
    "scienceqa": (
        "test",
        {"question": "Which?", "choices": ["x", "y"], "answer": 1, "hint": "", "topic": "physics"},
        f"Which?\nA. x\nB. y\n{ASK_LETTER}",
        ("B", "y"),
        "physics",
    ),
    "vizwiz": (
        "val",
        {"question": "WHAT IS it?", "answers": ["a can"] * 10, "category": "other"},
        f"What is it?\nWhen the provided information is insufficient, respond with 'Unanswerable'.{ONE_WORD}",
        ("a can",) * 10,
        "other",
    ),
    "pope": (
        "test",
        {"question": "Is there a cat?", "answer": "no", "category": "popular"},
        f"Is there a cat?{ONE_WORD}",
        ("no",),
        "popular",
    ),
    "docvqa": (
        "validation",
        {"question": "Who?", "answers": ["Ann", "Ann Lee"]},
        f"Who?{ONE_WORD}",
        ("Ann", "Ann Lee"),
        "",
    ),
    "textvqa": (
        "validation",
        {"question": "what brand?", "answers": ["dell"] * 10},
        f"What brand?{ONE_WORD}",
        ("dell",) * 10,
        "",
    ),
    "vqav2": (
        "validation",
        {"question": "what is it?", "answers": ["cat"] * 10},
        f"what is it?{ONE_WORD}",
        ("cat",) * 10,
        "",
    ),
    "chartqa": (
        "test",
        {"question": "How much?", "answer": "14"},
        "How much?\nAnswer the question with a single word.",
        ("14",),
        "",
    ),
    "ocrbench": (
        "test",
        {"question": "what is written?", "answer": ["CENTRE"], "question_type": "Regular Text Recognition"},
        "what is written?",
        ("CENTRE",),
        "Regular Text Recognition",
    ),
    "mmstar": (
        "val",
        {"question": "Which?\nOptions: A: x, B: y", "answer": "A", "category": "math"},
        "Which?\nOptions: A: x, B: y\nAnswer with the option's letter from the given choices directly",
        ("A",),
        "math",
    ),
}


def parquet(folder, name, split, rows):
    """A folder as a clone of a data set from the hub."""
    (folder / "data").mkdir(parents=True)
    image = "image_1" if name == "mmmu" else "image"
    kinds = {list: TEXTS, int: NUMBER, str: datasets.Value("string")}
    features = {
        image: datasets.Image(),
        **{field: kinds[type(value)] for field, value in rows[0].items() if field != image},
    }
    table = datasets.Dataset.from_list(
        [{image: RED, **row} for row in rows], features=datasets.Features(features)
    )
    table.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def test_every_task_has_a_case_and_a_scorer():
    assert set(CASES) == set(TASKS)
    assert all(task.scorer in SCORERS for task in TASKS.values())


@pytest.mark.parametrize("name", sorted(CASES))
def test_questions_are_put_as_the_benchmark_puts_them(name, tmp_path):
    split, row, question, answers, group = CASES[name]
    (sample,) = samples_of_task(TASKS[name], parquet(tmp_path, name, split, [row]))
    assert (sample.question, sample.answers, sample.group) == (question, answers, group)
    assert len(sample.images) == 1
    assert scorer_named(TASKS[name].scorer).score(answers[0], sample) == 1.0


def test_an_image_keeps_its_place_in_a_changed_question():
    put = TASKS["mme"].put(Sample.of(["Is it red? ", RED, YES_NO], ("yes",)))
    assert put.question == f"Is it red?{ONE_WORD}"
    assert put.places == (len("Is it red?"),)


def test_scienceqa_leaves_out_questions_without_an_image(tmp_path):
    row = CASES["scienceqa"][1]
    data = parquet(tmp_path, "scienceqa", "test", [row, {**row, "image": None, "question": "Without?"}])
    assert [sample.question[:6] for sample in samples_of_task(TASKS["scienceqa"], data)] == ["Which?"]


def write_mme(folder, apart):
    for subtask, stem in (("existence", "01"), ("OCR", "02")):
        texts, images = folder / subtask, folder / subtask
        if apart:
            texts, images = texts / "questions_answers_YN", images / "images"
        for one in (texts, images):
            one.mkdir(parents=True, exist_ok=True)
        RED.save(images / f"{stem}.png")
        (texts / f"{stem}.txt").write_text(f"Is it red?{YES_NO}\tYes\nIs it blue?{YES_NO}\tNo\n")
    return folder


@pytest.mark.parametrize("apart", [False, True])
def test_mme_as_its_authors_hand_it_out(apart, tmp_path):
    samples = samples_of_task(TASKS["mme"], write_mme(tmp_path, apart))
    assert [(sample.group, sample.answers, sample.question) for sample in samples] == [
        (group, (answer,), f"Is it {colour}?{ONE_WORD}")
        for group in ("existence", "OCR")
        for colour, answer in (("red", "Yes"), ("blue", "No"))
    ]
    records = [
        Record(
            one.origin, one.question, "yes", one.answers, float(one.answers == ("Yes",)), one.group, one.group
        )
        for one in samples
    ]
    found = scorer_named("mme").aggregate(records)
    assert found["perception"] == 100.0  # of two subtasks, each with half of its answers and no image right


@pytest.mark.parametrize("text", ["Is it red? yes", "Is it red?\tmaybe"])
def test_a_text_of_mme_that_is_none_is_named(text, tmp_path):
    write_mme(tmp_path, False)
    (tmp_path / "OCR" / "02.txt").write_text(text)
    with pytest.raises(InputError, match=r"02\.txt:1: a line is a question, a tab, and Yes or No"):
        samples_of_task(TASKS["mme"], tmp_path)


def test_an_image_of_mme_that_is_missing_is_named(tmp_path):
    write_mme(tmp_path, True)
    (tmp_path / "OCR" / "images" / "02.png").unlink()
    with pytest.raises(InputError, match="there is no image 02"):
        samples_of_task(TASKS["mme"], tmp_path)


def test_another_benchmark_than_the_data_is_refused(tmp_path):
    data = tmp_path / "vqa.jsonl"
    RED.save(tmp_path / "red.png")
    data.write_text(json.dumps({"image": "red.png", "question": "What?", "answer": "a cat"}) + "\n")
    with pytest.raises(InputError, match="none of the 1 questions has an answer that MME could score"):
        samples_of_task(TASKS["mme"], data, split="train")


def test_an_unknown_task_is_told_the_nearest():
    with pytest.raises(InputError, match="no task 'mmee'; did you mean mme"):
        task_named("mmee")
