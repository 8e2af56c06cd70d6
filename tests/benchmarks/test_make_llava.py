"""The LLaVA with a language model of one's own: what it is put together from, what training moves, and a
folder that is packed like any other.
"""

from __future__ import annotations

import json
import sys

import pytest
import torch

import make_llava
from bivlm.data.builtin import easy_vqa
from bivlm.eval.inspection import inspect
from bivlm.job.run import quantize
from bivlm.loading import load
from bivlm.zoo import embedded_model
from make_llava import build_llava
from tiny.language import tiny_language_model


@pytest.fixture
def few(monkeypatch):
    """Data sets of a few questions."""
    monkeypatch.setattr(make_llava, "easy_vqa", lambda split: easy_vqa(split)[:12])
    monkeypatch.setattr(make_llava, "TESTED", 3)


def test_tower_and_language_model_are_those_given(tmp_path):
    folder = tiny_language_model("llama", tmp_path / "language")
    model, processor = build_llava(folder)
    language, _ = load(folder)
    small, _ = load(embedded_model())
    name = "layers.0.mlp.up_proj.weight"
    given, here = language.model.state_dict(), model.model.language_model.state_dict()
    assert torch.equal(here[name], given[name])
    assert torch.equal(here["embed_tokens.weight"][:40], given["embed_tokens.weight"][:40])
    tower = small.model.vision_tower.state_dict()
    for name, tensor in model.model.vision_tower.state_dict().items():
        assert torch.equal(tensor, tower[name].float()), name
    assert processor.tokenizer.convert_tokens_to_ids("<image>") == model.config.image_token_id


def test_a_few_steps_leave_a_folder_that_can_be_packed(tmp_path, few, monkeypatch, capsys):
    folder = tiny_language_model("llama", tmp_path / "language", layers=1)
    torch.manual_seed(0)
    before = build_llava(folder)[0].state_dict()
    options = ["--language-model", str(folder), "--out", str(tmp_path / "out"), "--steps", "2"]
    monkeypatch.setattr(sys, "argv", ["make_llava.py", *options, "--batch-size", "1"])
    make_llava.main()
    assert "of 3 questions, " in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "training.json").read_text())
    assert (found["steps"], found["questions"]) == (2, 3)
    after = load(tmp_path / "out", dtype=torch.float32)[0].state_dict()
    moved = {
        name.split(".")[1]
        for name, tensor in after.items()
        if not torch.equal(tensor, before[name].bfloat16().float())
    }
    assert moved == {"multi_modal_projector", "language_model"}
    same = "model.language_model.embed_tokens.weight"
    assert torch.equal(after[same], before[same].bfloat16().float())
    out = quantize(tmp_path / "out", tmp_path / "packed", recipe="rtn-3", parts=("vision",))
    assert inspect(out).total.weights > 0


def test_what_is_no_llama_is_refused(tmp_path, monkeypatch, capsys):
    folder = tiny_language_model("qwen2", tmp_path / "language", layers=1)
    arguments = ["make_llava.py", "--out", str(tmp_path / "out"), "--language-model"]
    for given, said in ((str(folder), "holds a qwen2"), ("/no/such", "cannot be read")):
        monkeypatch.setattr(sys, "argv", [*arguments, given])
        with pytest.raises(SystemExit, match="2"):
            make_llava.main()
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
