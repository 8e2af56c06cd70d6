"""Packed folders of models that transformers converts while loading, or that hold fused experts: a process
that knows nothing of bivlm loads them exactly.
"""

from __future__ import annotations

import json
import subprocess
import sys
from inspect import getsource

import pytest
import torch
import transformers

from bivlm import families
from bivlm.checkpoint.groups import members
from bivlm.checkpoint.shards import read_entries
from bivlm.checkpoint.weight_files import weight_files
from bivlm.errors import InputError
from bivlm.families.experts import SplitExperts, split_experts
from bivlm.job.run import quantize
from bivlm.packed import hf
from bivlm.packed.linear import packed_linears, replace_linear
from tiny.experts import EXPERTS, KINDS, expert_family, expert_model


def asked(model):
    """The logits of six words; the language model alone of llama4, whose output transformers 5.24 cannot put
    together.
    """
    model = model.language_model if model.config.model_type == "llama4" else model
    with torch.inference_mode():
        return model.eval()(input_ids=torch.tensor([[1, 5, 6, 7, 8, 9]])).logits


FRESH = f"""
import sys
from pathlib import Path
import torch, transformers
assert "bivlm" not in sys.modules
{getsource(asked)}
for out in map(Path, sys.argv[1:]):
    model, info = transformers.AutoModelForImageTextToText.from_pretrained(
        out, dtype="auto", output_loading_info=True
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), (out, info)
    torch.save((asked(model), model.state_dict()), out / "seen.pt")
"""


GROUPS = [  # renamed, split, joined and permuted; transposed; a subclass of nn.Linear
    ("molmo2", "qwen3_vl_moe", "kimi_k25", "llama4"),
    pytest.param(("qwen3_5_moe", "deepseek_ocr2", "gemma4"), marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=GROUPS, ids="-".join)
def packed(request, tmp_path_factory):
    """Kinds with their sources and packed folders, which a fresh process has opened."""
    folder, found = tmp_path_factory.mktemp("experts"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(families, "USED", {kind: expert_family(kind) for kind in KINDS})
        for kind in request.param:
            source = expert_model(kind, folder / kind)
            out = quantize(source, folder / f"{kind}.out", recipe="bivlm-paper")
            found[kind] = source, out
    outs = [str(out) for _, out in found.values()]
    done = subprocess.run([sys.executable, "-c", FRESH, *outs], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return found


def test_a_fresh_process_computes_what_was_packed(packed):
    for source, out in packed.values():
        logits, stored = torch.load(out / "seen.pt")
        linears = packed_linears(transformers.AutoModelForImageTextToText.from_pretrained(out, dtype="auto"))
        expected = transformers.AutoModelForImageTextToText.from_pretrained(source)
        modules = json.loads((out / "config.json").read_text())["quantization_config"]["modules"]
        assert sorted(linears) == sorted(name for entry in modules for name in members(entry))
        split_experts(expected)
        for name, linear in linears.items():
            replace_linear(expected, name, linear.packed)
        assert stored.keys() == expected.state_dict().keys()
        for name, tensor in expected.state_dict().items():
            assert torch.equal(stored[name], tensor), (out, name)
        torch.testing.assert_close(logits, asked(expected))


def test_tensors_have_the_names_of_the_model_where_something_was_converted_or_split(packed):
    for kind, (_, out) in packed.items():
        quantization = json.loads((out / "config.json").read_text())["quantization_config"]
        _, stored = torch.load(out / "seen.pt")
        assert quantization["keys"] == "names"
        assert read_entries(weight_files(out)).keys() <= stored.keys()
        assert all(spec["key"] == f"{name}." for name, spec in quantization["modules"].items())
        assert quantization.get("experts") == ("split" if kind in EXPERTS else None)
        assert quantization["format_version"] == (3 if kind in EXPERTS else 2)


def test_saved_again_and_dequantized(packed, tmp_path):
    for kind, (_, out) in packed.items():
        model = transformers.AutoModelForImageTextToText.from_pretrained(out, dtype="auto")
        model.save_pretrained(tmp_path / f"{kind}.again")
        again = transformers.AutoModelForImageTextToText.from_pretrained(
            tmp_path / f"{kind}.again", dtype="auto"
        )
        assert_same_state(again, model)
        plain = model.dequantize()
        assert not any(isinstance(module, SplitExperts) for module in plain.modules())
        plain.save_pretrained(tmp_path / f"{kind}.plain")
        assert_same_state(
            transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / f"{kind}.plain"), plain
        )


def assert_same_state(model, other):
    tensors = other.state_dict()
    assert model.state_dict().keys() == tensors.keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, tensors[name]), name


def test_an_unknown_rule_for_keys_is_refused():
    config = hf.BivlmConfig(keys="others")
    with pytest.raises(InputError, match="keys is 'others'"):
        hf.BivlmHfQuantizer(config).update_weight_conversions([], torch.nn.Linear(1, 1))
