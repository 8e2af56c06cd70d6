"""Fingerprints know what decides a run's numbers; records of runs are whole or made again."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from bivlm.errors import InputError
from bivlm.studies import folder as study_folder
from bivlm.studies.folder import RunFolder, digests
from bivlm.types import Sample
from tiny import tiny_samples


def test_digests_know_questions_answers_and_pixels(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    Image.new("RGB", (8, 8), "red").save(tmp_path / "b.png")
    one = Sample(tmp_path / "a.png", "why?", ("red",), "a:1")
    assert digests([one]) == digests([replace(one, image=tmp_path / "b.png", origin="b:9")])
    for other in (replace(one, question="how?"), replace(one, answers=("blue",)), tiny_samples(1)[0]):
        assert digests([one]) != digests([other])
    with pytest.raises(InputError, match="a:1: the image"):
        digests([replace(one, image=tmp_path / "none.png")])


def test_a_pipe_is_no_image_to_digest(tmp_path: Path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a:1: the image .* is a pipe"):
        digests([Sample(tmp_path / "a.png", "why?", ("red",), "a:1")])


@pytest.mark.parametrize("damage", ["", "[]", '"x"', "{", "{}", '{"fingerprint": 5}'])
def test_a_damaged_record_is_no_finished_run(damage: str, tmp_path: Path):
    with RunFolder(tmp_path / "out") as folder:
        folder.write_run("one", {"fingerprint": {"a": 1}, "row": {}})
        assert folder.finished("one", {"a": 1}) == {"fingerprint": {"a": 1}, "row": {}}
        (folder.out / "runs" / "one.json").write_text(damage)
        assert folder.finished("one", {"a": 1}) is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EFBIG, errno.EDQUOT])
def test_a_run_that_cannot_be_stored_says_what_to_do(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with RunFolder(tmp_path / "out") as folder:
        monkeypatch.setattr(study_folder, "write_text", fail)
        with pytest.raises(InputError) as caught:
            folder.write_run("one", {"fingerprint": {}})
    assert f"one.json cannot be written ({os.strerror(number)}); make room" in str(caught.value)
    assert "it continues after the last finished run" in str(caught.value)
