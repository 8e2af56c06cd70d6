"""Jobs on models with experts, from the source to a fresh process: which tokens an expert saw, experts that
none reached, some experts packed and others not, budgets from gradients, crews.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from bivlm.checkpoint.shards import read_entries
from bivlm.checkpoint.source import SourceModel
from bivlm.checkpoint.weight_files import weight_files
from bivlm.errors import InputError
from bivlm.eval.folder import model_size
from bivlm.eval.inspection import inspect
from bivlm.families.experts import SplitExperts
from bivlm.job.recipe import Recipe, Rule
from bivlm.job.request import make_request
from bivlm.job.run import prepare, quantize
from bivlm.packed.linear import PackedLinear, packed_linears
from bivlm.recount.run import recount
from bivlm.types import Sample
from crews import in_crew
from reliability.jobs import content
from tiny.language import tiny_language_model

ASKED = ("what is red", "is it a cat", "how many", "a dog on a mat", "where", "who is it", "why", "the mat")
QUESTIONS = [Sample(None, question, ("yes",)) for question in ASKED]
IDS = torch.tensor([[1, 5, 6, 7, 8, 9]])
FRESH = """
import sys, torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto").eval()
with torch.inference_mode():
    torch.save(model(torch.tensor([[1, 5, 6, 7, 8, 9]])).logits, sys.argv[2])
"""


def logits(model):
    with torch.inference_mode():
        return model.eval()(IDS).logits


def opened(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto")


def changed(folder, change):
    """The folder with its one shard changed."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


