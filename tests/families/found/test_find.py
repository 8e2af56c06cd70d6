"""The structure that is found equals what was declared by hand, for every family; and what cannot be found is
refused with one line.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch
import transformers
from accelerate import init_empty_weights
from torch import nn

from bivlm.errors import InputError
from bivlm.families import family_of
from bivlm.families.causal_lm import MODEL_TYPES
from bivlm.families.found import around
from bivlm.families.found.entrance import check_model_type, structure_in
from bivlm.families.found.find import find_structure
from bivlm.families.found.structure import Structure
from tiny import MEMBERS, each, tiny_config, tiny_processor
from tiny.language import tiny_language_config, tiny_language_model

# linears that a declaration keeps for a reason that no forward pass shows, or cuts into other blocks
JUDGED = {
    "qwen3_5_text": "in_proj_a and in_proj_b are small and delicate",
    "qwen3_5": "in_proj_a and in_proj_b are small and delicate",
    "minicpmv4_6": "the same; and its merger inside the tower counts as vision",
    "molmo2": "the projector is declared as two blocks",
}
# towers whose patches are found to have no order, though a declaration knows it
BY_HAND = {
    "qwen2_5_vl": "its tower sorts the patches by windows, which depend on the size of the image",
    "vipllava": "the projector reads the outputs of several blocks",
}
BY_NAME = {member.name: member for member in MEMBERS}
SEVERAL = ("llama", "qwen3", "gemma2", "phi3")
LANGUAGE = [
    pytest.param(name, id=name, marks=() if name in SEVERAL else pytest.mark.slow) for name in MODEL_TYPES
]


def quantized(config, family) -> set[str]:
    """The linears that a family packs."""
    with init_empty_weights():
        model = family.auto_model.from_config(config)
    return {
        name
        for name, module in model.named_modules()
        if type(module) is nn.Linear
        and any(f"{name}.".startswith(f"{stack.path}.") for stack in family.stacks)
        and not any(fnmatchcase(name, pattern) for pattern in family.full_precision)
    }


def places(family) -> set[tuple[object, ...]]:
    return {(stack.part, stack.path, stack.visual_linears) for stack in family.stacks}


@pytest.mark.parametrize("kind", each())
def test_what_is_found_is_what_was_declared(kind, tmp_path):
    tiny_config(kind).save_pretrained(tmp_path)
    tiny_processor(kind).save_pretrained(tmp_path)
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    declared, structure = family_of(config), structure_in(tmp_path, config)
    found = structure.family
    assert structure.inputs == "questions by the model's processor"
    assert found.image_token_id(config) == declared.image_token_id(config)
    assert found.answer_token_type == declared.answer_token_type
    assert quantized(config, found) >= quantized(config, declared)
    assert [stack for stack in structure.stacks if stack.part == "language"]
    if kind not in JUDGED:
        assert places(found) == places(declared)
        assert quantized(config, found) == quantized(config, declared)
    assert (found.patch_tokens is not None) == (declared.patch_tokens is not None and kind not in BY_HAND)
    if found.patch_tokens is not None:
        same_patches(BY_NAME[kind], found)


def same_patches(member, found):
    """Pruning in the tower gets the same from a found family as from a declaration, for images of all
    sizes.
    """
    declared, config, sequences = member.family, member.config, []

    def note(block, args):
        sequences.append((1, *args[0].shape)[-3:-1])

    block = member.last_stack("vision")[0]
    for numbers in ((0,), (1,), (0, 1, 2)):
        inputs = member.ask(*numbers)
        handle = block.register_forward_pre_hook(note)
        member.logits(inputs)
        handle.remove()
        expected = declared.patch_tokens(config, inputs, *sequences[-1])
        assert torch.equal(found.patch_tokens(config, inputs, *sequences[-1]), expected)
        assert (found.token_grids is None) == (declared.token_grids is None)
        if declared.token_grids is not None:
            assert found.token_grids(config, inputs) == declared.token_grids(config, inputs)
    count = len(member.last_stack("vision"))
    assert tuple(found.tower_outputs(config, count)) == tuple(declared.tower_outputs(config, count))


@pytest.mark.parametrize("model_type", LANGUAGE)
def test_language_models_are_found(model_type, tmp_path):
    folder = tiny_language_model(model_type, tmp_path)
    config = transformers.AutoConfig.from_pretrained(folder)
    found, declared = structure_in(folder, config).family, family_of(config)
    assert places(found) == places(declared)
    assert quantized(config, found) >= quantized(config, declared)
    assert model_type in JUDGED or quantized(config, found) == quantized(config, declared)
    assert found.prompt == declared.prompt
    assert not found.reads_images


@pytest.mark.parametrize("kind", ["llava_siglip", "qwen2_vl", "mllama"])
def test_without_a_processor_the_inputs_are_made_up(kind):
    config = tiny_config(kind)
    structure, declared = find_structure(config), family_of(config)
    assert structure.inputs == "made-up inputs"
    assert places(structure.family) == places(declared)
    assert structure.family.image_token_id(config) == declared.image_token_id(config)


def test_what_stays_has_a_reason():
    structure = find_structure(tiny_config("llava_siglip"))
    reasons = {kept.pattern: kept.reason for kept in structure.kept}
    assert reasons["model.vision_tower.head.*"] == around.UNREAD
    assert reasons["lm_head"] == around.TABLE
    assert structure.tied


def test_linears_of_one_input_are_named_together():
    structure = find_structure(tiny_config("llava"))
    layers = "model.language_model.layers.*"
    assert (f"{layers}.mlp.gate_proj", f"{layers}.mlp.up_proj") in structure.shared
    assert tuple(f"{layers}.self_attn.{part}_proj" for part in "qkv") in structure.shared


def test_experts_are_named(tmp_path):
    config = transformers.Qwen3MoeConfig(num_hidden_layers=2, num_experts=8)
    structure = find_structure(config)
    assert structure.experts == (
        "model.layers.*.mlp.experts.gate_up_proj",
        "model.layers.*.mlp.experts.down_proj",
    )


def test_blocks_of_the_full_model_are_counted(tmp_path):
    config = transformers.LlamaConfig(num_hidden_layers=61, hidden_size=512, num_attention_heads=8)
    assert [stack.blocks for stack in find_structure(config).stacks] == [61]


def test_audio_is_kept():
    config = tiny_config("gemma4")
    config.audio_config = transformers.Gemma4AudioConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    reasons = {kept.pattern: kept.reason for kept in find_structure(config).kept}
    heard = {pattern for pattern, reason in reasons.items() if reason == around.NEVER}
    assert heard == {"model.audio_tower.*", "model.embed_audio.*"}


class TestRefused:
    @staticmethod
    def refused(config, words: str) -> None:
        with pytest.raises(InputError, match=words) as caught:
            find_structure(config)
        assert "\n" not in str(caught.value)

    def test_no_model_of_images_or_text(self):
        self.refused(transformers.ViTConfig(), "'vit' is not supported: transformers .* has no model")
        config = transformers.WhisperConfig(architectures=["WhisperForConditionalGeneration"])
        self.refused(config, "'whisper' is not supported: transformers .* has no model")

    def test_unknown_to_transformers(self):
        with pytest.raises(InputError, match=r"'nobodys' is not supported.*llava.*docs/adding"):
            check_model_type(Path("m"), {"model_type": "nobodys"})

    def test_code_of_a_folder(self):
        with pytest.raises(InputError, match="'internvl_chat' needs the code of its folder"):
            check_model_type(Path("m"), {"model_type": "internvl_chat"})

    def test_parts_of_unknown_types(self):
        config = transformers.LlavaConfig(vision_config=transformers.Wav2Vec2Config())
        self.refused(config, "structure of 'llava' could not be found: a small copy of it does not run")

    def test_a_stack_that_runs_twice(self, monkeypatch):
        model = transformers.models.llama.modeling_llama.LlamaModel
        once = model.forward

        def twice(self, *args, **kwargs):
            once(self, *args, **kwargs)
            return once(self, *args, **kwargs)

        monkeypatch.setattr(model, "forward", twice)
        self.refused(transformers.LlamaConfig(), "runs model.layers more than once")

    def test_too_large_to_be_tried(self, monkeypatch):
        monkeypatch.setattr("bivlm.families.found.find.MEMORY", 1000)
        self.refused(transformers.LlamaConfig(), "GB of weights it is too large to be tried")


def test_the_random_state_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    find_structure(tiny_language_config("llama"))
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["qwen2_5_vl", "mllama", "llama4_text"])
def test_large_models_are_found(model_type):
    config = transformers.CONFIG_MAPPING[model_type]()
    if model_type == "qwen2_5_vl":
        config.vision_config.out_hidden_size = config.text_config.hidden_size
    structure = find_structure(config)
    assert isinstance(structure, Structure)
