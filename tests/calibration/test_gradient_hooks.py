"""Coherence: how errors of many tokens add up, against its definition and against a known case."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bivlm.calibration.gradient_hooks import COHERENCE, together_and_alone
from bivlm.calibration.gradients import Gradients, measure_gradients
from bivlm.calibration.inputs import answered, calibration_inputs
from bivlm.checkpoint.source import SourceModel
from tiny import tiny_checkpoint, tiny_samples

NAMES = ("model.language_model.layers.0.mlp.down_proj", "model.multi_modal_projector.linear_1")


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_it_is_its_definition_by_pairs_of_tokens_and_by_weights(rows):
    random = torch.Generator().manual_seed(rows)
    gradients, inputs = (torch.randn(rows, width, generator=random) for width in (12, 20))
    outer = gradients[:, :, None].double() * inputs[:, None].double()
    expected = torch.stack([outer.sum(0).square().sum(), outer.square().sum()])
    torch.testing.assert_close(together_and_alone(gradients, inputs), expected, rtol=1e-5, atol=0)


def test_like_tokens_count_as_often_as_there_are():
    like = together_and_alone(torch.ones(9, 4), torch.ones(9, 6))
    assert of({"one": like}).coherence("one") == pytest.approx(9)


def test_tokens_that_have_nothing_in_common_count_once():
    apart = together_and_alone(torch.eye(4), torch.ones(4, 6))
    assert of({"one": apart}).coherence("one") == pytest.approx(1)


def test_without_gradients_it_is_one():
    assert of({"one": torch.zeros(2)}).coherence("one") == 1.0


def of(found: dict[str, torch.Tensor]) -> Gradients:
    tokens = {COHERENCE + name: value for name, value in found.items()}
    return Gradients(tokens, {name: (len(value),) for name, value in tokens.items()}, {})


def test_it_predicts_what_random_errors_of_a_weight_do(tmp_path: Path) -> None:
    """The mean square of ⟨ΔW, ∂loss/∂W⟩ over random ΔW is the sum of the squared gradients of the weight."""
    source = SourceModel(tiny_checkpoint("llava", tmp_path / "source"))
    inputs = answered(source, calibration_inputs(source, tiny_samples(3)))
    blocks = [block for stack in source.family.stacks for block in stack.block_paths(source.model)]
    linears = {
        block: [name for name in NAMES if name == block or name.startswith(f"{block}.")] for block in blocks
    }
    found = measure_gradients(source, linears, inputs, fishers=NAMES, coherence=True)
    for name in NAMES:
        joint, alone = found.tokens[COHERENCE + name].view(-1, 2).sum(0).tolist()
        assert joint == pytest.approx(float(found.fisher[name].sum()), rel=1e-4)
        assert alone > 0
        assert found.coherence(name) == pytest.approx(joint / alone)
    kept = measure_gradients(source, linears, inputs, folder=tmp_path / "kept", coherence=True)
    again = measure_gradients(source, linears, inputs, folder=tmp_path / "kept", coherence=True)
    assert [kept.coherence(name) for name in NAMES] == [again.coherence(name) for name in NAMES]
    assert [kept.coherence(name) for name in NAMES] == [found.coherence(name) for name in NAMES]
