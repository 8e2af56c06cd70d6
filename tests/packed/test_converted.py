"""Packed folders of models that transformers converts while loading, or that hold fused experts: a process
that knows nothing of bivlm loads them exactly.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
import transformers

from bivlm import families
from bivlm.checkpoint.shards import read_entries
from bivlm.checkpoint.weight_files import weight_files
from bivlm.errors import InputError
from bivlm.job.run import quantize
from bivlm.packed import hf
from bivlm.packed.linear import packed_linears, replace_linear
from tiny.experts import CONVERTED, KINDS, expert_family, expert_model

FRESH = """
import sys
from pathlib import Path
import torch, transformers
assert "bivlm" not in sys.modules
for out in map(Path, sys.argv[1:]):
    model, info = transformers.AutoModelForImageTextToText.from_pretrained(
        out, dtype="auto", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], (out, info)
    with torch.inference_mode():
        logits = model.eval()(input_ids=torch.tensor([[1, 5, 6, 7, 8, 9]])).logits
    torch.save((logits, model.state_dict()), out / "seen.pt")
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Every kind, packed, and what a fresh process saw of it."""
    folder, outs = tmp_path_factory.mktemp("experts"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(families, "USED", {kind: expert_family(kind) for kind in KINDS})
        for kind in KINDS:
            source = expert_model(kind, folder / kind)
            outs.append(
                quantize(source, folder / f"{kind}.out", recipe="bivlm-paper", allow_kept_experts=True)
            )
    done = subprocess.run([sys.executable, "-c", FRESH, *map(str, outs)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_process_computes_what_was_packed(kind, work):
    out = work / f"{kind}.out"
    logits, stored = torch.load(out / "seen.pt")
    packed = packed_linears(transformers.AutoModelForImageTextToText.from_pretrained(out, dtype="auto"))
    expected = transformers.AutoModelForImageTextToText.from_pretrained(work / kind).eval()
    modules = json.loads((out / "config.json").read_text())["quantization_config"]["modules"]
    assert packed.keys() == modules.keys()
    for name, linear in packed.items():
        replace_linear(expected, name, linear.packed)
    assert stored.keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(stored[name], tensor), name
    with torch.inference_mode():
        torch.testing.assert_close(logits, expected(input_ids=torch.tensor([[1, 5, 6, 7, 8, 9]])).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_have_the_names_of_the_model_where_something_was_converted(kind, work):
    out = work / f"{kind}.out"
    quantization = json.loads((out / "config.json").read_text())["quantization_config"]
    assert quantization.get("keys") == ("names" if kind in CONVERTED else None)
    if kind in CONVERTED:
        _, stored = torch.load(out / "seen.pt")
        assert read_entries(weight_files(out)).keys() <= stored.keys()
        assert all(spec["key"] == f"{name}." for name, spec in quantization["modules"].items())


def test_saved_again_and_dequantized(work, tmp_path):
    model = transformers.AutoModelForImageTextToText.from_pretrained(work / "kimi_k25.out", dtype="auto")
    model.save_pretrained(tmp_path / "again")
    again = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "again", dtype="auto")
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    plain = model.dequantize()
    plain.save_pretrained(tmp_path / "plain")
    loaded = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "plain").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in plain.state_dict().items())


def test_an_unknown_rule_for_keys_is_refused():
    config = hf.BivlmConfig(keys="others")
    with pytest.raises(InputError, match="keys is 'others'"):
        hf.BivlmHfQuantizer(config).update_weight_conversions([], torch.nn.Linear(1, 1))
