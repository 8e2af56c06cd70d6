"""MME and POPE against their published rules, written out once more over lists of answers."""

from __future__ import annotations

import random

import pytest

from bivlm.eval.scoring import SCORERS
from bivlm.eval.scoring import mme as mme_module
from bivlm.eval.scoring import pope as pope_module
from scored import record

MME, POPE = SCORERS["mme"], SCORERS["pope"]
SAID = [
    "Yes",
    "No",
    "yes.",
    "no, it is not",
    "Yes, there are.",
    "",
    "Not sure",
    "I think yes",
    "unknown",
    "NO!",
]


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("Yes", "yes"), ("NO.", "no"), ("yes, there is a cat", "yes"), ("  No  ", "no"), ("not really", "no"),
        ("", "other"), ("y", "other"), ("The answer is yes", "other"), ("Eh, no", "other"), (" yes", "yes"),
        ("?yes", "yes"), ("Nope", "no"), ("now", "no"), ("It is not", "other"),
    ],
)  # fmt: skip
def test_mme_reads_the_first_four_characters(answer: str, read: str):
    assert mme_module.parse(answer) == read


def mme_by_the_rule(rows: list[tuple[str, str, str, str]]) -> dict[str, float]:
    """Rows (subtask, image, label, answer): acc + acc+ of every subtask, in per cent, and the two sums."""
    found = {}
    for subtask in dict.fromkeys(row[0] for row in rows):
        right = []
        for _, image, label, said in (row for row in rows if row[0] == subtask):
            start = said.lower()[:4]
            right.append((image, label == ("yes" if "yes" in start else "no" if "no" in start else "")))
        images = {image for image, _ in right}
        both = sum(all(hit for other, hit in right if other == image) for image in images)
        found[f"{subtask} score"] = 100 * sum(hit for _, hit in right) / len(right) + 100 * both / len(images)
    perception = [
        "existence",
        "count",
        "position",
        "color",
        "posters",
        "celebrity",
        "scene",
        "landmark",
        "artwork",
        "OCR",
    ]
    cognition = ["commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"]
    for total, names in (("perception", perception), ("cognition", cognition)):
        found[total] = sum(found.get(f"{name} score", 0.0) for name in names)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_mme_s_sums_are_those_of_the_rule(seed: int):
    draw = random.Random(seed)
    rows = [
        (subtask, f"{subtask}{image}", label, draw.choice(SAID))
        for subtask in ("existence", "OCR", "code_reasoning", "color")
        for image in range(7)
        for label in ("yes", "no")
    ]
    draw.shuffle(rows)
    records = [
        record(MME, said, label.title(), group=subtask, image=image) for subtask, image, label, said in rows
    ]
    found, expected = MME.aggregate(records), mme_by_the_rule(rows)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["OCR acc"] + found["OCR acc+"] == pytest.approx(found["OCR score"])


def test_mme_of_a_perfect_model_is_2800():
    names = (*mme_module.PERCEPTION, *mme_module.COGNITION)
    records = [
        record(MME, label, label, group=name, image=f"{name}{image}")
        for name in names
        for image in range(3)
        for label in ("yes", "no")
    ]
    found = MME.aggregate(records)
    assert (found["perception"], found["cognition"]) == (2000.0, 800.0)


def test_an_image_without_its_second_question_counts_in_acc_alone():
    records = [
        record(MME, "yes", "yes", group="count", image="a"),
        record(MME, "no", "no", group="count", image="a"),
        record(MME, "no", "yes", group="count", image="b"),
    ]
    assert MME.aggregate(records) == {
        "count acc": pytest.approx(200 / 3), "count acc+": 100.0, "count score": pytest.approx(500 / 3),
        "perception": pytest.approx(500 / 3),
    }  # fmt: skip
    alone = MME.aggregate([record(MME, "yes", "yes")])
    assert alone == {"all acc": 100.0, "all acc+": 0.0, "all score": 100.0}


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("No", "no"), ("no, there is not", "no"), ("Yes", "yes"), ("", "yes"), ("There is no dog", "no"),
        ("It is not there", "no"), ("NO", "yes"), ("Yes. There is no cat", "yes"), ("No.", "no"),
        ("nothing", "yes"), ("Well, No", "no"), ("I can't see it", "yes"),
    ],
)  # fmt: skip
def test_pope_reads_the_first_sentence(answer: str, read: str):
    assert pope_module.parse(answer) == read


@pytest.mark.parametrize("seed", range(5))
def test_pope_s_measures_are_those_of_the_confusion_matrix(seed: int):
    draw = random.Random(seed)
    rows = [
        (draw.choice(["random", "popular"]), draw.choice(["yes", "no"]), draw.choice(SAID)) for _ in range(60)
    ]
    found = POPE.aggregate([record(POPE, said, label, group=group) for group, label, said in rows])
    for prefix, chosen in (("", rows), ("popular ", [row for row in rows if row[0] == "popular"])):
        cells = dict.fromkeys([(a, b) for a in ("yes", "no") for b in ("yes", "no")], 0)
        for _, label, said in chosen:
            words = said.partition(".")[0].replace(",", "").split(" ")
            denied = any(word in words for word in ("No", "no", "not"))
            cells["no" if denied else "yes", label] += 1
        tp, fp, fn = cells["yes", "yes"], cells["yes", "no"], cells["no", "yes"]
        precision, recall = tp / (tp + fp), tp / (tp + fn)
        assert found[f"{prefix}accuracy"] == pytest.approx((tp + cells["no", "no"]) / len(chosen))
        assert found[f"{prefix}precision"] == pytest.approx(precision)
        assert found[f"{prefix}recall"] == pytest.approx(recall)
        assert found[f"{prefix}f1"] == pytest.approx(2 * precision * recall / (precision + recall))
        assert found[f"{prefix}yes ratio"] == pytest.approx((tp + fp) / len(chosen))


def test_pope_of_a_model_that_always_denies_has_numbers():
    found = POPE.aggregate([record(POPE, "No", "yes"), record(POPE, "No", "no")])
    assert found == {"accuracy": 0.5, "precision": 0.0, "recall": 0.0, "f1": 0.0, "yes ratio": 0.0}
