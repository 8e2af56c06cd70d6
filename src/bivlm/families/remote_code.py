"""Models whose folders bring their own code, which bivlm never runs, and the same models in the form that
transformers knows, where there is one.

The keys are the `model_type`s of the originals; transformers has no class for them.
"""

from __future__ import annotations

CONVERTED: dict[str, str | None] = {
    "deepseek_vl_v2": None,
    "internvl_chat": "OpenGVLab/InternVL3-1B-hf (its folders are named -hf or -HF)",
    "kimi_vl": None,
    "llava_llama": "llava-hf/llava-1.5-7b-hf",
    "llava_mistral": "llava-hf/llava-v1.6-mistral-7b-hf",
    "llava_qwen": "llava-hf/llava-onevision-qwen2-7b-ov-hf",
    "minicpmv": "openbmb/MiniCPM-V-4.6",
    "molmo": None,
    "multi_modality": "deepseek-community/deepseek-vl-1.3b-chat",
    "ovis": "thisisiron/Ovis2-1B-hf",
    "phi3_v": None,
}


def advice(model_type: str) -> str | None:
    """What to say about an architecture that needs code of its own; None for any other."""
    if model_type not in CONVERTED:
        return None
    instead = CONVERTED[model_type]
    what = f"the architecture {model_type!r} needs the code of its folder, and bivlm runs no such code"
    if instead is None:
        return f"{what}; transformers has no class for it"
    return f"{what}; take a model of this family that transformers has a class for, such as {instead}"
