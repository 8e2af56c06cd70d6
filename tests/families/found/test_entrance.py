"""A model without a declaration is packed, loaded, asked, measured and pruned like any other."""

from __future__ import annotations

import json
import logging

import pytest
import torch

import bivlm
from bivlm import families
from bivlm.checkpoint.source import SourceModel
from bivlm.errors import InputError
from bivlm.eval.inspection import inspect
from bivlm.families import family_of
from bivlm.job.run import quantize
from bivlm.pruning.apply import prune
from bivlm.quantizers import RTN
from tiny import tiny_checkpoint, tiny_samples
from told import Told

PRUNINGS = (
    "random:layer=1,keep=0.5",
    "attention:site=vision,layer=1,keep=0.5",
    "attention:site=input,keep=0.3",
)


def tokens_kept_by(model, processor, pruning):
    """The visual tokens that stay when one question is asked."""
    heard, sample = [], tiny_samples(1)[0]
    prune(model, pruning, on_decision=heard.append)
    bivlm.answer(model, processor, sample.image, sample.question, max_new_tokens=2)
    prune(model, None)
    return heard[0].chosen[0].tolist()


@pytest.fixture
def undeclared(monkeypatch):
    """A process in which bivlm has no declaration of Qwen2-VL."""
    monkeypatch.delitem(families._TABLE.built_in, "qwen2_vl")
    monkeypatch.setattr(families, "FOUND", {})


def test_found_packed_and_loaded_without_finding(undeclared, tmp_path, monkeypatch, caplog):
    folder = tiny_checkpoint("qwen2_vl", tmp_path / "model", torch.float32)
    told = Told()
    with caplog.at_level(logging.INFO, logger="bivlm"):
        packed = quantize(folder, tmp_path / "packed", recipe=RTN(bits=2), events=told)
    line = next(line for line in told.lines if "has no declaration" in line)
    assert "vision model.visual.blocks, projector model.visual.merger" in line
    assert "its structure was found" in caplog.text
    record = json.loads((packed / "config.json").read_text())["quantization_config"]["family"]
    assert [stack["path"] for stack in record["stacks"]][1] == "model.visual.merger"
    families.FOUND.clear()
    monkeypatch.delattr("bivlm.families.found.entrance.structure_in")
    model, processor = bivlm.load(packed)
    family = family_of(model.config)
    assert family.origin == "found"
    sample = tiny_samples(1)[0]
    answer = bivlm.answer(model, processor, sample.image, sample.question, max_new_tokens=3)
    assert {row.name for row in inspect(packed).parts} == {"vision", "projector", "language"}
    kept = [tokens_kept_by(model, processor, pruning) for pruning in PRUNINGS]
    monkeypatch.undo()
    declared, processor = bivlm.load(quantize(folder, tmp_path / "declared", recipe=RTN(bits=2)))
    assert bivlm.answer(declared, processor, sample.image, sample.question, max_new_tokens=3) == answer
    assert [tokens_kept_by(declared, processor, pruning) for pruning in PRUNINGS] == kept


def test_a_model_in_full_precision_is_found_when_it_is_loaded(undeclared, tmp_path):
    folder = tiny_checkpoint("qwen2_vl", tmp_path, torch.float32)
    model, processor = bivlm.load(folder)
    assert family_of(model.config).origin == "found"
    sample = tiny_samples(1)[0]
    assert isinstance(bivlm.answer(model, processor, sample.image, sample.question, max_new_tokens=2), str)


def test_without_processor_files_the_structure_is_found_still(undeclared, tmp_path):
    folder = tiny_checkpoint("qwen2_vl", tmp_path, torch.float32)
    for path in folder.glob("*token*"):
        path.unlink()
    assert SourceModel(folder).family.origin == "found"


def test_a_changed_record_is_refused(undeclared, tmp_path):
    folder = tiny_checkpoint("qwen2_vl", tmp_path / "model", torch.float32)
    packed = quantize(folder, tmp_path / "packed", recipe=RTN(bits=2))
    config = json.loads((packed / "config.json").read_text())
    config["quantization_config"]["family"]["stacks"][0]["path"] = "model.elsewhere"
    (packed / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError):
        bivlm.load(packed)
