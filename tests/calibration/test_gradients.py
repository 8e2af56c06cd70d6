"""Gradients measured block by block, against torch's backward pass through the whole model in memory."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import bivlm
from bivlm.calibration import exact
from bivlm.calibration.exact import ExactPass
from bivlm.calibration.gradients import Gradients, measure_gradients
from bivlm.calibration.inputs import CalibrationInput, answered, calibration_inputs
from bivlm.checkpoint.source import SourceModel
from bivlm.errors import InputError
from bivlm.eval.answer import generate, prepare
from bivlm.families import family_of
from bivlm.families.experts import split_experts
from bivlm.job.plan import Plan, make_plan
from bivlm.job.recipe import load_recipe
from bivlm.types import PARTS, Sample
from tiny import each, tiny_checkpoint, tiny_samples
from tiny.language import tiny_language_model
from told import Told


def linears_of(plan: Plan) -> dict[str, list[str]]:
    return {block.path: [linear.name for linear in block.linears] for block in plan.blocks}


def prepared(folder: Path, samples: list[Sample]) -> tuple[SourceModel, Plan, list[CalibrationInput]]:
    source = SourceModel(folder)
    plan = make_plan(source, load_recipe("rtn-3"), PARTS)
    return source, plan, answered(source, calibration_inputs(source, samples))


def whole_model(
    source: SourceModel, names: list[str], samples: list[CalibrationInput]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Squared output gradients of every token and summed squared weight gradients, from one graph."""
    model = source.family.auto_model.from_pretrained(source.folder).eval()
    split_experts(model)
    model.requires_grad_(True)
    tokens: dict[str, list[Tensor]] = {name: [] for name in names}
    fisher: dict[str, Tensor] = {}
    for sample in samples:
        outputs: dict[str, list[Tensor]] = {name: [] for name in names}  # of every call
        handles = [
            model.get_submodule(name).register_forward_hook(
                lambda _module, _args, output, name=name, outputs=outputs: outputs[name].append(output)
            )
            for name in names
        ]
        logits = model(**sample.tensors, use_cache=False).logits[0]
        targets = sample.targets.nonzero()[:, 0]
        loss = nn.functional.cross_entropy(
            logits[targets - 1], sample.tensors["input_ids"][0, targets], reduction="sum"
        )
        weights = [model.get_submodule(name).weight for name in names]
        calls = [(name, output) for name in names for output in outputs[name]]
        found = torch.autograd.grad(loss, [*(output for _, output in calls), *weights], allow_unused=True)
        for (name, output), gradient in zip(calls, found[: len(calls)], strict=True):
            given = torch.zeros_like(output) if gradient is None else gradient
            tokens[name].append(given.reshape(-1, given.shape[-1]).square().mean(1))
        for name, gradient in zip(names, found[len(calls) :], strict=True):
            if gradient is not None:
                fisher[name] = fisher.get(name, 0) + gradient.square()
        for handle in handles:
            handle.remove()
    none = torch.zeros(0)  # of an expert that no token reaches
    return {name: torch.cat([none, *parts]) for name, parts in tokens.items()}, fisher


