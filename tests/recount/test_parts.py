"""Parts by name: as the declarations of all families have them, and as real releases name their tensors."""

import pytest
import torch
import transformers

from bivlm.recount.parts import PARTS, part_of
from tiny import ALL, each, tiny_config

# from the index files of published models, and from the code of models that have no class in transformers
REAL = {
    "vision": [
        "visual.blocks.0.attn.qkv.weight",  # Qwen2-VL
        "model.visual.pos_embed.weight",  # Qwen3-VL
        "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",  # Gemma 3
        "model.vision_tower.vision_tower.vision_model.embeddings.class_embedding",  # LLaVA's own code
        "vision_model.encoder.blocks.0.norm0.weight",  # LocateAnything
        "model.vision_backbone.image_vit.transformer.resblocks.0.attention.wk.weight",  # Molmo
        "model.vision_backbone.pad_embed",
        "model.sam_model.blocks.0.attn.qkv.weight",  # DeepSeek-OCR 2
        "model.qwen2_model.model.model.layers.0.mlp.down_proj.weight",
        "vpm.encoder.layers.0.self_attn.k_proj.bias",  # MiniCPM-V
        "model.vision_embed_tokens.img_processor.vision_model.post_layernorm.weight",  # Phi-3-Vision
        "transformer.visual.transformer.resblocks.0.mlp.c_fc.weight",  # Qwen-VL
        "vision_encoder.transformer.layers.0.feed_forward.w1.weight",  # Pixtral, consolidated
    ],
    "projector": [
        "visual.merger.mlp.0.weight",
        "model.visual.deepstack_merger_list.0.norm.weight",
        "multi_modal_projector.mm_input_projection_weight",
        "model.mm_projector.0.weight",
        "model.image_newline",
        "mlp1.1.weight",  # InternVL
        "model.vision_backbone.image_projector.w1.weight",
        "model.vision_backbone.image_pooling_2d.wq.weight",
        "model.projector.layers.weight",
        "model.view_seperator",
        "resampler.attn.in_proj_weight",
        "model.vision_embed_tokens.img_projection.0.weight",
        "transformer.visual.attn_pool.kv_proj.weight",
        "transformer.vision.linear_proj.dense_h_to_4h.weight",  # GLM-4V
        "qformer.encoder.layer.0.attention.attention.key.weight",  # BLIP-2
        "language_projection.weight",
        "vision_language_adapter.w_in.weight",
    ],
    "language": [
        "model.layers.0.self_attn.q_proj.qweight",
        "language_model.model.layers.9.feed_forward.w3.weight",
        "llm.model.layers.0.mlp.gate_proj.weight",
        "model.transformer.blocks.0.ff_out.weight.absmax",
        "model.transformer.ln_f.weight",
        "transformer.h.0.attn.c_attn.weight",
        "mtp.layers.0.mlp.down_proj.weight",
        "layers.0.attention.wq.weight",
        "model.norm.weight",
        "gpt_neox.layers.0.attention.dense.weight",
    ],
    "embedding": [
        "model.embed_tokens.weight",
        "language_model.model.tok_embeddings.weight",
        "model.transformer.wte.new_embedding",
        "transformer.wte.weight",
        "model.language_model.embed_tokens_per_layer.weight",
        "model.embedding.weight",
    ],
    "head": [
        "lm_head.qweight",
        "llm.lm_head.weight",
        "language_model.output.weight",
        "model.transformer.ff_out.weight",
        "output.weight",
        "embed_out.weight",
    ],
    "other": [
        "thinker.audio_tower.layers.0.fc1.weight",
        "talker.model.embed_tokens.weight",
        "model.embed_audio.embedding_projection.weight",
        "vison.encoder.layers.0.mlp.fc1.weight",  # so in a published model: not guessed
        "projection.attn.in_proj_weight",
    ],
}

GGUF = {
    "vision": [
        "v.blk.0.attn_q.weight",
        "v.patch_embd.weight",
        "v.post_ln.bias",
        "v.sam.neck.0.weight",
        "v.boi",
    ],
    "projector": ["mm.0.weight", "mm.model.fc.weight", "mm.input_projection.weight", "resampler.query"],
    "language": [
        "blk.3.ffn_gate_exps.weight",
        "output_norm.weight",
        "rope_freqs.weight",
        "blk.0.nextn.eh_proj.weight",
    ],
    "embedding": ["token_embd.weight", "per_layer_token_embd.weight", "position_embd.weight"],
    "head": ["output.weight"],
    "other": ["a.blk.0.attn_q.weight", "mm.a.mlp.0.weight", "cls.weight"],
}


@pytest.mark.parametrize(("gguf", "table"), [(False, REAL), (True, GGUF)])
def test_names_of_published_models(gguf, table):
    assert set(table) == set(PARTS)
    for part, names in table.items():
        for name in names:
            assert (name, part_of(name, gguf=gguf)) == (name, part)


def test_every_name_of_ggmls_package_has_a_part():
    gguf = pytest.importorskip("gguf")
    mmproj = {gguf.TENSOR_NAMES[kind] for kind in gguf.MODEL_TENSORS[gguf.MODEL_ARCH.MMPROJ]}
    told = {name: part_of(f"{name.format(bid=0, xid=0)}.weight", gguf=True) for name in mmproj}
    assert {part for name, part in told.items() if name.startswith("v.")} <= {"vision", "projector"}
    assert {part for name, part in told.items() if name.startswith(("mm.a.", "a."))} == {"other"}
    rest = [name for name in mmproj if not name.startswith(("v.", "a.", "mm.a."))]
    assert {told[name] for name in rest} == {"projector"}
    texts = {gguf.TENSOR_NAMES[kind] for kind in gguf.MODEL_TENSORS[gguf.MODEL_ARCH.QWEN3MOE]}
    assert {part_of(f"{name.format(bid=0)}.weight", gguf=True) for name in texts} == {
        "language",
        "embedding",
        "head",
    }


@pytest.mark.parametrize("kind", each())
def test_the_families_have_the_same_parts(kind):
    """Every parameter in a stack has the stack's part; the others have one, audio apart."""
    stacks = ALL[kind].family.stacks
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(tiny_config(kind))
    for name, _ in model.named_parameters():
        part = next((stack.part for stack in stacks if name.startswith(f"{stack.path}.")), None)
        assert (name, part_of(name)) == (name, part or part_of(name))
        assert ("audio" in name) == (part_of(name) == "other"), name
