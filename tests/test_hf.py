"""transformers on its own: a packed folder opened in a fresh process without `import bivlm`, opened as the base model, saved again, dequantized."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import transformers
from torch import nn

import bivlm
from bivlm.data.images import open_image
from bivlm.families import family_of
from bivlm.formats import FORMATS
from bivlm.kernels.linear import expand_weights, packed_linears
from bivlm.pipeline import quantize
from tiny import tiny_checkpoint, tiny_samples

FRESH = """
import sys
import torch, transformers
assert "bivlm" not in sys.modules, "torch's entry point must import nothing of the package"
model = transformers.AutoModelForImageTextToText.from_pretrained(sys.argv[1], dtype="auto").eval()
with torch.inference_mode():
    logits = model(**torch.load(sys.argv[2])).logits
torch.save(logits, sys.argv[3])
"""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def inputs_of(model, processor):
    samples = tiny_samples(2)
    inputs = family_of(model.config).inputs(processor, samples, [open_image(sample) for sample in samples], model.config)
    return {name: tensor.to(model.dtype) if tensor.is_floating_point() else tensor for name, tensor in inputs.items()}


def logits_of(model, inputs):
    with torch.inference_mode():
        return model(**inputs).logits


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    work = tmp_path_factory.mktemp("hf")
    return quantize(tiny_checkpoint("llava", work / "source"), work / "out", recipe="bivlm-paper")


@pytest.mark.parametrize("kind", ["llava", "llava_siglip"])  # the second has its embedding and head tied
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_a_fresh_process_without_importing_bivlm(kind, dtype, tmp_path):
    out = quantize(tiny_checkpoint(kind, tmp_path / "source", dtype), tmp_path / "out", recipe="bivlm-paper")
    model, processor = bivlm.load(out)
    inputs = inputs_of(model, processor)
    torch.save(inputs, tmp_path / "inputs.pt")
    words = [str(path) for path in (out, tmp_path / "inputs.pt", tmp_path / "logits.pt")]
    done = subprocess.run([sys.executable, "-c", FRESH, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert torch.equal(torch.load(tmp_path / "logits.pt"), logits_of(model, inputs))


def test_the_base_model_loads_too(packed):
    whole, _ = bivlm.load(packed)
    base = transformers.AutoModel.from_pretrained(packed, dtype="auto")
    inside = {f"model.{name}": linear for name, linear in packed_linears(base).items()}
    assert inside.keys() == packed_linears(whole).keys()
    for name, linear in packed_linears(whole).items():
        for part in linear.tensor_names:
            assert torch.equal(getattr(linear, part), getattr(inside[name], part)), name


def test_moving_to_another_dtype_leaves_the_packed_tensors_alone(packed):
    model, _ = bivlm.load(packed)
    before = {name: linear.packed.tensors for name, linear in packed_linears(model).items()}
    model.to(torch.bfloat16)
    for name, linear in packed_linears(model).items():
        assert linear.weight.dtype == torch.bfloat16
        for part, tensor in before[name].items():
            assert linear.packed.tensors[part].dtype == tensor.dtype
            assert torch.equal(linear.packed.tensors[part], tensor)


def test_saved_again_by_transformers(packed, tmp_path):
    model, processor = bivlm.load(packed)
    model.save_pretrained(tmp_path / "again")
    processor.save_pretrained(tmp_path / "again")
    again, _ = bivlm.load(tmp_path / "again")
    inputs = inputs_of(model, processor)
    assert torch.equal(logits_of(again, inputs), logits_of(model, inputs))


def test_dequantize_gives_plain_linears_of_the_same_weights(packed):
    model, processor = bivlm.load(packed)
    inputs = inputs_of(model, processor)
    logits, linears = logits_of(model, inputs), packed_linears(model)
    expected = {name: FORMATS[linear.format].decode(linear.packed).dequantize() for name, linear in linears.items()}
    expand_weights(model)
    definition = logits_of(model, inputs)
    plain = model.dequantize()
    assert not packed_linears(plain)
    for name, weight in expected.items():
        linear = plain.get_submodule(name)
        assert type(linear) is nn.Linear
        assert torch.equal(linear.weight, weight.to(linear.weight.dtype)), name
    assert torch.equal(logits_of(plain, inputs), definition)
    torch.testing.assert_close(logits, definition)  # a kernel adds up in another order
