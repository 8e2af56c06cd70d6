"""Gradients in a whole job: recipes that ask for them, what they change, and where measurements are kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import bivlm
from bivlm.calibration.gradients import MEASURING, measure_gradients
from bivlm.calibration.inputs import ANSWERING, CalibrationInput, answered, calibration_inputs
from bivlm.checkpoint.verify import verify_folder
from bivlm.errors import InputError
from bivlm.job.budget.prediction import PREDICTING
from bivlm.job.measurements import Measurements
from bivlm.job.plan import Plan
from bivlm.job.request import make_request
from bivlm.job.run import prepare, quantize
from bivlm.job.weighing import (
    block_collector,
    differentiated,
    gradients_of,
    looks_at_gradients,
    needing_answers,
)
from folders import assert_same_files
from tiny import tiny_checkpoint, tiny_samples
from told import Told

SAMPLES = tiny_samples(4)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("llava", tmp_path_factory.mktemp("weighing") / "source")


def job(source: Path, out: Path, recipe: str, **more: Any) -> Path:
    return quantize(source, out, recipe=recipe, parts=["language"], data=SAMPLES, **more)


@pytest.mark.parametrize(
    "recipe",
    [
        "trellis-2:gradient_power=0.5",
        "trellis-2:gradient_power=0.5,propagation=0.25,tuning=1",
        "trellis-2:modality_weight=gradient",
        "gptq-2:gradient_power=1",
        "squeezellm-sparse-2",
        "squeezellm-2:feedback=true",
        "mbq-2",
        "leanquant-2",
        "qvla-3:row_weight=fisher",
    ],
)
def test_recipes_that_look_at_gradients_pack_a_model_that_answers(
    recipe: str, source: Path, tmp_path: Path
) -> None:
    out = job(source, tmp_path / "out", recipe)
    verify_folder(out)
    model, processor = bivlm.load(out)
    assert isinstance(bivlm.answer(model, processor, SAMPLES[0].image, "what?", max_new_tokens=2), str)


def test_one_sample_is_enough(source: Path, tmp_path: Path) -> None:
    out = quantize(source, tmp_path / "out", recipe="trellis-2:gradient_power=1", data=SAMPLES[:1])
    verify_folder(out)


def test_gradients_are_measured_only_where_they_are_looked_at(source: Path, tmp_path: Path) -> None:
    for recipe, wanted in (
        ("trellis-2:modality_weight=tokens", False),
        ("trellis-2:modality_weight=gradient", True),
    ):
        told = Told()
        job(source, tmp_path / recipe.partition(":")[2], recipe, events=told)
        assert (MEASURING in {what for what, _, _ in told.steps}) is wanted


def test_gradients_of_blocks_that_see_the_image_alone_would_change_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    found = quantize(source, tmp_path / "found", recipe="trellis-2", data=SAMPLES[:2], events=told)
    assert MEASURING in {what for what, _, _ in told.steps}
    prepared = prepare(source, make_request("trellis-2"))
    looked = {block.path for block in prepared.plan.blocks if looks_at_gradients(prepared.plan, block)}
    assert looked == {block.path for block in prepared.plan.blocks if "language_model" in block.path}
    monkeypatch.setattr("bivlm.job.weighing.looks_at_gradients", lambda _plan, block: bool(block.quantized))
    assert_same_files(found, quantize(source, tmp_path / "every", recipe="trellis-2", data=SAMPLES[:2]))


def test_a_vision_part_alone_needs_no_shares(source: Path, tmp_path: Path) -> None:
    told = Told()
    quantize(source, tmp_path / "out", recipe="trellis-2", parts=["vision"], data=SAMPLES[:1], events=told)
    assert MEASURING not in {what for what, _, _ in told.steps}


def plan_of(source: Path, recipe: str, **settings: Any) -> Plan:
    return prepare(source, make_request(recipe, settings=settings)).plan


def asked(*images: bool) -> list[CalibrationInput]:
    """Samples of three tokens, with a visual one if they have an image."""
    return [
        CalibrationInput({}, torch.tensor([image, False, False]), torch.zeros(3, dtype=torch.bool))
        for image in images
    ]


@pytest.mark.parametrize(
    ("count", "measured"), [(1, 1), (8, 8), (15, 15), (16, 8), (30, 10), (32, 8), (64, 16), (100, 25)]
)
def test_shares_are_measured_on_some_samples_spread_evenly(count: int, measured: int, source: Path) -> None:
    plan = plan_of(source, "trellis-2")
    chosen = differentiated(plan, asked(*[True] * count))
    assert len(chosen) == measured
    assert chosen == differentiated(plan, asked(*[True] * count))
    stride = count // measured
    assert [number // stride for number in chosen] == list(range(measured))
    assert measured == count or len({number % stride for number in chosen}) > 1  # no rhythm


def test_samples_with_and_without_an_image_are_measured_in_their_proportion(source: Path) -> None:
    plan, images = plan_of(source, "trellis-2"), [number % 4 == 0 for number in range(31)] + [True]
    chosen = differentiated(plan, asked(*images))
    assert [sum(images[number] is kind for number in chosen) for kind in (True, False)] == [3, 6]
    alone = differentiated(plan, asked(*[number == 17 for number in range(32)]))
    assert 17 in alone  # without it the share would be zero


@pytest.mark.parametrize(
    ("recipe", "chosen"),
    [
        ("squeezellm-2", 32),
        ("trellis-2:budget=2,budget_from=gradients", 32),
        ("trellis-2:fidelity=embedding", 32),
        ("trellis-2:budget=2", 8),
        ("trellis-2:tuning=2,distillation=2", 8),
        ("trellis-2:modality_weight=tokens", 0),
    ],
)
def test_what_looks_at_more_than_shares_is_measured_on_all_samples(
    recipe: str, chosen: int, source: Path
) -> None:
    assert len(differentiated(plan_of(source, recipe), asked(*[True] * 32))) == chosen


def test_samples_that_are_not_differentiated_need_no_answer(source: Path, tmp_path: Path) -> None:
    samples, plan = asked(*[True] * 32), plan_of(source, "trellis-2")
    assert needing_answers(plan, samples, None) == differentiated(plan, samples)
    assert list(needing_answers(plan, samples, 2.0)) == list(range(32))
    told = Told()
    data = [replace(sample, answers=()) for sample in tiny_samples(16)]
    quantize(source, tmp_path / "out", recipe="trellis-2", parts=["language"], data=data, events=told)
    assert (ANSWERING, 8, 8) in told.steps
    assert (MEASURING, 8, 8) in told.steps


def test_gradients_of_some_samples_are_those_among_all(source: Path, tmp_path: Path) -> None:
    prepared = prepare(source, make_request("trellis-2"))
    inputs = answered(prepared.source, calibration_inputs(prepared.source, tiny_samples(16)))
    measured = Measurements(tmp_path, prepared.source, "data")
    found = gradients_of(prepared.source, prepared.plan, inputs, measured)
    assert found is not None
    chosen, visual = differentiated(prepared.plan, inputs), [sample.visual for sample in inputs]
    linears = {block.path: [one.name for one in block.quantized] for block in prepared.plan.blocks}
    whole = measure_gradients(prepared.source, linears, inputs)
    for name, lengths in found.lengths.items():
        every = whole.lengths[name]
        assert lengths == tuple(one if number in chosen else 0 for number, one in enumerate(every))
        parts = whole.tokens[name].split(list(every))
        torch.testing.assert_close(found.tokens[name], torch.cat([parts[number] for number in chosen]))
        mask = torch.cat([visual[number] for number in chosen])
        share = float(found.tokens[name][mask].double().sum() / found.tokens[name].double().sum())
        assert found.visual_share(name, visual) == pytest.approx(share)


def test_measurements_on_some_samples_are_kept_apart_from_those_on_all(source: Path, tmp_path: Path) -> None:
    told, data = Told(), tiny_samples(16)
    for number, power in enumerate((0.0, 0.5)):
        recipe = f"trellis-2:gradient_power={power}"
        for again in range(2):
            more: dict[str, Any] = {"parts": ["language"], "data": data, "measurements": tmp_path / "kept"}
            quantize(source, tmp_path / f"{number}-{again}", recipe=recipe, events=told, **more)
    assert len(list((tmp_path / "kept").iterdir())) == 2
    totals = [total for what, done, total in told.steps if what == MEASURING and done == total]
    assert totals == [8, 8, 16, 16]
    assert_same_files(tmp_path / "0-0", tmp_path / "0-1")


def test_measurements_are_kept_for_other_jobs_and_change_nothing(source: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    plain = job(source, tmp_path / "plain", "trellis-1:gradient_power=0.5")
    told = Told()
    first = job(source, tmp_path / "first", "trellis-1:gradient_power=0.5", measurements=kept)
    files = {path: path.stat().st_mtime_ns for path in kept.rglob("*.safetensors")}
    assert files
    again = job(source, tmp_path / "again", "trellis-1:gradient_power=0.5", measurements=kept, events=told)
    other = job(source, tmp_path / "other", "trellis-2:gradient_power=1", measurements=kept)
    assert files == {path: path.stat().st_mtime_ns for path in kept.rglob("*.safetensors")}
    assert_same_files(plain, first)
    assert_same_files(plain, again)
    verify_folder(other)
    few = quantize(
        source,
        tmp_path / "few",
        recipe="trellis-1:gradient_power=0.5",
        parts=["language"],
        data=SAMPLES[:2],
        measurements=kept,
    )
    verify_folder(few)  # other data: measured anew, next to the others
    assert len(list(kept.rglob("*.safetensors"))) > len(files)


def test_a_linear_without_gradients_counts_all_tokens_alike(source: Path) -> None:
    prepared = prepare(source, make_request("trellis-2", settings={"gradient_power": 0.5}))
    inputs = answered(prepared.source, calibration_inputs(prepared.source, SAMPLES))
    gradients = gradients_of(prepared.source, prepared.plan, inputs)
    assert gradients is not None
    block = next(one for one in prepared.plan.blocks if "language_model.layers" in one.path)
    name = block.quantized[0].name
    silent = {**gradients.tokens, name: torch.zeros_like(gradients.tokens[name])}
    quiet = type(gradients)(silent, gradients.lengths, {})
    with prepared.source.present(block.path) as module:
        linear = module.get_submodule(name.removeprefix(f"{block.path}."))
        moments = []
        for one in (None, quiet):
            collector = block_collector(prepared.source, block, inputs, one)
            torch.manual_seed(0)
            for number, sample in enumerate(inputs):
                x = torch.randn(1, len(sample.visual), linear.in_features)
                with collector.watching(sample.visual, number=number), torch.inference_mode():
                    linear(x)
            moments.append(collector.stats(name).hessian)
    torch.testing.assert_close(moments[0], moments[1])


def test_a_budget_by_gradients_is_held_and_gives_sensitive_linears_more(source: Path, tmp_path: Path) -> None:
    told = Told()
    out = job(
        source, tmp_path / "out", "trellis-2", bits=2, settings={"budget_from": "gradients"}, events=told
    )
    assert PREDICTING in {what for what, _, _ in told.steps}
    remembered = json.loads((out / "bivlm_calibration.json").read_text())
    assert len(set(remembered["questions"])) == len(SAMPLES)
    report = json.loads((out / "bivlm_report.json").read_text())
    weights = sum(row["weights"] for row in report.values())
    assert sum(8 * row["stored_bytes"] for row in report.values()) / weights <= 2.0
    assert len({round(row["bits_per_weight"], 1) for row in report.values()}) > 1


def test_a_way_to_deal_out_a_budget_without_one_is_refused() -> None:
    with pytest.raises(InputError, match="there is none; add bits"):
        make_request("trellis-2", settings={"budget_from": "gradients"})
    with pytest.raises(InputError, match="needs one of answers, gradients"):
        make_request("trellis-2", bits=2, settings={"budget_from": "luck"})


def test_tokens_are_weighed_only_where_enough_of_them_are_left(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare(source, make_request("trellis-2", settings={"gradient_power": 0.5}))
    inputs = answered(prepared.source, calibration_inputs(prepared.source, SAMPLES))
    gradients = gradients_of(prepared.source, prepared.plan, inputs)
    assert gradients is not None
    block = next(one for one in prepared.plan.blocks if "language_model.layers" in one.path)
    name = block.quantized[0].name
    least = gradients.effective_tokens(name, 0.5) / block.quantized[0].shape[1]
    for factor, weighed in ((0.99, True), (1.01, False)):
        monkeypatch.setattr("bivlm.job.weighing.LEAST_TOKENS", factor * least)
        with prepared.source.present(block.path):
            collector = block_collector(prepared.source, block, inputs, gradients)
        assert collector.weighing is not None
        assert (name in collector.weighing.weights) is weighed
