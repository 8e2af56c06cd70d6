"""transformers on its own: a packed folder opened in a fresh process without `import bivlm`, opened as the
base model, saved again, dequantized.
"""

from __future__ import annotations

import subprocess
import sys
from itertools import product

import pytest
import torch
import transformers
from torch import nn

import bivlm
from bivlm.data.images import open_image
from bivlm.families import family_of
from bivlm.formats import FORMATS
from bivlm.job.run import quantize
from bivlm.packed.module import expand_weights, packed_modules
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
    inputs = family_of(model.config).inputs(
        processor, samples, [open_image(sample.image, sample.origin) for sample in samples], model.config
    )
    return {
        name: tensor.to(model.dtype) if tensor.is_floating_point() else tensor
        for name, tensor in inputs.items()
    }


def logits_of(model, inputs):
    with torch.inference_mode():
        return model(**inputs).logits


WAYS = {  # of packing what; "llava_siglip" has its embedding and head tied
    "linears": ("llava", "bivlm-paper"),
    "linears, embedding and head": ("llava", "bivlm-paper:embeddings=3"),
    "linears and tied embedding": ("llava_siglip", "bivlm-paper:embeddings=3"),
}


@pytest.fixture(scope="module", params=WAYS.values(), ids=WAYS)
def packed(request, tmp_path_factory):
    work = tmp_path_factory.mktemp("hf")
    kind, recipe = request.param
    return quantize(tiny_checkpoint(kind, work / "source"), work / "out", recipe=recipe)


# a dtype, a kind (the second has its embedding and head tied) and a recipe: each once; the rest is slow
OFTEN = {
    ("fp32", "llava", "bivlm-paper:embeddings=3"),
    ("fp16", "llava_siglip", "bivlm-paper"),
    ("bf16", "llava_siglip", "bivlm-paper:embeddings=3"),
}


@pytest.mark.parametrize(
    ("dtype", "kind", "recipe"),
    [
        pytest.param(
            dtype, *one, marks=() if (name, *one) in OFTEN else pytest.mark.slow, id=f"{name}-{'-'.join(one)}"
        )
        for name, dtype in DTYPES.items()
        for one in product(("llava", "llava_siglip"), ("bivlm-paper", "bivlm-paper:embeddings=3"))
    ],
)
def test_a_fresh_process_without_importing_bivlm(kind, dtype, recipe, tmp_path):
    out = quantize(tiny_checkpoint(kind, tmp_path / "source", dtype), tmp_path / "out", recipe=recipe)
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
    inside = {f"model.{name}": module for name, module in packed_modules(base).items()}
    assert inside.keys() == packed_modules(whole).keys() - {"lm_head"}
    for name, module in inside.items():
        for part in module.tensor_names:
            assert torch.equal(getattr(module, part), getattr(whole.get_submodule(name), part)), name


def test_moving_to_another_dtype_leaves_the_packed_tensors_alone(packed):
    model, _ = bivlm.load(packed)
    before = {name: module.packed.tensors for name, module in packed_modules(model).items()}
    model.to(torch.bfloat16)
    for name, linear in packed_modules(model).items():
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


def test_a_dequantized_model_is_saved_as_an_ordinary_one(packed, tmp_path):
    model, processor = bivlm.load(packed)
    inputs = inputs_of(model, processor)
    plain = model.dequantize()
    plain.save_pretrained(tmp_path / "plain")
    again = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "plain").eval()
    assert torch.equal(logits_of(again, inputs), logits_of(plain, inputs))


def test_tying_weights_again_changes_nothing(packed):
    model, processor = bivlm.load(packed)
    inputs = inputs_of(model, processor)
    logits = logits_of(model, inputs)
    model.tie_weights()
    assert torch.equal(logits_of(model, inputs), logits)


def test_a_packed_model_generates(packed):
    model, processor = bivlm.load(packed)
    found = model.generate(**inputs_of(model, processor), max_new_tokens=3, do_sample=False)
    assert found.shape[0] == 2


def test_dequantize_gives_plain_linears_of_the_same_weights(packed):
    model, processor = bivlm.load(packed)
    inputs = inputs_of(model, processor)
    logits, modules = logits_of(model, inputs), packed_modules(model)
    expected = {
        name: FORMATS[module.format].decode(module.packed).dequantize() for name, module in modules.items()
    }
    expand_weights(model)
    definition = logits_of(model, inputs)
    plain = model.dequantize()
    assert not packed_modules(plain)
    for name, weight in expected.items():
        module = plain.get_submodule(name)
        assert type(module) is (nn.Embedding if name.endswith("embed_tokens") else nn.Linear)
        assert torch.equal(module.weight, weight.to(module.weight.dtype)), name
    tied = plain.lm_head.weight is plain.get_input_embeddings().weight
    assert tied == plain.config.tie_word_embeddings
    plain.tie_weights()
    assert (plain.lm_head.weight is plain.get_input_embeddings().weight) == tied
    assert torch.equal(logits_of(plain, inputs), definition)
    torch.testing.assert_close(logits, definition)  # a kernel adds up in another order
