"""The names that sizes have in the configs of transformers: how many blocks, how wide, how many experts,
which tokens.

What is not named here keeps its value: patch sizes, image sizes, tokens per image, kernel sizes.
"""

from __future__ import annotations

import re

DEPTHS = frozenset(
    {
        "conf_num_hidden_layers",
        "decoder_layers",
        "decoder_num_layers",
        "depth",
        "encoder_layers",
        "layers",
        "n_layer",
        "n_layers",
        "num_blocks",
        "num_decoder_layers",
        "num_global_layers",
        "num_hidden_layers",
        "num_layers",
        "resampler_depth",
    }
)
STAGES = "depths"  # blocks of each stage
LAST_LAYERS = ("num_kv_shared_layers",)  # how many of the last blocks are of another kind
FIRST_LAYERS = ("first_k_dense_replace", "moe_layer_start_index")  # how many of the first ones
ONE_LAYER = ("insert_layer_id", "loop_layer_index_start", "loop_layer_index_end")
INDEX_LIST = re.compile(r"(layers|indexes|indices|idxs|layer_ids)$")
FEATURE_LAYERS = re.compile(r"^(vision_feature_layers?|spatial_vision_layer|feature_layer)$")
TEXT_LAYERS = ("spatial_target_layers",)  # lists of blocks of the language model, in the config around it
LAYER_PAIRS = ("deepstack_layer_map",)  # (vision block, language block)

BASE_WIDTHS = ("hidden_size", "embed_dim", "d_model", "n_embd")
HEADS = {  # heads, and the key-value heads that go with them
    "num_attention_heads": ("num_key_value_heads", "num_global_key_value_heads"),
    "num_heads": ("num_kv_heads", "num_key_value_heads"),
    "n_head": (),
    "n_heads": (),
    "attention_heads": (),
    "encoder_attention_heads": (),
    "decoder_attention_heads": (),
    "conf_num_attention_heads": (),
}
HEAD_WIDTHS = ("head_dim", "d_kv")
OTHER_WIDTHS = re.compile(
    r"^(?!patch_embed_)(d_ff|ffn_dim|mlp_dim|share_expert_dim|word_embed_proj_dim|mm_embed_dim|output_proj_dims|output_dim"
    r"|adapter_(in|out)_dim|projection_dim|vision_output_dim|projector_(in|out)put_dim|projection_hidden_dim"
    r"|(encoder|decoder)_ffn_dim|out_hidden_size|intermediate_size_mlp"
    r"|[a-z_]*(hidden|intermediate)_size|text_embed_dim|pooler_output_size|image_text_hidden_size)$"
)
SMALL = {  # to at most this
    "hidden_size_per_layer_input": 32,
    "kv_lora_rank": 64,
    "q_lora_rank": 64,
    "num_experts": 4,
    "n_routed_experts": 4,
    "num_local_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_k": 2,
    "moe_topk": 2,
    "top_k_experts": 2,
    "n_group": 1,
    "topk_group": 1,
}
VOCABULARY = re.compile(r"^(unpadded_)?vocab_size(_per_layer_input)?$")
TOKEN = re.compile(r"(_token_ids?|_token_index|_patch_id|^im_[a-z]+_id)$")
