"""LoRA adapters in a model folder: refused, or merged as peft merges them."""

import json
import math

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import bivlm
from bivlm.checkpoint.source import SourceModel
from bivlm.errors import InputError
from bivlm.job.run import quantize
from tiny.language import tiny_language_model

RANK = 4
TARGETS = ("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj")


@pytest.fixture
def folder(tmp_path):
    return tiny_language_model("llama", tmp_path / "model", torch.float32, layers=1)


def add_adapter(folder, tensors=None, **config):
    """A seeded adapter of two linears; `tensors` are added to its own."""
    weights = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(1)
    factors = {}
    for name in TARGETS:
        out, width = weights[f"{name}.weight"].shape
        prefix = f"base_model.model.{name}"
        factors[f"{prefix}.lora_A.weight"] = torch.randn(RANK, width, generator=generator)
        factors[f"{prefix}.lora_B.weight"] = torch.randn(out, RANK, generator=generator)
    save_file({**factors, **(tensors or {})}, folder / "adapter_model.safetensors")
    written = {
        "peft_type": "LORA",
        "base_model_name_or_path": "base",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": 6,
        "target_modules": ["q_proj", "down_proj"],
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(written))
    return factors


def merged_weights(folder):
    source = SourceModel(folder, merge_adapter=True)
    return source.read(list(source.entries))


@pytest.mark.parametrize("rslora", [False, True])
def test_the_product_is_added(rslora, folder):
    factors = add_adapter(folder, use_rslora=rslora)
    plain, merged = load_file(folder / "model.safetensors"), merged_weights(folder)
    scale = 6 / math.sqrt(RANK) if rslora else 6 / RANK
    for name, weight in merged.items():
        prefix = f"base_model.model.{name.removesuffix('.weight')}"
        delta = 0.0
        if name.removesuffix(".weight") in TARGETS:
            delta = scale * factors[f"{prefix}.lora_B.weight"] @ factors[f"{prefix}.lora_A.weight"]
        torch.testing.assert_close(weight, plain[name] + delta)


def test_patterns_name_their_own_alpha(folder):
    add_adapter(folder)
    plain = merged_weights(folder)
    add_adapter(folder, alpha_pattern={"q_proj": 12})
    doubled = merged_weights(folder)
    base = load_file(folder / "model.safetensors")
    q, down = (f"{name}.weight" for name in TARGETS)
    torch.testing.assert_close(doubled[q] - base[q], 2 * (plain[q] - base[q]), rtol=1e-4, atol=1e-5)
    assert torch.equal(doubled[down], plain[down])


def test_an_embeddings_factors(folder):
    vocabulary, width = load_file(folder / "model.safetensors")["model.embed_tokens.weight"].shape
    generator = torch.Generator().manual_seed(2)
    a, b = torch.randn(RANK, vocabulary, generator=generator), torch.randn(width, RANK, generator=generator)
    prefix = "base_model.model.model.embed_tokens.lora_embedding"
    add_adapter(folder, {f"{prefix}_A": a, f"{prefix}_B": b})
    base, merged = load_file(folder / "model.safetensors"), merged_weights(folder)
    name = "model.embed_tokens.weight"
    torch.testing.assert_close(merged[name], base[name] + 6 / RANK * (b @ a).T)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft reads the old name
def test_as_peft_merges_it(folder, tmp_path):
    peft = pytest.importorskip("peft")
    add_adapter(folder)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for path in folder.glob("adapter_*"):
        (adapter / path.name).write_bytes(path.read_bytes())
        path.unlink()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    expected = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()
    for path in adapter.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    for name, weight in merged_weights(folder).items():
        torch.testing.assert_close(weight, expected[name])


def test_it_is_refused_unless_it_is_to_be_merged(folder, tmp_path):
    add_adapter(folder)
    with pytest.raises(InputError, match=r"holds an adapter.*--merge-adapter"):
        quantize(folder, tmp_path / "out", recipe="rtn-2")
    with pytest.raises(InputError, match="holds an adapter"):
        bivlm.load(folder)
    out = quantize(folder, tmp_path / "out", recipe="rtn-2", merge_adapter=True)
    assert not list(out.glob("adapter*"))
    files = json.loads((out / "config.json").read_text())["quantization_config"]["source"]["files"]
    assert set(files) == {"model.safetensors", "adapter_config.json", "adapter_model.safetensors"}
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (folder / name).unlink()
    with pytest.raises(InputError, match="is not empty"):
        quantize(folder, out, recipe="rtn-2")


def test_nothing_to_merge(folder, tmp_path):
    with pytest.raises(InputError, match="no adapter to merge"):
        quantize(folder, tmp_path / "out", recipe="rtn-2", merge_adapter=True)


def test_an_adapter_alone(folder, tmp_path):
    add_adapter(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="it is an adapter"):
        quantize(folder, tmp_path / "out", recipe="rtn-2", merge_adapter=True)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"peft_type": "IA3"}, "only LORA"),
        ({"peft_type": None}, "only LORA"),
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is set"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is set"),
        ({"lora_alpha": "six"}, "lora_alpha is 'six'"),
        ({"lora_alpha": None}, "needs a number"),
        ({"alpha_pattern": {"(": 3}}, "cannot be read"),
    ],
)
def test_what_is_no_plain_lora_is_refused(config, says, folder):
    add_adapter(folder, **config)
    with pytest.raises(InputError, match=says):
        merged_weights(folder)


@pytest.mark.parametrize(
    ("key", "shape", "says"),
    [
        ("base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight", (4, 64), "has only the factor A"),
        ("base_model.model.model.layers.9.self_attn.k_proj.lora_A.weight", (4, 64), "has 0 weights"),
        ("base_model.model.lm_head.lora_magnitude_vector.weight", (4,), "no factor of a LoRA pair"),
        ("model.layers.0.self_attn.k_proj.lora_A.weight", (4, 64), "no factor of a LoRA pair"),
    ],
)
def test_an_adapter_of_another_model(key, shape, says, folder):
    add_adapter(folder, {key: torch.zeros(shape)})
    with pytest.raises(InputError, match=says):
        merged_weights(folder)


def test_factors_of_another_width(folder):
    prefix = "base_model.model.model.layers.0.self_attn.k_proj"
    add_adapter(
        folder, {f"{prefix}.lora_A.weight": torch.zeros(4, 65), f"{prefix}.lora_B.weight": torch.zeros(32, 4)}
    )
    with pytest.raises(InputError, match="the adapter is of another model"):
        merged_weights(folder)
