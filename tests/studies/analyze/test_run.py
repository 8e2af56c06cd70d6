"""An analysis of whole models: every family, every linear that would be packed, and mistakes."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from analyzing import saved
from bivlm.errors import InputError
from bivlm.families.experts import split_experts
from bivlm.job.run import quantize
from bivlm.studies.analyze.run import analyze
from bivlm.studies.analyze.weight import statistics
from bivlm.studies.study import RunSettings
from tiny import each, tiny_model
from told import Told

MORE_BLOCKS = {  # than three in the tower, one projector, three in the language model
    "mllama": {"vision": 5},
    "qwen3_vl": {"projector": 3},
    "qwen3_vl_moe": {"projector": 3},
    "gemma3": {"projector": 0},
    "gemma4_e2b": {"language": 4},
    "gemma4_unified": {"vision": 1, "projector": 0},
    "granite4_vision": {"projector": 6},
    "minicpmv4_6": {"vision": 4},
    "molmo2": {"projector": 2},
}


@pytest.mark.parametrize("kind", each())
def test_every_family_is_analysed(kind, coarse, tmp_path):
    model, told = tiny_model(kind, torch.bfloat16).requires_grad_(False), Told()
    model.save_pretrained(tmp_path / "model")
    split_experts(model)
    found = analyze(tmp_path / "model", settings=RunSettings(events=told))
    total = len(found.linears)
    assert told.steps == [("linears", done, total) for done in range(1, total + 1)]
    blocks = {"vision": 3, "projector": 1, "language": 3} | MORE_BLOCKS.get(kind, {})
    blocks = {part: count for part, count in blocks.items() if count}
    assert {part.part: part.salient_max for part in found.parts} == {
        part: 0.05 if part == "vision" else 0.01 for part in blocks
    }
    for linear in found.linears:
        weight = model.get_submodule(linear.name).weight.double()
        assert linear.shape == tuple(weight.shape)
        assert (linear.statistics.mean, linear.statistics.std) == pytest.approx(
            (float(weight.mean()), float(weight.std(correction=0)))
        )
    for part in found.parts:
        linears = found.of_part(part.part)
        assert len({(linear.depth, linear.kind) for linear in linears}) == len(linears) == part.linears
        assert all(linear.name.endswith(linear.kind) for linear in linears)
        assert part.weights == sum(linear.shape[0] * linear.shape[1] for linear in linears)
    depths = {part.part: {linear.depth for linear in found.of_part(part.part)} for part in found.parts}
    assert depths == {part: set(range(count)) for part, count in blocks.items()}


def test_kinds_are_as_short_as_tells_them_apart(coarse, tmp_path):
    mllama = analyze(saved("mllama", tmp_path / "mllama"))
    kinds = {linear.kind for linear in mllama.of_part("language")}
    assert {"self_attn.q_proj", "cross_attn.q_proj", "up_proj"} <= kinds
    assert [linear.kind for linear in mllama.of_part("projector")] == ["multi_modal_projector"]
    qwen = analyze(saved("qwen2_vl", tmp_path / "qwen"))
    assert [linear.kind for linear in qwen.of_part("projector")] == ["mlp.0", "mlp.2"]


def test_weights_are_seen_as_the_model_computes_with_them(coarse, tmp_path):
    """A float32 file of a model that is declared bfloat16."""
    folder = saved("llava", tmp_path / "model", torch.float32)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    linear = analyze(folder).linears[0]
    weight = tiny_model("llava", torch.bfloat16).get_submodule(linear.name).weight.detach()
    assert linear.statistics == statistics(weight.float())


def test_a_model_that_is_not_there_or_packed_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"missing|no folder|hub"):
        analyze(tmp_path / "missing")
    packed = quantize(saved("llava_siglip", tmp_path / "model"), tmp_path / "packed", recipe="rtn-2")
    with pytest.raises(InputError, match="quantized already"):
        analyze(packed)


def test_a_damaged_weight_is_named(coarse, tmp_path):
    folder = saved("llava", tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("layers.0.mlp.up_proj.weight"))
    tensors[name][3, 4] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"up_proj.weight holds 1 values that are NaN"):
        analyze(folder)


def test_an_interruption_ends_it(coarse, tmp_path):
    told = Told(stop=lambda what, done: done == 3)
    with pytest.raises(KeyboardInterrupt):
        analyze(saved("llava", tmp_path / "model"), settings=RunSettings(events=told))
    assert len(told.steps) == 3
