"""vLLM's names of layers lead to the packed modules of a folder."""

from __future__ import annotations

import pytest

from bivlm.checkpoint.modules import ModuleSpec
from bivlm.errors import InputError
from bivlm.vllm_plugin.names import WITHOUT_LEVEL, Names

OUTER = {"model.vision_tower.": "vision_tower.", "model.language_model.": "language_model.model."}


def spec(name, shape=(64, 32), **more):
    return ModuleSpec(f"{name}.", "trellis", shape, {}, {"codes": ("uint8", (1,))}, **more)


def names_of(*keys, **tables):
    return Names({key: spec(key) for key in keys} | tables)


def renaming(prefixes):
    def rename(name):
        for old, new in prefixes.items():
            if name.startswith(old):
                return new + name.removeprefix(old)
        return name

    return rename


ATTENTION = "model.language_model.layers.0.self_attn"
HERE = "language_model.model.layers.0.self_attn"


def test_a_fused_layer_has_its_parts_in_the_order_of_its_outputs():
    names = names_of(*(f"{ATTENTION}.{one}_proj" for one in "vkq"))
    names.rename(renaming(OUTER))
    found = names.linears(f"{HERE}.qkv_proj", {})
    assert [(name, part.key) for name, part in found] == [
        (f"{ATTENTION}.{one}_proj", f"{ATTENTION}.{one}_proj.") for one in "qkv"
    ]
    assert names.without_place() == []


def test_a_part_in_full_precision_keeps_its_place():
    names = names_of(f"{ATTENTION}.q_proj", f"{ATTENTION}.v_proj")
    names.rename(renaming(OUTER))
    found = names.linears(f"{HERE}.qkv_proj", {})
    assert [part is not None for _, part in found] == [True, False, True]
    assert found[1][0] == f"{HERE}.k_proj"


def test_a_layer_that_the_checkpoint_has_fused_is_one_weight():
    names = names_of("visual.blocks.0.attn.qkv_proj")
    [(name, _)] = names.linears("visual.blocks.0.attn.qkv_proj", {"qkv_proj": ["q_proj", "k_proj", "v_proj"]})
    assert name == "visual.blocks.0.attn.qkv_proj"


def test_the_models_own_fused_layers_count():
    names = names_of("layers.3.in_proj_qkv", "layers.3.in_proj_z")
    found = names.linears("layers.3.in_proj_qkvz", {"in_proj_qkvz": ["in_proj_qkv", "in_proj_z"]})
    assert [name for name, _ in found] == ["layers.3.in_proj_qkv", "layers.3.in_proj_z"]


def test_a_layer_that_is_not_packed_has_none():
    assert names_of("a.q_proj").linears("b.qkv_proj", {}) == []
    assert names_of("a.q_proj").linears("lm_head", {}) == []


def test_only_the_outermost_class_renames():
    names = names_of("model.language_model.layers.0.mlp.down_proj")
    names.rename(renaming(OUTER))
    names.rename(renaming({"language_model.": "elsewhere."}))
    assert names.linears("language_model.model.layers.0.mlp.down_proj", {})


def test_a_name_that_the_class_drops_stays():
    names = names_of("a.fc")
    names.rename(lambda name: None)
    assert names.linears("a.fc", {})


@pytest.mark.parametrize("stored", ["vision_tower.encoder", "vision_tower.vision_model.encoder"])
def test_towers_with_and_without_the_level_are_found(stored):
    names = names_of(f"{stored}.layers.0.mlp.fc1")
    assert names.linears("vision_tower.vision_model.encoder.layers.0.mlp.fc1", {})
    assert names.has_level


def test_without_the_level_in_vllm_nothing_is_renamed():
    names = names_of("vision_tower.transformer.layers.0.fc")
    assert names.linears("vision_tower.transformer.layers.0.fc", {})
    assert not names.has_level


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        ("vision_tower.encoder.layers.0.w", "vision_tower.vision_model.encoder.layers.0.w"),
        ("model.vision_tower.embeddings.w", "model.vision_tower.vision_model.embeddings.w"),
        ("vision_tower.vision_model.encoder.w", "vision_tower.vision_model.encoder.w"),
        ("language_model.model.norm.weight", "language_model.model.norm.weight"),
    ],
)
def test_the_level_is_put_in_once(stored, wanted):
    assert WITHOUT_LEVEL.sub("vision_tower.vision_model.", stored) == wanted


def test_a_table_is_found_without_a_name():
    names = names_of("a.fc", embed=spec("embed", (361, 32), kind="embedding", head="lm_head"))
    assert names.table("embedding", (361, 32), "")[0] == "embed"
    assert names.table("head", (361, 32), "lm_head") is None
    assert names.tied_to((361, 32))
    assert names.table("embedding", (512, 32), "") is None


def test_a_head_of_its_own_is_no_embedding():
    names = names_of(
        embed=spec("embed", (361, 32), kind="embedding"), lm_head=spec("lm_head", (361, 32), kind="head")
    )
    assert names.table("head", (361, 32), "lm_head")[0] == "lm_head"
    assert names.table("embedding", (361, 32), "")[0] == "embed"
    assert not names.tied_to((361, 32))


def test_a_table_of_another_shape_is_refused():
    names = names_of(embed=spec("embed", (361, 32), kind="embedding"))
    said = r"the packed table embed is \(361, 32\), and vLLM's embed is \(384, 32\)"
    with pytest.raises(InputError, match=said):
        names.table("embedding", (384, 32), "embed")


def test_two_tables_that_could_be_meant_are_refused():
    names = names_of(**{one: spec(one, (361, 32), kind="embedding") for one in ("left", "right")})
    with pytest.raises(InputError, match="could be left or right of this folder"):
        names.table("embedding", (361, 32), "")


def test_what_vllm_does_not_ask_for_is_told_by_pattern():
    names = names_of("tower.layers.0.fc", "tower.layers.1.fc", "tower.merger.0.fc", "tower.merger.1.fc")
    assert names.linears("tower.layers.0.fc", {})
    assert names.without_place() == ["tower.merger.*.fc"]


def test_experts_are_seen_from_the_layer_that_has_them():
    names = names_of("model.layers.0.mlp.experts.3.down_proj", "model.layers.0.mlp.experts_gate")
    assert names.under("model.layers.0.mlp.experts") == "model.layers.0.mlp.experts.3.down_proj"
    assert names.under("model.layers.0.mlp.shared") is None
