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
    random = torch.nn.functional.normalize(
        torch.randn(vector.shape[1], generator=torch.Generator().manual_seed(0)), dim=0
    )
    (vector @ random).sum().backward()
    expected = seen[0].grad[0].square().mean(1)
    torch.testing.assert_close(found.tokens[name], expected, rtol=1e-3, atol=1e-12)
    assert float(expected.sum()) > 0


def _linears(folder: SourceModel, path: str, name: str) -> dict[str, list[str]]:
    """All blocks, of which one linear is watched."""
    blocks = [block for stack in folder.family.stacks for block in stack.block_paths(folder.model)]
    return {block: [name] if block == path else [] for block in blocks}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"settings": {"fidelity": "luck"}}, "needs one of answers, embedding, embedding-mean"),
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