@pytest.mark.parametrize("kind", each())
def test_gradients_are_those_of_the_whole_model(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tiny_samples(2)
    samples = [replace(first, answers=("a cat",)), replace(second, answers=("red", "green"))]
    source, plan, inputs = prepared(tiny_checkpoint(kind, tmp_path / "model"), samples)
    monkeypatch.setattr("bivlm.calibration.exact.KEPT_BYTES", 1)  # every sample in a pass of its own
    names = [name for linears in linears_of(plan).values() for name in linears]
    found = measure_gradients(source, linears_of(plan), inputs, fishers=names)
    tokens, fisher = whole_model(source, names, inputs)
    for name in names:
        scale = max(tokens[name].tolist(), default=0.0) + 1e-10  # of zeros, rounding is left
        torch.testing.assert_close(found.tokens[name] / scale, tokens[name] / scale, rtol=1e-3, atol=1e-5)
        if name in fisher:
            top = float(fisher[name].max()) + 1e-10  # of zeros, rounding is left
            torch.testing.assert_close(found.fisher[name] / top, fisher[name] / top, rtol=1e-3, atol=1e-5)
    assert any(float(found.tokens[name].sum()) > 0 for name in names)


def test_finished_samples_are_kept_and_damaged_ones_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bivlm.calibration.exact.KEPT_BYTES", 1)
    source, plan, inputs = prepared(tiny_checkpoint("llava", tmp_path / "model"), tiny_samples(3))
    folder, told = tmp_path / "kept", Told(stop=lambda what, done: done == 2)
    with pytest.raises(KeyboardInterrupt):
        measure(source, plan, inputs, folder=folder, events=told)
    first = folder / "gradients-00000.safetensors"
    written = first.stat().st_mtime_ns
    second = folder / "gradients-00001.safetensors"
    content = bytearray(second.read_bytes())
    content[-1] ^= 1  # a single bit of a number
    second.write_bytes(content)
    resumed = measure(source, plan, inputs, folder=folder)
    assert first.stat().st_mtime_ns == written
    whole = measure(source, plan, inputs)
    assert whole.lengths == resumed.lengths
    assert all(torch.equal(whole.tokens[name], resumed.tokens[name]) for name in whole.tokens)


def test_chosen_samples_are_measured_and_named_by_their_numbers_among_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bivlm.calibration.exact.KEPT_BYTES", 1)
    source, plan, inputs = prepared(tiny_checkpoint("llava", tmp_path / "model"), tiny_samples(4))
    told = Told()
    found = measure(source, plan, inputs, chosen=[1, 3], events=told)
    assert told.steps[-1][1:] == (2, 2)
    alone = measure(source, plan, [inputs[1], inputs[3]])
    assert all(torch.equal(found.tokens[name], alone.tokens[name]) for name in alone.tokens)
    assert all(found.lengths[name] == (0, one, 0, two) for name, (one, two) in alone.lengths.items())
    endless = torch.full((), float("inf"))
    monkeypatch.setattr("bivlm.calibration.gradients._About.loss", lambda *_given: endless)
    with pytest.raises(InputError, match="calibration sample 2:"):
        measure(source, plan, inputs, chosen=[1, 3])


def measure(source: SourceModel, plan: Plan, inputs: list[CalibrationInput], **more: Any) -> Gradients:
    return measure_gradients(source, linears_of(plan), inputs, **more)


def test_of_blocks_without_linears_nothing_is_measured_and_the_others_are_the_same(
    tmp_path: Path,
) -> None:
    source, plan, inputs = prepared(tiny_checkpoint("llava", tmp_path / "model"), tiny_samples(2))
    every = linears_of(plan)
    some = {path: names if "language_model" in path else [] for path, names in every.items()}
    passed: list[str] = []
    whole, found = measure(source, plan, inputs), measure_gradients(source, some, inputs)
    wanted = {name for path, names in some.items() if names for name in (path, *names)}
    assert found.tokens.keys() == wanted < whole.tokens.keys()
    assert all(torch.equal(found.tokens[name], whole.tokens[name]) for name in wanted)
    ExactPass(source, list(some), inputs).differentiate(
        lambda number, logits: logits.sum(),
        lambda path, _module, _number: nullcontext(passed.append(path)),
        [path for path, names in some.items() if names],
    )
    assert set(passed) == {path for path, names in some.items() if names}


def test_no_gradients_of_weights_are_made_and_those_of_outputs_are_bit_for_bit_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, plan, inputs = prepared(tiny_checkpoint("llava", tmp_path / "model"), tiny_samples(2))
    backward, made = exact._backward, []

    def noting(module: nn.Module, visit: Any) -> None:
        backward(module, visit)
        linears = [child for child in module.modules() if type(child) is nn.Linear]
        made.append([one.weight.grad for one in linears])
        made.append([source.model.get_input_embeddings().weight.grad])

    monkeypatch.setattr(exact, "_backward", noting)
    before = {name: one.requires_grad for name, one in source.model.named_parameters()}
    found = measure(source, plan, inputs)
    assert made
    assert all(gradient is None for gradients in made for gradient in gradients)
    assert {name: one.requires_grad for name, one in source.model.named_parameters()} == before
    monkeypatch.setattr("bivlm.calibration.gradients.passing_on", lambda _linears: nullcontext())
    monkeypatch.setattr("bivlm.calibration.gradients._frozen_around", lambda _source, _blocks: nullcontext())
    made.clear()
    whole = measure(source, plan, inputs)
    assert any(gradient is not None for gradients in made for gradient in gradients)
    assert all(torch.equal(found.tokens[name], whole.tokens[name]) for name in whole.tokens)


def test_a_loss_that_is_not_finite_names_the_sample(tmp_path: Path) -> None:
    folder = tiny_language_model("llama", tmp_path / "model")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model.get_submodule("model.norm").weight.data.fill_(3e38)
    model.save_pretrained(folder)
    source, plan, inputs = prepared(folder, [Sample(None, "one", ("two",))])
    with pytest.raises(InputError, match="calibration sample 1: the full-precision model's loss is nan"):
        measure(source, plan, inputs)


def test_answers_that_nothing_gives_are_the_models_own(tmp_path: Path) -> None:
    folder = tiny_checkpoint("llava", tmp_path / "model")
    silent = [replace(sample, answers=()) for sample in tiny_samples(2)]
    _, _, inputs = prepared(folder, silent)
    model, processor = bivlm.load(folder)
    for sample, given in zip(silent, inputs, strict=True):
        said = generate(
            model,
            processor,
            family_of(model.config),
            prepare(model, processor, family_of(model.config), [sample]),
            32,
        )
        assert given.labels.tolist() == said.tokens[0][said.mask[0]].tolist()


def test_weights_are_powers_with_a_mean_of_one() -> None:
    squares = torch.tensor([1.0, 4.0, 0.0, 16.0, 9.0])
    gradients = Gradients({"a": squares, "zero": torch.zeros(5)}, {"a": (2, 3), "zero": (2, 3)}, {})
    found = gradients.weights("a", 0.5)
    assert found is not None
    assert [one.tolist() for one in found] == [[0.5, 1.0], [0.0, 2.0, 1.5]]
    assert gradients.weights("zero", 0.5) is None
    assert gradients.weights("unknown", 0.5) is None
    masks = [torch.tensor([True, False]), torch.tensor([False, True, False])]
    assert gradients.visual_share("a", masks) == pytest.approx(17 / 30)
    assert gradients.visual_share("zero", masks) is None


def test_uneven_weights_leave_few_effective_tokens() -> None:
    gradients = Gradients(
        {"a": torch.tensor([1.0, 1.0, 1.0, 1.0]), "b": torch.tensor([1.0, 0.0, 0.0, 1e6])}, {}, {}
    )
    assert gradients.effective_tokens("a", 0.5) == pytest.approx(4.0)
    assert gradients.effective_tokens("b", 1.0) == pytest.approx(1.0, abs=1e-5)
    assert gradients.effective_tokens("b", 0.5) == pytest.approx(1.0, abs=3e-3)
    assert gradients.effective_tokens("unknown", 0.5) == 0.0