def never_chosen(tensors):
    """The router of the first block never chooses expert 5: it equals another one, minus something."""
    gate = tensors["model.layers.0.mlp.gate.weight"]
    gate[5] = -100 * gate.sum(0)
    tensors[
        "model.layers.0.post_attention_layernorm.weight"
    ].zero_()  # all logits are equal: the first two win


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A model whose first block sends all tokens to two experts, packed with data."""
    work = tmp_path_factory.mktemp("experts")
    source = changed(tiny_language_model("qwen3_moe", work / "source"), never_chosen)
    out = quantize(source, work / "out", recipe="gptq-2:propagation=0.5", data=QUESTIONS)
    return source, out


@pytest.mark.slow  # tests/packed/test_converted.py does it on other kinds
def test_a_fresh_process_computes_what_was_packed_and_goes_back_to_a_plain_model(packed, tmp_path):
    _, out = packed
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(out), str(tmp_path / "logits.pt")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    model = opened(out)
    assert len(packed_linears(model)) == 3 * (4 + 2 * 8)
    found = logits(model)
    assert torch.equal(torch.load(tmp_path / "logits.pt"), found)
    model.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(opened(tmp_path / "again")), found)
    plain = model.dequantize()
    assert not any(isinstance(module, SplitExperts) for module in plain.modules())
    torch.testing.assert_close(logits(plain), found)
    plain.save_pretrained(tmp_path / "plain")
    assert any(".experts.3.up_proj." in key for key in read_entries(weight_files(tmp_path / "plain")))


def test_the_report_says_how_many_tokens_every_expert_saw(packed):
    source, out = packed
    report = json.loads((out / "bivlm_report.json").read_text())
    seen = {name: row["tokens"] for name, row in report.items() if name.endswith("gate_up_proj")}
    layer = [seen[f"model.layers.0.mlp.experts.{number}.gate_up_proj"] for number in range(8)]
    assert sorted(layer)[:6] == [0] * 6  # which are quantized all the same, with the layer's moment
    assert sorted(layer)[6] == sorted(layer)[7] > 0
    assert report["model.layers.0.self_attn.q_proj"]["tokens"] is None
    errors = [row["layer_error"] for name, row in report.items() if ".0.mlp.experts." in name]
    assert all(0 < error < 0.5 for error in errors if error)
    inspected = inspect(out)
    assert len(inspected.experts) == 3
    row = inspected.experts[0]
    assert (row.name, row.experts, row.linears) == ("model.layers.0.mlp.experts", 8, 16)
    assert (row.fewest_tokens, row.median_tokens, row.most_tokens) == (0, 0, max(layer))
    assert row.fewest_bits <= row.bits_per_weight <= row.most_bits
    assert [(one.number, one.tokens) for one in row.each] == list(enumerate(layer))
    third = [report[f"{row.name}.2.{name}"] for name in ("gate_up_proj", "down_proj")]
    weights = sum(one["weights"] for one in third)
    assert row.each[2].bits == pytest.approx(8 * sum(one["stored_bytes"] for one in third) / weights)
    errors = sum(one["layer_error"] * one["weights"] for one in third) / weights
    assert row.each[2].error == pytest.approx(errors)
    assert model_size(out)["experts"][0]["each"][2] == dataclasses.asdict(row.each[2])
    [counted] = [row for row in recount(out)[0].rows if row.name == "language"]
    assert counted.packed == inspected.total.linears == 3 * (4 + 2 * 8)
    modules = json.loads((out / "config.json").read_text())["quantization_config"]["modules"]
    assert len(modules) == 3 * (4 + 2)
    assert "model.layers.2.mlp.experts.[0-7].down_proj" in modules
    assert prepare(source, make_request("rtn-3")).expected.kept_share < 0.5


def test_some_experts_are_packed_and_others_differently_or_not(tmp_path):
    source = tiny_language_model("mixtral", tmp_path / "source", torch.bfloat16)
    rules = (
        Rule("rtn", linears="*.experts.[0-2].*", settings={"bits": 4}),
        Rule("rtn", linears="*.1.mlp.experts.*", settings={"bits": 2}),
        Rule("keep"),
    )
    out = quantize(source, tmp_path / "out", recipe=Recipe("some", rules))
    modules = json.loads((out / "config.json").read_text())["quantization_config"]["modules"]
    place = "model.layers.{}.mlp.experts.{}.down_proj"
    assert {name for name in modules if name.endswith("down_proj")} == {
        place.format(0, "[0-2]"),
        place.format(1, "[0-2]"),
        place.format(1, "[3-7]"),
        place.format(2, "[0-2]"),
    }
    model, whole = opened(out), opened(source)
    experts = model.model.layers[0].mlp.experts
    assert isinstance(experts.linear(2, "down_proj"), PackedLinear)
    stack = whole.model.layers[0].mlp.experts.down_proj
    assert torch.equal(experts.linear(3, "down_proj").weight, stack[3])
    found = logits(model)
    torch.testing.assert_close(logits(model.dequantize()), found, atol=0.02, rtol=0)
    assert not torch.equal(logits(whole), found)


def test_a_folder_whose_experts_all_stay_loads_as_the_source(tmp_path):
    source = tiny_language_model("olmoe", tmp_path / "source")
    rules = (Rule("keep", linears="*.experts.*"), Rule("rtn"))
    out = quantize(source, tmp_path / "out", recipe=Recipe("none", rules))
    stack = opened(source).model.layers[1].mlp.experts.gate_up_proj
    experts = opened(out).model.layers[1].mlp.experts
    assert all(torch.equal(experts.linear(n, "gate_up_proj").weight, stack[n]) for n in range(8))


def test_what_is_wrong_with_one_expert_is_named(tmp_path):
    bad = "model.layers.1.mlp.experts.3.up_proj.weight"
    folder = tiny_language_model("qwen3_moe", tmp_path / "source")
    changed(folder, lambda tensors: tensors[bad].fill_(torch.nan))
    with pytest.raises(InputError, match=f"{bad} holds .* values that are NaN"):
        quantize(folder, tmp_path / "out", recipe="rtn-3")
    changed(folder, lambda tensors: tensors.update({bad: torch.ones(30, 64)}))
    with pytest.raises(InputError, match=r"experts.*cannot be done block by block"):
        SourceModel(folder)


def test_more_experts_see_a_token_while_calibrating_and_the_blocks_compute_what_they_do(tmp_path):
    source = tiny_language_model("mixtral", tmp_path / "source", layers=2)

    def packed(name, recipe):
        out = quantize(source, tmp_path / name, recipe=recipe, data=QUESTIONS)
        report = json.loads((out / "bivlm_report.json").read_text())
        return out, {name: row["tokens"] for name, row in report.items() if row["tokens"] is not None}

    plain, few = packed("plain", "gptq-2")
    wide, all_ = packed("wide", "gptq-2:calibration_top_k=8")
    assert len({*all_.values()}) == 1
    assert 4 * sum(few.values()) == sum(all_.values())  # two of eight, and all of them
    recipes = [
        json.loads((out / "config.json").read_text())["quantization_config"]["recipe"]
        for out in (plain, wide)
    ]
    assert [recipe.get("calibration_top_k") for recipe in recipes] == [None, 8]
    assert opened(wide).model.layers[0].mlp.gate.top_k == 2
    # what enters the second block is what the first one makes of the experts that its router chooses
    kept = Recipe("later", (Rule("keep", linears="*layers.0.mlp*"), Rule("gptq")), calibration_top_k=8)
    seen = []
    for recipe in (kept, dataclasses.replace(kept, calibration_top_k=0)):
        out = quantize(source, tmp_path / f"kept-{len(seen)}", recipe=recipe, data=QUESTIONS)
        seen.append(opened(out).model.layers[1].self_attn.q_proj.dequantize())
    assert torch.equal(*seen)


@pytest.mark.parametrize(
    ("kind", "top_k", "said"),
    [
        ("mixtral", 9, "layers.0.mlp.experts has 8 experts; give at most so many"),
        ("mixtral", -1, "needs the number of experts"),
        ("mixtral", True, "needs the number of experts"),
        ("llama", 2, "LlamaForCausalLM has no experts that are packed"),
    ],
)
def test_a_number_of_experts_that_cannot_see_a_token_is_refused(kind, top_k, said, tmp_path):
    source = tiny_language_model(kind, tmp_path / "source", layers=1)
    with pytest.raises(InputError, match=said):
        prepare(source, make_request("gptq-2", settings={"calibration_top_k": top_k}))


def test_more_experts_chosen_than_there_are(tmp_path):
    source = tiny_language_model("qwen3_moe", tmp_path / "source", layers=1)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "num_experts_per_tok": 9}))
    with pytest.raises(InputError, match=r"chooses 9 experts for each token, and .*experts has 8: get the"):
        prepare(source, make_request("rtn-3"))


def test_a_source_with_fused_and_split_experts(tmp_path):
    source = tiny_language_model("qwen3_moe", tmp_path / "source", layers=1)
    place = "model.layers.0.mlp.experts"

    def fused_too(tensors):
        tensors[f"{place}.down_proj"] = torch.stack(
            [tensors[f"{place}.{number}.down_proj.weight"] for number in range(8)]
        )

    changed(source, fused_too)
    with pytest.raises(InputError, match=f"makes {place}.down_proj .*which is stored as well"):
        SourceModel(source)


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        "trellis-2:budget=2.5,budget_from=gradients,gradient_power=0.5",
        "trellis-2:budget=2.5",
        "squeezellm-2",
        "trellis-2:propagation=0.25,tuning=1,distillation=1",
    ],
)
def test_gradients_budgets_and_tuning(recipe, tmp_path):
    source = changed(tiny_language_model("qwen3_moe", tmp_path / "source"), never_chosen)
    out = quantize(source, tmp_path / "out", recipe=recipe, data=QUESTIONS)
    bits = inspect(out)
    if "budget=2.5" in recipe:
        assert 2.3 < bits.total.bits_per_weight <= 2.5
        assert bits.experts[1].fewest_bits < bits.experts[1].most_bits  # experts matter more or less
    assert logits(opened(out)).isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    ["gptq-2:propagation=0.5", "trellis-2:budget=2.5,budget_from=gradients", "trellis-2:tuning=1"],
)
def test_two_processes_give_the_bytes_of_one(recipe, tmp_path):
    transformers.logging.set_verbosity_error()
    source = tiny_language_model("qwen3_moe", tmp_path / "source", torch.bfloat16)

    def packed_by(size):
        out = tmp_path / str(size)
        in_crew(size, lambda crew: quantize(source, out, recipe=recipe, data=QUESTIONS, crew=crew))
        return content(out)

    expected = packed_by(1)
    assert expected
    assert packed_by(2) == expected
