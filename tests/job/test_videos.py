"""Packing with questions about videos: what is calibrated on, and that the packed model answers about them,
in another process too.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import bivlm
from bivlm.calibration.inputs import calibration_input
from bivlm.checkpoint.source import SourceModel
from bivlm.data.videos import open_visuals
from bivlm.families import family_of, load_processor
from bivlm.types import Sample, Video
from tiny import ALL, tiny_checkpoint
from videos import folder_of, frames

FRESH = """
import sys
import torch, transformers
model = transformers.AutoModelForImageTextToText.from_pretrained(sys.argv[1], dtype="auto").eval()
with torch.inference_mode():
    logits = model(**torch.load(sys.argv[2])).logits
torch.save(logits, sys.argv[3])
"""
KINDS = (
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "llava_onevision",
    "smolvlm",
    "internvl",
    "glm4v",
    "qwen3_5",
    "gemma4",
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Videos of 12, 3 and 2 frames in three forms, and an image."""
    folder_of(tmp_path / "clip", 12)
    first, *others = frames(3)
    first.save(tmp_path / "a.gif", save_all=True, append_images=others, duration=500)
    for number, frame in enumerate(frames(3, 1)):
        frame.save(tmp_path / f"{number}.png")
    records = [
        {"video": "clip", "question": "What happens?", "answer": "it gets light"},
        {"video": "a.gif", "question": "Is it red?", "answer": "no"},
        {"video": ["0.png", "1.png"], "question": "What is it?", "answer": "noise"},
        {"image": "2.png", "question": "And this?", "answer": "noise"},
    ]
    file = tmp_path / "clips.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def logits_of(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.inference_mode():
        return model(**inputs).logits


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_packed_with_videos_it_answers_about_them_here_and_in_a_fresh_process(kind, data, tmp_path):
    samples = bivlm.read_samples(data, max_frames=4)
    source = tiny_checkpoint(kind, tmp_path / "source")
    model, processor = bivlm.load(bivlm.quantize(source, tmp_path / "out", recipe="bivlm", data=samples))
    answer = bivlm.answer(
        model, processor, None, "What happens?", video=data.parent / "clip", max_frames=4, max_new_tokens=3
    )
    result = bivlm.evaluate(model, processor, samples, batch_size=1, max_new_tokens=3)
    assert (result.n, result.non_finite) == (4, 0)
    assert result.records[0].answer == answer
    inputs = family_of(model.config).inputs(processor, samples[:1], open_visuals(samples[:1]), model.config)
    torch.save(inputs, tmp_path / "inputs.pt")
    words = [str(tmp_path / name) for name in ("out", "inputs.pt", "logits.pt")]
    done = subprocess.run([sys.executable, "-c", FRESH, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert torch.equal(torch.load(tmp_path / "logits.pt"), logits_of(model, inputs))


def test_visual_tokens_of_videos_are_visual_in_calibration_and_times_stay_exact(tmp_path):
    source = SourceModel(tiny_checkpoint("qwen2_5_vl", tmp_path / "source", torch.bfloat16))
    processor = load_processor(source.folder)
    sample = Sample.of(("Is ", frames(1)[0], " in ", Video(frames(4), fps=24.0), "?"), ("no",))
    found = calibration_input(source, processor, sample)
    ids = found.tensors["input_ids"][0]
    of_video = ids == source.config.video_token_id
    assert (int(of_video.sum()), int(found.visual.sum())) == (12, 18)
    assert not (found.targets & found.visual).any()
    assert found.tensors["pixel_values_videos"].dtype == torch.bfloat16
    assert found.tensors["second_per_grid_ts"].tolist() == pytest.approx([2 / 24], rel=1e-6)


def test_every_kind_with_videos_is_packed_by_some_test():
    """Those of the same processor and model code as one in KINDS are left out."""
    left_out = {"glm46v", "glm_ocr", "gemma4_e2b", "gemma4_unified", "minicpmv4_6", "molmo2"}
    left_out |= {"qwen3_5_moe", "qwen3_vl_moe", "glm4v_moe", "gemma4_moe"}
    filming = {name for name, kind in ALL.items() if kind.video is not None} | {"smolvlm"}
    assert filming == {*KINDS} | left_out
