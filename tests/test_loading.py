"""What a packed folder says about the pixels of an image holds when it is loaded and measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import bivlm
from bivlm.calibration.inputs import calibration_inputs
from bivlm.checkpoint.source import SourceModel
from bivlm.errors import InputError
from bivlm.eval.measure import measure
from bivlm.families.pixels import PixelBounds
from bivlm.loading import recorded_pixels
from tiny import tiny_checkpoint, tiny_samples
from tiny.kind import TILE


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2-VL whose processor takes 1 to 4 tiles by itself."""
    return tiny_checkpoint("qwen2_vl", tmp_path_factory.mktemp("pixels") / "source", torch.bfloat16)


def most_of(folder: Path, **bounds: int) -> int:
    return bivlm.load(folder, **bounds)[1].image_processor.size["longest_edge"]


def test_bounds_of_pixels_are_recorded_and_are_the_default(source: Path, tmp_path: Path):
    out = bivlm.quantize(source, tmp_path / "out", recipe="rtn-3", max_pixels=2 * TILE * TILE)
    record = json.loads((out / "config.json").read_text())["quantization_config"]["pixels"]
    assert record == {"max_pixels": 2 * TILE * TILE}
    assert recorded_pixels(out) == PixelBounds(2 * TILE * TILE)
    assert recorded_pixels(source) == PixelBounds()
    assert most_of(source) == 4 * TILE * TILE
    assert most_of(out) == 2 * TILE * TILE
    assert most_of(out, max_pixels=3 * TILE * TILE) == 3 * TILE * TILE
    # the reference reads images of the same size: else its prompts would be others, and refused
    assert measure(out, tiny_samples(3), reference=source, max_new_tokens=2).kl is not None


def test_calibration_reads_images_within_the_bounds(source: Path):
    model, sample = SourceModel(source), tiny_samples(1)
    patches = [
        len(calibration_inputs(model, sample, bounds)[0].tensors["pixel_values"])
        for bounds in (PixelBounds(), PixelBounds(TILE * TILE))
    ]
    assert patches[1] <= 16 < patches[0]


def test_bounds_that_a_processor_does_not_have_are_refused_before_the_work(tmp_path: Path):
    folder = tiny_checkpoint("llava", tmp_path / "llava", torch.bfloat16)
    with pytest.raises(InputError, match="every image the same size"):
        bivlm.quantize(folder, tmp_path / "out", recipe="rtn-3", max_pixels=500)
    assert not (tmp_path / "out").exists()
