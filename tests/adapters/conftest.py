"""A tiny language model, packed twice, and adapters for it on the disk."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from bivlm.adapters.identity import base_identity
from bivlm.adapters.lora import Factors
from bivlm.adapters.store import Record, write_adapter
from bivlm.job.run import quantize
from tiny.language import tiny_language_model

Q, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"
SHAPES = {Q: (64, 64), DOWN: (64, 96)}
RANKS = {Q: 2, DOWN: 3}


@pytest.fixture(scope="session")
def full(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters") / "full"
    return tiny_language_model("llama", folder, torch.float32, layers=1)


@pytest.fixture(scope="session")
def base(full):
    return quantize(full, full.with_name("base"), recipe="rtn-2")


@pytest.fixture(scope="session")
def other_base(full):
    return quantize(full, full.with_name("other"), recipe="rtn-3")


@pytest.fixture
def factors():
    """A seeded adapter of two linears, with different ranks."""
    generator = torch.Generator().manual_seed(3)
    return {
        name: Factors(
            torch.randn(RANKS[name], width, generator=generator) / 8,
            torch.randn(out, RANKS[name], generator=generator) / 8,
            1.0,
        )
        for name, (out, width) in SHAPES.items()
    }


@pytest.fixture
def make(base, factors, tmp_path):
    """Write the drawn adapter, or another, in so many bits; returns its folder."""

    def write(bits=8, adapter=None, **changes):
        folder = tmp_path / f"adapter-{bits}"
        folder.mkdir()
        record = replace(Record(base_identity(base), bits, "job", {}, "", {}), **changes)
        write_adapter(folder, factors if adapter is None else adapter, record)
        return folder

    return write


@pytest.fixture
def edit():
    """Change the JSON file at a path; None takes a field away."""

    def change(path, **fields):
        content = {**json.loads(path.read_text()), **fields}
        path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))

    return change
