"""What names claim, on names as people give them."""

import pytest

from bivlm.recount.claims import Claim, claim_in, claims_of
from bivlm.recount.settings import Settings


@pytest.mark.parametrize(
    ("name", "bits", "words"),
    [
        ("Qwen3-VL-8B-Instruct-UD-IQ1_S.gguf", 1, "UD-IQ1_S"),
        ("gemma-3-27b-it-Q2_K.gguf", 2, "Q2_K"),
        ("model-UD-Q2_K_XL-00001-of-00002.gguf", 2, "UD-Q2_K_XL"),
        ("llava-v1.5-7b-iq2_xxs.gguf", 2, "iq2_xxs"),
        ("mmproj-model-Q8_0.gguf", 8, "Q8_0"),
        ("Falcon3-10B-TQ1_0.gguf", 1.58, "TQ1_0"),
        ("Qwen2.5-VL-7B-Instruct-W4A16-G128", 4, "W4A16"),
        ("Llama-2-7b-gptq-w2g64", 2, "w2g64"),
        ("bitnet-b1.58-2B-4T", 1.58, "b1.58"),
        ("Bonsai-8B-1.58bit", 1.58, "1.58bit"),
        ("Model_1_58bit", 1.58, "1_58bit"),
        ("TernaryLLM-ternary", 1.58, "ternary"),
        ("Qwen3-VL-4B-2bit", 2, "2bit"),
        ("Qwen3-VL-4B-2-bit", 2, "2-bit"),
        ("gemma_2_4bit", 4, "4bit"),
        ("Mistral-Small-2.25bpw-h6-exl3", 2.25, "2.25bpw-h6"),
        ("Llama-3.2-11B-Vision-Instruct-bnb-4bit", 4, "4bit"),
        ("Qwen2-VL-7B-Instruct-GPTQ-Int4", 4, "Int4"),
        ("Llama-3.1-8B-NVFP4", 4, "NVFP4"),
        ("Qwen2.5-VL-3B-FP8", 8, "FP8"),
        ("model-nf4", 4, "nf4"),
        ("out-trellis-1.5", 1.5, "trellis-1.5"),
        ("llava-BF16.gguf", 16, "BF16"),
    ],
)
def test_a_claim_is_read_from_a_name(name, bits, words):
    assert claim_in(name, "here") == Claim(bits, words, "here")


@pytest.mark.parametrize(
    "name",
    [
        "Qwen2.5-VL-7B-Instruct",
        "model-00001-of-00008.safetensors",
        "gemma-3-4b-it",
        "Phi-3.5-vision",
        "x86",
        "Q2",
    ],
)
def test_sizes_and_versions_claim_nothing(name):
    found = claim_in(name, "here")
    assert found is None or name == "Q2"


def test_all_claims_in_their_order():
    settings = Settings({"bits": 4}, metadata={"general.name": "Model 2bit"}, gguf=True)
    found = claims_of("people/Model-GGUF-1.58bit/UD-IQ1_S/m.gguf", "UD-IQ1_S/m.gguf", settings)
    assert [(claim.bits, claim.where) for claim in found] == [
        (1, "the folder's or repository's name"),
        (1.58, "the folder's or repository's name"),
        (4, "config.json"),
        (2, "general.name in the header"),
    ]


def test_a_recipe_of_bivlm_claims_its_name():
    settings = Settings({"quant_method": "bivlm", "recipe": {"name": "rtn-2:embeddings=3"}})
    assert claims_of("out", "model.safetensors", settings) == (
        Claim(2, "rtn-2", "the recipe in config.json"),
    )
