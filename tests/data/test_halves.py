"""Sets without splits in two: apart by image, whatever the order, never empty."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bivlm.data import halves
from bivlm.data.digests import Digests, are_apart
from bivlm.data.halves import TEST, TRAIN, halves_of
from bivlm.data.samples import read_samples
from bivlm.errors import InputError
from bivlm.types import Sample
from told import Told


def picture(shade: int) -> Image.Image:
    return Image.new("L", (2, 2), shade)


def about(*shades: int, question: str = "What?") -> Sample:
    return Sample(tuple(picture(shade) for shade in shades), question)


def sides(samples: list[Sample]) -> list[str]:
    found = halves_of(lambda: samples, "set", Digests())
    return [found.side(sample) for sample in samples]


@given(st.lists(st.integers(0, 40), min_size=2, max_size=60), st.randoms())
@settings(deadline=None, max_examples=60)
def test_an_image_is_on_one_side_whatever_the_order(shades: list[int], order: random.Random):
    samples = [about(shade, question=f"{number}?") for number, shade in enumerate(shades)]
    different = len(set(shades))
    if different == 1:
        assert halves_of(lambda: samples, "set", Digests()).limit is None
        return
    found = dict(zip(shades, sides(samples), strict=True))
    assert sides(samples) == [found[shade] for shade in shades]
    assert list(found.values()).count(TRAIN) == max(1, different // 4)
    assert set(found.values()) == {TRAIN, TEST}
    mixed = order.sample(list(zip(samples, shades, strict=True)), len(samples))
    assert sides([sample for sample, _ in mixed]) == [found[shade] for _, shade in mixed]


def test_questions_without_an_image_are_divided_by_their_text():
    samples = [Sample(None, f"{number % 10}?") for number in range(30)]
    found = sides(samples)
    assert found[:10] == found[10:20] == found[20:]
    assert found[:10].count(TRAIN) == 2


def test_a_question_about_images_of_both_sides_is_on_neither():
    alone = [about(shade) for shade in range(8)]
    found = sides(alone)
    low, high = found.index(TRAIN), found.index(TEST)
    both = about(low, high)
    divided = halves_of(lambda: [*alone, both], "set", Digests())
    assert divided.side(both) == ""
    assert (
        divided.told("d.jsonl")
        == "no splits in d.jsonl: 2 questions for calibration, 6 for testing, about different images; 1 about"
        " images of both are left out"
    )


def test_images_that_all_questions_share_cannot_be_divided():
    with pytest.raises(InputError, match="none is left for calibration"):
        halves_of(lambda: [about(0, 1), about(1, 0)], "set", Digests())


def test_a_large_set_is_divided_without_reading_every_image(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(halves, "EXACT", 20)
    samples = [about(shade) for shade in range(200)]
    known = Digests()
    monkeypatch.setattr(Digests, "of_image", lambda *_: pytest.fail("an image was read"))
    found = halves_of(lambda: samples, "set", known)
    monkeypatch.undo()
    assert "a quarter of its images" in found.told("set")
    calibration = sum(found.side(sample) == TRAIN for sample in samples)
    assert 30 < calibration < 70
    assert {found.side(sample) for sample in samples} == {TRAIN, TEST}


def test_many_questions_about_a_few_images_are_divided_exactly(monkeypatch: pytest.MonkeyPatch, shelf: Path):
    monkeypatch.setattr(halves, "EXACT", 10)
    samples = [Sample(shelf / f"{number % 8}.png", f"{number}?") for number in range(80)]
    assert sides(samples).count(TRAIN) == 20


@pytest.fixture
def file(shelf: Path) -> Path:
    """40 questions about 8 images."""
    rows = [{"image": f"{n % 8}.png", "question": f"{n}?", "answer": "a"} for n in range(40)]
    (shelf / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return shelf / "d.jsonl"


def test_calibration_and_test_share_no_image(file: Path):
    told = Told()
    train, test = (read_samples(file, split=split, events=told) for split in (TRAIN, TEST))
    assert (len(train), len(test), len(read_samples(file))) == (10, 30, 40)
    assert are_apart(test, train)
    assert not are_apart(test, test)
    assert not are_apart(test, [])
    line = f"no splits in {file}: 10 questions for calibration, 30 for testing, about different images"
    assert told.lines == [line, line]
    some = read_samples(file, split=TRAIN, limit=4, seed=3)
    assert len(some) == 4
    assert {sample.origin for sample in some} <= {sample.origin for sample in train}
    assert some == read_samples(file, split=TRAIN, limit=4, seed=3)


def test_copies_of_an_image_are_one_image(file: Path):
    for number in range(1, 8):
        (file.parent / f"{number}.png").write_bytes((file.parent / "0.png").read_bytes())
    told = Told()
    assert read_samples(file, split=TRAIN, events=told) == read_samples(file, split=TEST)
    assert told.lines[0].endswith("what is calibrated on is tested on as well")


def test_another_split_of_a_set_without_splits_is_refused(file: Path):
    with pytest.raises(InputError, match=r"has no splits, and so no 'dev'; leave --split out"):
        read_samples(file, split="dev")


def test_questions_without_an_image_are_left_out_where_images_are_needed(shelf: Path):
    rows = [{"image": None if n % 2 else f"{n}.png", "question": f"{n}?"} for n in range(8)]
    (shelf / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(read_samples(shelf / "d.jsonl", image_required=True)) == 4
    assert len(read_samples(shelf / "d.jsonl", image_required=True, limit=3)) == 3
    (shelf / "d.jsonl").write_text(json.dumps({"question": "Why?"}))
    with pytest.raises(InputError, match="no question is about an image"):
        read_samples(shelf / "d.jsonl", image_required=True)


def test_a_draw_takes_one_turn_of_a_conversation_while_there_are_enough(shelf: Path):
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant") * 3]
    rows = [{"images": [f"{n}.png"], "messages": turns} for n in range(4)]
    (shelf / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    origins = [sample.origin.split()[0] for sample in read_samples(shelf / "d.jsonl", limit=4)]
    assert origins == [f"d.jsonl:{number}" for number in range(1, 5)]
    assert len(read_samples(shelf / "d.jsonl", limit=7)) == 7
    assert len(read_samples(shelf / "d.jsonl", limit=99)) == 12


def test_digests_are_the_same_wherever_an_image_is_stored(shelf: Path):
    import base64

    uri = "data:image/png;base64," + base64.b64encode((shelf / "0.png").read_bytes()).decode()
    rows = [{"image": image, "question": "What?"} for image in ("0.png", uri, "1.png")]
    (shelf / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second, other = read_samples(shelf / "d.jsonl")
    known = Digests()
    assert known.of_question(first) == known.of_question(second) != known.of_question(other)
    assert known.apart(first) == known.apart(second)
    assert known.of_question(first, False) == known.of_question(other, False)
    assert len(known.of_question(first)) == 16
