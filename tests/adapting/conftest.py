"""A tiny language model, full and packed at two bits, and questions that it can be asked."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from bivlm.adapting.settings import AdaptSettings
from bivlm.job.run import quantize
from bivlm.types import Sample
from tiny.language import tiny_language_model

WORDS = ("red", "green", "blue", "a circle", "yes", "no")


@pytest.fixture(scope="session")
def full(tmp_path_factory):
    """Weights of variance 1 / in, so that packing shows in the logits."""
    folder = tmp_path_factory.mktemp("adapting") / "full"
    tiny_language_model("llama", folder, torch.float32, layers=1)
    generator = torch.Generator().manual_seed(1)
    weights = load_file(folder / "model.safetensors")
    drawn = {
        name: torch.randn(weight.shape, generator=generator) * weight.shape[-1] ** -0.5
        for name, weight in weights.items()
        if weight.ndim == 2
    }
    save_file(weights | drawn, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def base(full):
    return quantize(full, full.with_name("base"), recipe="rtn-2")


@pytest.fixture(scope="session")
def samples():
    return [
        Sample(None, f"What color is number {number}?", (WORDS[number % len(WORDS)],), f"row {number}")
        for number in range(24)
    ]


@pytest.fixture
def settings():
    return AdaptSettings(rank=4, epochs=6, rate=3e-2, batch_size=4, max_new_tokens=4)
