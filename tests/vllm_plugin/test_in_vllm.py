"""vLLM itself answers from packed folders, as transformers does: BIVLM_TEST_VLLM names the Python of an
environment that has vLLM and bivlm (docs/vllm.md). It takes minutes.
"""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
import transformers

import bivlm
from bench_export import pictures
from bivlm.errors import InputError
from bivlm.types import Sample
from bivlm.zoo import embedded_model
from stock_vllm import Asked, ask_vllm, compared, prompts_of
from tiny import tiny_config, tiny_processor

PYTHON = os.environ.get("BIVLM_TEST_VLLM")
pytestmark = pytest.mark.skipif(
    PYTHON is None, reason="BIVLM_TEST_VLLM names no Python of an environment with vLLM"
)
QUESTIONS = ("What color is the shape?", "Is there a blue shape?")
NEAR = 2e-3  # of log-probabilities in float32: two implementations of a model


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    out = tmp_path_factory.mktemp("vllm") / "packed"
    return bivlm.quantize(embedded_model(), out, recipe="rtn-2", embeddings=4)


def differences(folder, samples, **engine):
    model, processor = bivlm.load(folder, dtype=torch.float32)
    asked = Asked(folder, prompts_of(model, processor, samples), engine={"dtype": "float32", **engine})
    [told] = ask_vllm(PYTHON, [asked])
    return compared(model, processor, samples, told)


def about_pictures():
    return [Sample(image, question) for image in pictures() for question in QUESTIONS]


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_embedded_model_answers_as_in_transformers(packed, ranks):
    found = differences(packed, about_pictures(), tensor_parallel_size=ranks)
    assert max(found) < NEAR


def test_a_compiled_model_gives_the_same(packed):
    assert max(differences(packed, about_pictures(), enforce_eager=False)) < NEAR


def test_a_folder_that_vllm_cannot_serve_is_one_sentence(packed, tmp_path):
    folder = shutil.copytree(packed, tmp_path / "newer")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["format_version"] = 9
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="this checkpoint has format version 9, and this bivlm reads up to"):
        ask_vllm(PYTHON, [Asked(folder, [[5, 6]])])


def made(config, kind, folder):
    """A folder with random weights for a config; tokenizer and processor are those of a tiny kind."""
    auto = getattr(
        transformers,
        "AutoModelForImageTextToText" if hasattr(config, "vision_config") else "AutoModelForCausalLM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = auto.from_config(config, dtype=torch.bfloat16)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    model.save_pretrained(folder)
    processor = tiny_processor(kind)
    (processor if hasattr(config, "vision_config") else processor.tokenizer).save_pretrained(folder)
    return folder


def test_a_language_model_with_a_head_of_its_own(tmp_path):
    """Its head width is one that vLLM's attention has."""
    tokenizer = tiny_processor("llava").tokenizer
    config = transformers.Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id,
    )
    folder = made(config, "llava", tmp_path / "model")
    out = bivlm.quantize(folder, tmp_path / "out", recipe="sign-1", embeddings=4)
    assert max(differences(out, [Sample(None, "Is it red?"), Sample(None, "How many?")])) < NEAR


def test_qwen_with_a_tower_that_is_fused_in_the_checkpoint(tmp_path):
    config = tiny_config("qwen2_5_vl")
    text, vision = config.text_config, config.vision_config
    text.hidden_size = vision.out_hidden_size = 128
    text.head_dim = 32
    text.rope_parameters = {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 1e4}
    vision.hidden_size, vision.num_heads = 128, 4
    folder = made(config, "qwen2_5_vl", tmp_path / "model")
    out = bivlm.quantize(folder, tmp_path / "out", recipe="rtn-2", embeddings=4)
    image = next(pictures())
    assert max(differences(out, [Sample(image, "Is it red?"), Sample(image, "How many?")])) < NEAR
