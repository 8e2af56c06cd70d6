"""What a user can get wrong with a comparison is told before anything is written."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image

from bivlm.errors import InputError
from bivlm.job.recipe import load_recipe
from bivlm.studies.compare.folder import ComparisonFolder
from bivlm.studies.compare.run import compare_presets
from bivlm.types import Sample
from comparing import ASK, PRESETS
from tiny import tiny_samples


def sample_without_answer():
    return [Sample(Image.new("RGB", (8, 8)), "why?", (), "x.jsonl:7")]


MISTAKES = {
    "no preset": (lambda ok: {"presets": []}, "no preset"),
    "two recipes of one name": (lambda ok: {"presets": ["bivlm", replace(load_recipe("bivlm-paper"),
    name="bivlm")]}, "one of them another name"),
    "wrong part": (lambda ok: {"parts": ["ears"]}, "no part 'ears'"),
    "no part": (lambda ok: {"parts": []}, "no part"),
    "no questions": (lambda ok: {"samples": []}, "no questions"),
    "no answers": (lambda ok: {"samples": sample_without_answer()}, "x.jsonl:7 has no answer"),
    "no calibration": (lambda ok: {"presets": ["bivlm"]}, "preset bivlm calibrates on data"),
    "the same draw twice": (lambda ok: {"calibration": tiny_samples(2), "further_draws":
    [tiny_samples(2)[::-1]]},
    "two calibration draws hold the same samples"),
    "no model": (lambda ok: {"model": "no-such-folder"}, "no folder no-such-folder"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_told_before_anything_is_written(source, samples, tmp_path, change, message):
    arguments = {
        "model": source,
        "presets": PRESETS,
        "out": tmp_path / "out",
        "samples": samples,
        "settings": ASK,
        **change(None),
    }
    with pytest.raises(InputError, match=message):
        compare_presets(**arguments)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(source, samples, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("mine")
    for out, message in (
        ("file", "is a file"),
        ("folder", "holds files that no comparison wrote"),
        ("file/below", "cannot be made"),
    ):
        with pytest.raises(InputError, match=message):
            compare_presets(source, PRESETS, tmp_path / out, samples=samples, settings=ASK)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder", "thesis.txt"]


def test_two_at_once_are_refused(made, source, samples):
    with (
        ComparisonFolder(made[1]),
        pytest.raises(InputError, match="another comparison is being written"),
    ):
        compare_presets(source, PRESETS, made[1], samples=samples, settings=ASK)
