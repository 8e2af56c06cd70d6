"""A budget and gradients about vectors: what they measure, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import bivlm
from bivlm.calibration.gradients import measure_gradients
from bivlm.calibration.inputs import calibration_inputs
from bivlm.checkpoint.source import SourceModel
from bivlm.errors import InputError
from bivlm.eval.embedding.vectors import embed
from bivlm.job.recipe import load_recipe
from bivlm.job.request import make_request
from bivlm.pooling import pool
from bivlm.types import Sample
from tiny import tiny_checkpoint, tiny_samples

ITEMS = [*tiny_samples(2), Sample(tiny_samples(3)[2].image, ""), Sample(None, "a red square")]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny_checkpoint("llava", tmp_path_factory.mktemp("fidelity") / "source")


def packed(source: Path, out: Path, **settings: str) -> Path:
    """The projector with a budget; the other parts take longer and tell nothing more."""
    return bivlm.quantize(
        source, out, recipe="trellis-2", bits=2.5, settings=settings, parts=("projector",), data=ITEMS
    )


def test_a_measured_budget_packs_a_model_whose_vectors_stay_near(source, tmp_path):
    out = packed(source, tmp_path / "out", fidelity="embedding")
    recipe = json.loads((out / "config.json").read_text())["quantization_config"]["recipe"]
    assert recipe["fidelity"] == "embedding"
    model, processor = bivlm.load(out)
    exact = embed(*bivlm.load(source), ITEMS)
    assert 0 < float((1 - (embed(model, processor, ITEMS) * exact).sum(1)).mean()) < 0.5


@pytest.mark.parametrize(("fidelity", "pooling"), [("embedding", "last"), ("embedding-mean", "mean")])
def test_squared_gradients_are_those_of_autograd(source, fidelity, pooling):
    """Against one backward pass of the whole model, with the same direction."""
    loaded, folder = bivlm.load(source)[0].requires_grad_(True), SourceModel(Path(source))
    inputs = calibration_inputs(folder, [ITEMS[2]])
    name = "model.language_model.layers.0.mlp.down_proj"
    path = name.removesuffix(".mlp.down_proj")
    found = measure_gradients(folder, _linears(folder, path, name), inputs, pooling=pooling)
    seen = []

    def keep(_module, _args, output):
        output.retain_grad()
        seen.append(output)

    loaded.get_submodule(name).register_forward_hook(keep)
    hidden = loaded.base_model(**inputs[0].tensors).last_hidden_state
    vector = pool(hidden, inputs[0].tensors["attention_mask"], pooling)
    (vector @ signs(vector.shape[1])).sum().backward()
    expected = seen[0].grad[0].square().mean(1)
    torch.testing.assert_close(found.tokens[name], expected, rtol=1e-3, atol=1e-12)
    assert float(expected.sum()) > 0


def signs(count: int) -> torch.Tensor:
    """Those of the first sample."""
    return torch.randint(0, 2, (count,), generator=torch.Generator().manual_seed(0)).float() * 2 - 1


def test_predicted_drift_is_that_of_a_small_change(source):
    """1 - cosine after a small change of one weight, against half of its squared gradients' prediction: the
    mean over many samples' signs.
    """
    folder = SourceModel(Path(source))
    item = calibration_inputs(folder, [ITEMS[2]])[0]
    name = "model.language_model.layers.1.mlp.down_proj"
    path = name.removesuffix(".mlp.down_proj")
    found = measure_gradients(folder, _linears(folder, path, name), [item] * 256, pooling="last")
    model = bivlm.load(source)[0].float()
    linear, seen = model.get_submodule(name), []
    linear.register_forward_pre_hook(lambda _module, args: seen.append(args[0][0]))
    before = pool(model.base_model(**item.tensors).last_hidden_state, item.tensors["attention_mask"])
    random = torch.Generator().manual_seed(3)
    drifts, predicted = [], []
    for _ in range(16):
        change = 1e-2 * linear.weight.std() * torch.randn(linear.weight.shape, generator=random)
        with torch.no_grad():
            linear.weight += change
            after = pool(model.base_model(**item.tensors).last_hidden_state, item.tensors["attention_mask"])
            linear.weight -= change
        drifts.append(float(1 - (before.double() * after.double()).sum()))
        squares = found.tokens[name].view(256, -1).mean(0)
        predicted.append(0.5 * float((squares * (seen[0] @ change.T).square().sum(1)).sum()))
    assert sum(predicted) == pytest.approx(sum(drifts), rel=0.35)


def _linears(folder: SourceModel, path: str, name: str) -> dict[str, list[str]]:
    """All blocks, of which one linear is watched."""
    blocks = [block for stack in folder.family.stacks for block in stack.block_paths(folder.model)]
    return {block: [name] if block == path else [] for block in blocks}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"settings": {"fidelity": "luck"}}, "needs one of answers, embedding, embedding-mean, action"),
        ({"settings": {"fidelity": "embedding"}, "effort": "max"}, "distillation learns the next tokens"),
        ({"settings": {"fidelity": "embedding"}, "bits": 2, "sensitivities": "s.json"}, "about answers"),
    ],
)
def test_what_is_about_answers_is_refused(asked, said):
    with pytest.raises(InputError, match=said):
        make_request("trellis-2", **asked)


def test_a_recipe_says_its_fidelity():
    assert load_recipe("trellis-2").fidelity == "answers"
    assert load_recipe("trellis-2:fidelity=embedding").fidelity == "embedding"
