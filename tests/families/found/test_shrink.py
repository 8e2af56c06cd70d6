"""A shrunk config is small, keeps what fits together together, and shows every kind of block."""

from __future__ import annotations

import pytest
import torch
import transformers

from bivlm.families.found.shrink import nodes, shrink

MOST = 40_000_000  # parameters without the vocabulary


def parameters(config) -> int:
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())


def qwen2_5_vl_72b():
    return transformers.Qwen2_5_VLConfig(vision_config={"out_hidden_size": 8192})


def llama_3_2_90b_vision():
    text = {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 100,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "cross_attention_layers": list(range(3, 100, 5)),
    }
    return transformers.MllamaConfig(text_config=text)


def qwen3_vl_32b():
    text = {
        "hidden_size": 5120,
        "intermediate_size": 25600,
        "num_hidden_layers": 64,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 128,
    }
    vision = {"out_hidden_size": 5120, "deepstack_visual_indexes": [8, 16, 24]}
    return transformers.Qwen3VLConfig(text_config=text, vision_config=vision)


@pytest.mark.parametrize("make", [qwen2_5_vl_72b, llama_3_2_90b_vision, qwen3_vl_32b])
def test_large_models_become_small(make):
    config = make()
    before = config.to_dict()
    small = shrink(config, vocabulary=512)
    assert parameters(small.config) < MOST
    assert config.to_dict() == before


def test_every_kind_of_block_stays():
    text = shrink(llama_3_2_90b_vision()).config.get_text_config()
    assert text.cross_attention_layers == [3]
    assert text.num_hidden_layers == 5  # the last block is of the last one's kind
    types = ["sliding_attention"] * 5 + ["full_attention"]
    config = transformers.Gemma3Config(text_config={"num_hidden_layers": 24, "layer_types": types * 4})
    assert set(shrink(config).config.text_config.layer_types) == {*types}


def test_lists_of_blocks_are_renumbered():
    vision = shrink(qwen3_vl_32b()).config.vision_config
    assert len(vision.deepstack_visual_indexes) == 3
    assert all(index < vision.depth for index in vision.deepstack_visual_indexes)
    mllama = shrink(llama_3_2_90b_vision()).config.vision_config
    assert len(mllama.intermediate_layers_indices) == 5
    assert mllama.vision_output_dim == 6 * mllama.hidden_size


def test_equal_widths_stay_equal_and_heads_fill_them():
    small = shrink(qwen2_5_vl_72b()).config
    assert small.vision_config.out_hidden_size == small.text_config.hidden_size < 512
    text = small.text_config
    assert text.hidden_size == text.num_attention_heads * 128
    assert text.num_attention_heads % text.num_key_value_heads == 0


def test_geometry_stays():
    config = qwen2_5_vl_72b()
    small = shrink(config).config.vision_config
    for name in ("patch_size", "spatial_merge_size", "temporal_patch_size", "window_size"):
        assert getattr(small, name) == getattr(config.vision_config, name)


def test_special_tokens_move_into_a_cut_vocabulary():
    config = qwen2_5_vl_72b()
    small = shrink(config, vocabulary=512)
    token = small.config.image_token_id
    assert token < 512 == small.config.text_config.vocab_size
    assert small.original(token) == config.image_token_id
    assert small.original(5) == 5
    assert small.original(None) is None


def test_nodes_are_all_configs():
    names = {type(node).__name__ for node in nodes(qwen3_vl_32b())}
    assert names == {"Qwen3VLConfig", "Qwen3VLTextConfig", "Qwen3VLVisionConfig"}
