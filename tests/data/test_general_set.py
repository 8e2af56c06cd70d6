"""The built-in set: what is drawn from it, and that everything in it can be read."""

import json
from collections import Counter

import easy_vqa
import pytest

from bivlm.data.general_set import KNOWN, general_folder, general_samples
from bivlm.data.videos import open_visuals
from bivlm.errors import InputError

ROWS = [json.loads(line) for line in (general_folder() / "samples.jsonl").read_text("utf-8").splitlines()]
SHOWN = [row for row in ROWS if row["images"]]
LANGUAGES = {"en", "de", "fr", "es", "it", "pt", "ru", "zh", "ja", "ar", "hi"}


def rows_of(samples):
    return [ROWS[int(sample.origin.removeprefix("general:")) - 1] for sample in samples]


def test_a_sample_is_its_row():
    samples = general_samples(len(SHOWN))
    assert len({sample.origin for sample in samples}) == len(SHOWN)
    for sample, row in zip(samples, rows_of(samples), strict=True):
        assert [f"images/{image.name}" for image in sample.images] == row["images"]
        assert (sample.question, sample.answers) == (row["question"], (row["answer"],))


@pytest.mark.parametrize("limit", [1, 7, 13, 32, 64])
def test_any_limit_covers_the_groups_evenly(limit):
    counts = Counter(row["group"] for row in rows_of(general_samples(limit, seed=limit)))
    groups = {row["group"] for row in SHOWN}
    assert sum(counts.values()) == limit
    assert len(counts) == min(limit, len(groups))
    assert max(counts.values()) - min(counts.values()) <= (limit >= len(groups))


def test_no_picture_comes_twice_before_all_of_its_group():
    found = [row for row in rows_of(general_samples(100, seed=3)) if row["group"] == "scenes"]
    pictures = [row["images"][0] for row in found]
    assert len(pictures) > 4
    assert len(set(pictures)) == len(pictures)


def test_a_seed_gives_the_same_samples_and_another_gives_others():
    assert general_samples(20, seed=4) == general_samples(20, seed=4)
    assert general_samples(20, seed=4) != general_samples(20, seed=5)


def test_a_language_model_gets_texts_of_many_kinds():
    found = rows_of(general_samples(24, images=False))
    assert all(row["images"] == [] for row in found)
    assert len({row["kind"] for row in found}) == 24


def test_texts_are_a_share_of_what_a_vision_model_gets():
    samples = general_samples(40, text_share=0.25)
    assert sum(not sample.images for sample in samples) == 10
    assert any(sample.images for sample in samples[:10])


def test_more_than_there_are_gives_all():
    assert len(general_samples(10_000)) == len(SHOWN)
    assert len(general_samples(10_000, images=False)) == len(ROWS) - len(SHOWN)


@pytest.mark.parametrize("limit", [20, 400])
def test_what_a_tokenizer_can_only_spell_comes_last(limit):
    """A tokenizer that knows words of ASCII, and spells everything else byte by byte."""

    def tokens(text):
        return sum(1 if word.isascii() else len(word.encode()) + 1 for word in text.split())

    def is_known(row):
        text = f"{row['question']}\n{row['answer']}"
        return tokens(text) <= KNOWN * len(text.encode())

    known = sum(map(is_known, SHOWN))
    found = rows_of(general_samples(limit, tokens=tokens))
    assert 20 < known < 670
    assert sum(map(is_known, found)) == min(limit, known)
    assert len(found) == limit


@pytest.mark.parametrize(
    ("how", "words"), [({"limit": 0}, "limit of 0"), ({"limit": 9, "text_share": 2}, "2")]
)
def test_mistakes(how, words):
    with pytest.raises(InputError, match=words):
        general_samples(**how)


def test_every_picture_can_be_read_and_is_asked_about():
    named = {name for row in ROWS for name in row["images"]}
    assert named == {f"images/{path.name}" for path in (general_folder() / "images").iterdir()}
    for image in (image for images in open_visuals(general_samples(40)) for image in images):
        assert min(image.size) >= 64
        assert max(image.size) <= 640


def test_what_it_promises():
    """Half is English, ten other languages, 1.5 MB; every row is whole, and none comes twice."""
    assert sum(path.stat().st_size for path in general_folder().rglob("*") if path.is_file()) < 1_500_000
    languages = Counter(row["language"] for row in ROWS)
    assert set(languages) == LANGUAGES
    assert 0.4 < languages["en"] / len(ROWS) < 0.7
    assert all(row["question"].strip() and row["answer"].strip() for row in ROWS)
    assert len({json.dumps(row) for row in ROWS}) == len(ROWS)
    assert "CC0" in (general_folder() / "README.md").read_text()


def test_no_question_is_one_of_easy_vqa():
    """The embedded model is measured on those: what stands there word by word would be no general set."""
    theirs = {*easy_vqa.get_train_questions()[0], *easy_vqa.get_test_questions()[0]}
    assert not theirs & {row["question"].lower() for row in ROWS}
