"""A budget and gradients about actions, on a tiny model that says them as its last tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import bivlm
from bivlm.actions import ActionTokens, action_tokens
from bivlm.calibration.gradients import measure_gradients
from bivlm.calibration.inputs import CalibrationInput, calibration_inputs, with_answer
from bivlm.checkpoint.source import SourceModel
from bivlm.errors import InputError
from bivlm.job.budget.sensitivity import values_of
from bivlm.job.request import Request, make_request
from bivlm.job.run import prepare, run
from bivlm.types import Sample
from tiny import tiny_checkpoint, tiny_samples

BINS, DIMENSIONS, SAMPLES = 16, 7, 4


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = Path(tiny_checkpoint("llava", tmp_path_factory.mktemp("actions") / "source"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"n_action_bins": BINS}))
    return folder


def actions_of(source: Path) -> ActionTokens:
    return action_tokens(SourceModel(source).config)


def answering(source: Path, first: int) -> list[CalibrationInput]:
    """Instructions with an image, and seven tokens from `first` on as the answer."""
    folder = SourceModel(source)
    prompts = [Sample(sample.image, sample.question) for sample in tiny_samples(SAMPLES)]
    random = torch.Generator().manual_seed(0)
    return [
        with_answer(folder, one, (first + torch.randint(0, BINS, (DIMENSIONS,), generator=random)).tolist())
        for one in calibration_inputs(folder, prompts)
    ]


def acted(source: Path) -> list[CalibrationInput]:
    """Instructions that actions answer."""
    return answering(source, actions_of(source).vocabulary - BINS)


def packed(source: Path, out: Path, bits: float, **settings: str) -> Path:
    request: Request = make_request(
        "trellis-2", bits=bits, settings={"fidelity": "action", **settings}, parts=("projector",)
    )
    return run(prepare(source, request), out, acted(source))


def drift(source: Path, folder: Path) -> float:
    """The mean squared change of the values of all actions."""
    exact, model, actions = bivlm.load(source)[0], bivlm.load(folder)[0], actions_of(source)
    squares = [
        (values_of(model, one, actions) - values_of(exact, one, actions)).square().mean()
        for one in acted(source)
    ]
    return float(torch.stack(squares).mean())


@pytest.mark.parametrize("way", ["answers", "gradients"])
def test_a_budget_packs_a_model_whose_actions_stay_near(source, tmp_path, way):
    few = packed(source, tmp_path / "few", 1.5, budget_from=way)
    many = packed(source, tmp_path / "many", 3.5, budget_from=way)
    recipe = json.loads((few / "config.json").read_text())["quantization_config"]["recipe"]
    assert recipe["fidelity"] == "action"
    assert 0 < drift(source, many) < drift(source, few)


def test_squared_gradients_are_those_of_autograd(source):
    """Against one backward pass of the whole model, with the same signs."""
    folder, actions, sample = SourceModel(source), actions_of(source), acted(source)[0]
    name = "model.language_model.layers.0.mlp.down_proj"
    blocks = [block for stack in folder.family.stacks for block in stack.block_paths(folder.model)]
    watched = {block: [name] if name.startswith(f"{block}.") else [] for block in blocks}
    found = measure_gradients(folder, watched, [sample], actions=actions)
    loaded, seen = bivlm.load(source)[0].requires_grad_(True), []

    def keep(_module, _args, output):
        output.retain_grad()
        seen.append(output)

    loaded.get_submodule(name).register_forward_hook(keep)
    logits = loaded(**sample.tensors).logits[0, -DIMENSIONS - 1 : -1]
    signs = torch.randint(0, 2, (DIMENSIONS,), generator=torch.Generator().manual_seed(0)).float() * 2 - 1
    (actions.values(logits) * signs).sum().backward()
    expected = seen[0].grad[0].square().mean(1)
    torch.testing.assert_close(found.tokens[name], expected, rtol=1e-3, atol=1e-16)
    assert float(expected.sum()) > 0


def test_answers_without_actions_are_named(source, tmp_path):
    request = make_request("trellis-2", bits=2, settings={"fidelity": "action"}, parts=("projector",))
    with pytest.raises(
        InputError, match=r"calibration sample 1: its answer has no action token \(ids \d+ to"
    ):
        run(prepare(source, request), tmp_path / "out", answering(source, 5))
    assert not (tmp_path / "out").exists()


def test_a_model_that_says_no_actions_is_refused(tmp_path):
    source = tiny_checkpoint("llava", tmp_path / "source")
    with pytest.raises(InputError, match="needs a model that says actions as tokens: n_action_bins"):
        prepare(source, make_request("trellis-2", bits=2, settings={"fidelity": "action"}))
