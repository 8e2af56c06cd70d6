"""Questions on which a packed model was calibrated: its folder remembers them, and they are left out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from bivlm.checkpoint.place import CALIBRATION_NAME
from bivlm.errors import InputError
from bivlm.eval.seen import unseen
from bivlm.job.run import calibrated_on
from bivlm.types import Sample
from told import Told

SAMPLES = [Sample(Image.new("L", (2, 2), shade), "What?", (f"{shade}",)) for shade in range(6)]


def folder_of(folder: Path, samples: list[Sample], images: bool = True) -> Path:
    source = SimpleNamespace(family=SimpleNamespace(reads_images=images))
    for name, text in calibrated_on(source, samples, samples).items():
        (folder / name).write_text(text)
    return folder


def test_seen_questions_are_left_out_and_told(tmp_path: Path):
    told = Told()
    folder = folder_of(tmp_path, [Sample(SAMPLES[4].image, "What?", ("other",)), SAMPLES[1]])
    assert unseen(folder, SAMPLES, told) == [SAMPLES[place] for place in (0, 2, 3, 5)]
    assert told.lines == [
        f"{folder} was calibrated on 2 of the 6 questions, which are left out (--keep-seen asks them too)"
    ]
    assert unseen(folder, SAMPLES[2:4], told) == SAMPLES[2:4]
    assert len(told.lines) == 1


def test_another_question_about_the_image_is_not_the_same(tmp_path: Path):
    folder = folder_of(tmp_path, [SAMPLES[0]])
    other = Sample(SAMPLES[0].image, "Why?", ("0",))
    assert unseen(folder, [other]) == [other]


def test_a_model_that_reads_no_images_has_seen_the_words(tmp_path: Path):
    folder = folder_of(tmp_path, [Sample(None, "What?")], images=False)
    with pytest.raises(InputError, match="was calibrated on all 6 questions; give others, or ask them with"):
        unseen(folder, SAMPLES)


def test_without_calibration_nothing_is_written_and_nothing_left_out(tmp_path: Path):
    assert calibrated_on(SimpleNamespace(), SAMPLES, []) == {}
    assert calibrated_on(SimpleNamespace(), [], []) == {}
    assert unseen(tmp_path, SAMPLES) == SAMPLES


@pytest.mark.parametrize(
    "text", ["{}", '{"questions": 3, "images": true}', '{"questions": [], "images": 1}', "x"]
)
def test_a_damaged_file_is_refused(text: str, tmp_path: Path):
    (tmp_path / CALIBRATION_NAME).write_text(text)
    with pytest.raises(InputError, match=CALIBRATION_NAME):
        unseen(tmp_path, SAMPLES)
