"""A job without data of its own: the built-in set, or nothing where that is asked for."""

from __future__ import annotations

import json

import pytest

import bivlm
from bivlm.checkpoint.place import CALIBRATION_NAME
from bivlm.errors import InputError
from bivlm.job.request import make_request
from bivlm.job.run import calibration_samples, prepare
from bivlm.zoo import embedded_model
from tiny.language import tiny_language_model


class Told(bivlm.Events):
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def test_quantize_without_data_calibrates_on_the_built_in_set(tmp_path):
    told = Told()
    out = bivlm.quantize(
        embedded_model(), tmp_path / "out", recipe="gptq-2", parts=["projector"], samples=8, events=told
    )
    assert any("built-in set" in line for line in told.lines)
    assert json.loads((out / "config.json").read_text())["quantization_config"]["calibration_samples"] == 8
    assert len(json.loads((out / CALIBRATION_NAME).read_text())["questions"]) == 8


def test_a_recipe_that_needs_no_data_gets_none():
    prepared = prepare(embedded_model(), make_request("rtn-2"))
    assert calibration_samples(prepared, None) == ()


def test_no_data_on_request_is_refused_where_a_recipe_needs_some(tmp_path):
    with pytest.raises(InputError, match="and none was given; leave --data out for the built-in set"):
        bivlm.quantize(embedded_model(), tmp_path / "out", recipe="gptq-2", data="none")
    assert not (tmp_path / "out").exists()


def test_the_same_seed_draws_the_same_samples_with_images():
    prepared = prepare(embedded_model(), make_request("trellis-2"))
    one, same, other = (calibration_samples(prepared, None, 12, seed) for seed in (1, 1, 2))
    assert one == same != other
    assert all(sample.images for sample in one)


def test_a_language_model_gets_texts(tmp_path):
    prepared = prepare(tiny_language_model("llama", tmp_path / "source"), make_request("gptq-2"))
    drawn = calibration_samples(prepared, "general", 6, 0)
    assert len(drawn) == 6
    assert not any(sample.images for sample in drawn)
