"""A small member of a family through the whole process: saved, packed, loaded; its logits must be those of
its packed weights.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from bivlm.contracts.member import Member
from bivlm.contracts.samples import picture, tiny_samples
from bivlm.families.experts import gates, split_experts
from bivlm.families.linears import is_linear
from bivlm.job.run import quantize
from bivlm.loading import load
from bivlm.packed.linear import packed_linears, replace_linear

RECIPES = ("bivlm-paper", "bivlm")  # without calibration data, and with


class PackingContract:
    """The model can be saved and packed."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_a_saved_member_loads_as_the_same_model_and_processor(
        self, member: Member, dtype: torch.dtype, tmp_path: Path
    ) -> None:
        folder = member.save(tmp_path / "model", dtype)
        again = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
        processor = transformers.AutoProcessor.from_pretrained(folder)
        assert again.dtype == dtype
        assert type(processor) is type(member.processor)
        logits = logits_of(member, again, processor)
        assert logits.isfinite().all()
        assert torch.equal(logits, logits_of(member, *member.make(dtype)))

    @pytest.mark.parametrize("recipe", RECIPES)
    def test_the_packed_model_computes_what_its_packed_weights_say(
        self, member: Member, recipe: str, tmp_path: Path
    ) -> None:
        source = member.save(tmp_path / "source", torch.bfloat16)
        loaded, processor = load(quantize(source, tmp_path / "out", recipe=recipe, data=tiny_samples(3)))
        expected = transformers.AutoModelForImageTextToText.from_pretrained(source).eval()
        full = logits_of(member, expected, processor)
        packed = packed_linears(loaded)
        split_experts(expected)
        assert set(packed) == linears_of_the_stacks(member, expected)
        for name, linear in packed.items():
            replace_linear(expected, name, linear.packed)
        logits = logits_of(member, loaded, processor)
        assert torch.equal(logits, logits_of(member, expected, processor))
        assert not torch.equal(full, logits)
        stored = loaded.state_dict()
        for name, tensor in expected.state_dict().items():
            assert torch.equal(stored[name], tensor), name


def linears_of_the_stacks(member: Member, model: nn.Module) -> set[str]:
    """The linears that a recipe for all linears packs: those in a stack that do not stay in full
    precision.
    """
    stacks, kept = [f"{stack.path}." for stack in member.family.stacks], member.family.full_precision
    return {
        name
        for name, module in model.named_modules()
        if is_linear(module)
        and f"{name}.".startswith(tuple(stacks))
        and not any(fnmatchcase(name, pattern) for pattern in kept)
    } - gates(model)


@torch.inference_mode()
def logits_of(member: Member, model: Any, processor: Any) -> Tensor:
    """The logits of a model for the first two samples: (2, t, vocabulary)."""
    samples = tiny_samples(2)
    inputs = member.family.inputs(processor, samples, [*map(picture, samples)], model.config)
    cast = {
        name: tensor.to(model.dtype) if tensor.is_floating_point() else tensor
        for name, tensor in inputs.items()
    }
    return model(**cast, use_cache=False).logits
