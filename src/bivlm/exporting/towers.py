"""What the vision files (mmproj) of all families share: the metadata of a tower, and the names of blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bivlm.exporting.plan import Planned, Value, require
from bivlm.exporting.weights import FolderWeights

SIGLIP = {  # CLIP's and SigLIP's blocks alike
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "layer_norm1": "ln1",
    "layer_norm2": "ln2",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}
ACTIVATIONS = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu", "silu": "silu", "quick_gelu": ""}


def tower_metadata(
    weights: FolderWeights,
    processor: Any,
    projector: str,
    *,
    size: int,
    patch: int,
    width: int,
    inner: int,
    blocks: int,
    heads: int,
    epsilon: float,
    activation: str,
) -> dict[str, Value]:
    """The metadata of a tower of `blocks` blocks of `width`, for images of `size` pixels in patches of
    `patch`; `projector` is llama.cpp's name of what follows it.
    """
    require(activation in ACTIVATIONS, weights, f"its vision tower computes {activation}")
    images = processor.image_processor
    normal = images.do_normalize
    found: dict[str, Value] = {
        "general.type": "mmproj",
        "clip.has_vision_encoder": True,
        "clip.projector_type": projector,
        "clip.vision.image_size": size,
        "clip.vision.patch_size": patch,
        "clip.vision.embedding_length": width,
        "clip.vision.feed_forward_length": inner,
        "clip.vision.block_count": blocks,
        "clip.vision.attention.head_count": heads,
        "clip.vision.attention.layer_norm_epsilon": epsilon,
        "clip.vision.projection_dim": weights.config.get_text_config().hidden_size,
        "clip.vision.image_mean": [float(value) for value in images.image_mean] if normal else [0.0] * 3,
        "clip.vision.image_std": [float(value) for value in images.image_std] if normal else [1.0] * 3,
    }
    if ACTIVATIONS[activation]:
        found[f"clip.use_{ACTIVATIONS[activation]}"] = True
    return found


def block_tensors(
    weights: FolderWeights, prefix: str, names: Mapping[str, str], blocks: int
) -> Iterator[Planned]:
    """The tensors of the first `blocks` blocks at `prefix`; `names` has what a module of a block is called in
    the file.
    """
    for name in weights.names:
        if not name.startswith(prefix):
            continue
        index, _, inside = name.removeprefix(prefix).partition(".")
        module, _, ending = inside.rpartition(".")
        target = names.get(module) or names.get(inside)
        if target is not None and int(index) < blocks:
            yield Planned(f"v.blk.{index}.{target}.{ending if module in names else 'weight'}", name)


def named(weights: FolderWeights, names: Mapping[str, str]) -> Iterator[Planned]:
    """The tensors of single modules: what the module of a weight is called in the file, by its path. The
    weights that the model does not have (biases) are left out.
    """
    for path, target in names.items():
        for ending in ("weight", "bias"):
            if f"{path}.{ending}" in weights.names:
                yield Planned(f"{target}.{ending}", f"{path}.{ending}", full=target == "v.position_embd")


def siglip_tensors(weights: FolderWeights, prefix: str, blocks: int) -> Iterator[Planned]:
    """The tensors of a SigLIP tower without its last norm."""
    yield from named(
        weights,
        {
            f"{prefix}embeddings.patch_embedding": "v.patch_embd",
            f"{prefix}embeddings.position_embedding": "v.position_embd",
        },
    )
    yield from block_tensors(weights, f"{prefix}encoder.layers.", SIGLIP, blocks)


def siglip_metadata(
    weights: FolderWeights, processor: Any, projector: str, blocks: int | None = None
) -> dict[str, Value]:
    """The metadata of a CLIP or SigLIP tower, or of its first blocks."""
    vision = weights.config.vision_config
    return tower_metadata(
        weights,
        processor,
        projector,
        size=vision.image_size,
        patch=vision.patch_size,
        width=vision.hidden_size,
        inner=vision.intermediate_size,
        blocks=vision.num_hidden_layers if blocks is None else blocks,
        heads=vision.num_attention_heads,
        epsilon=float(vision.layer_norm_eps),
        activation=vision.hidden_act,
    )
