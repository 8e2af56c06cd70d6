"""Tiny language models without a vision tower."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

from tiny.kinds import ALL


def tiny_language_model(
    model_type: str, folder: Path, dtype: torch.dtype = torch.float32, layers: int = 3
) -> Path:
    """A seeded member of a family with its tokenizer, saved in `folder`."""
    tokenizer = ALL["llava"].tokenizer()
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "tie_word_embeddings": model_type == "qwen3",
    }
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **sizes)
    transformers.AutoModelForCausalLM.from_config(config).to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
