"""Tuning the whole packed model: the result, interruptions at every step, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import bivlm
from bivlm.calibration.distillation import TUNING
from bivlm.calibration.inputs import answered, calibration_inputs
from bivlm.calibration.teacher import ASKING, Prediction, ask_teacher
from bivlm.checkpoint.output import OutputFolder
from bivlm.checkpoint.source import SourceModel
from bivlm.checkpoint.staging import Staging
from bivlm.checkpoint.verify import verify_folder
from bivlm.errors import InputError
from bivlm.events import SILENT, Events
from bivlm.job.distilling import computing_dtype, distil, put_together
from bivlm.job.plan import make_plan
from bivlm.job.recipe import load_recipe
from bivlm.job.request import make_request
from bivlm.job.run import prepare, quantize
from bivlm.job.unit import MemoryStore
from bivlm.job.walk import Walk
from bivlm.kl import kl_divergence
from bivlm.packed.linear import packed_linears
from bivlm.types import PARTS
from folders import assert_same_files
from tiny import tiny_checkpoint, tiny_samples
from told import Told

PLAIN = "trellis-1:modality_weight=tokens"
SAMPLES = [
    replace(sample, answers=("red", "blue", "a cat")[i % 3 :]) for i, sample in enumerate(tiny_samples(9))
]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few steps of tuning."""
    monkeypatch.setattr("bivlm.calibration.distillation.LEAST_STEPS", 12)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("llava", tmp_path_factory.mktemp("distilling") / "source", torch.bfloat16)


@pytest.fixture(scope="module")
def tuned(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bivlm.calibration.distillation.LEAST_STEPS", 12)
        return job(source, tmp_path_factory.mktemp("tuned") / "out")


def job(source: Path, out: Path, events: Events = SILENT, **settings: Any) -> Path:
    chosen = settings or {"distillation": 1}
    return quantize(
        source, out, recipe="trellis-1", settings=chosen, parts=["language"], data=SAMPLES, events=events
    )


def plain_job(source: Path, out: Path) -> Path:
    return job(source, out, distillation=0)


def stop_at(what: str, done: int) -> Told:
    """Events that interrupt a job at a step of what is called `what`."""
    return Told(stop=lambda name, now: name == what and now >= done)


def divergence(source: Path, folder: Path) -> float:
    """The mean divergence of the answers' tokens from the full-precision model's."""
    reference, _ = bivlm.load(source, dtype=torch.float32)
    model, _ = bivlm.load(folder, dtype=torch.float32)
    lost = []
    for sample in calibration_inputs(SourceModel(source), SAMPLES):
        tensors = {n: t.float() if t.is_floating_point() else t for n, t in sample.tensors.items()}
        with torch.inference_mode():
            expected, given = (one(**tensors, use_cache=False).logits[0] for one in (reference, model))
        places = sample.targets.nonzero()[:, 0] - 1
        lost.append(kl_divergence(expected[places], given[places]))
    return float(torch.cat(lost).mean())


def test_tuning_brings_the_answers_nearer_and_adds_no_byte(source: Path, tuned: Path, tmp_path: Path) -> None:
    plain = plain_job(source, tmp_path / "plain")
    assert divergence(source, tuned) < 0.9 * divergence(source, plain)
    before, after = (json.loads((folder / "bivlm_report.json").read_text()) for folder in (plain, tuned))
    assert {name: row["stored_bytes"] for name, row in before.items()} == {
        name: row["stored_bytes"] for name, row in after.items()
    }
    assert any(before[name]["weight_error"] != after[name]["weight_error"] for name in before)
    verify_folder(tuned)


def test_only_row_scales_and_vectors_change(source: Path, tuned: Path, tmp_path: Path) -> None:
    plain, _ = bivlm.load(plain_job(source, tmp_path / "plain"))
    model, _ = bivlm.load(tuned)
    moved = 0
    for name, linear in packed_linears(model).items():
        was = plain.get_submodule(name)
        for part in linear.tensor_names:
            same = torch.equal(getattr(linear, part), getattr(was, part))
            assert same or part == "row_scale"
            moved += not same
    assert moved
    own = dict(plain.named_parameters())
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, own[name])}
    assert changed
    assert all(own[name].dim() == 1 for name in changed)
    assert "model.language_model.norm.weight" in changed  # outside every unit


@pytest.mark.parametrize(
    ("what", "done"),
    [("units", 3), (ASKING, 0), (TUNING, 9), ("staged", 4), ("moved", 1)],
)
def test_an_interrupted_job_ends_with_the_same_bytes(
    what: str, done: int, source: Path, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        if what == "units":
            patch.setattr(OutputFolder, "write_unit", stopping(OutputFolder.write_unit, done))
        if what == "staged":
            patch.setattr(OutputFolder, "_values", stopping(OutputFolder._values, done))
        if what == "moved":
            patch.setattr(Staging, "take", moving_once(Staging.take))
        with pytest.raises(KeyboardInterrupt):
            job(source, out, stop_at(what, done))
    job(source, out)
    assert_same_files(tuned, out)


def stopping(method: Any, calls: int) -> Any:
    """A method that is interrupted after some calls."""
    seen = []

    def stop(*args: Any) -> Any:
        seen.append(args)
        if len(seen) > calls:
            raise KeyboardInterrupt
        return method(*args)

    return stop


def moving_once(take: Any) -> Any:
    """`Staging.take` that dies after it has moved one shard."""

    def one(self: Staging) -> None:
        shards = sorted(self.folder.glob("*.safetensors"))
        if not shards:
            take(self)
            return
        shards[0].replace(self.out / shards[0].name)
        raise KeyboardInterrupt

    return one


def test_a_damaged_tuned_shard_is_made_again_with_all_others(
    source: Path, tuned: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OutputFolder, "finish", stopping(OutputFolder.finish, 0))
        with pytest.raises(KeyboardInterrupt):
            job(source, out)
    shard = sorted(out.glob("model-*.safetensors"))[-1]
    shard.write_bytes(shard.read_bytes()[:-1])
    told = Told()
    job(source, out, told)
    assert any("all shards are made again" in line for line in told.lines)
    assert_same_files(tuned, out)


def test_a_model_that_tuning_makes_no_better_stays_as_it_was(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bivlm.calibration.distillation.RATE", 30.0)  # far too fast
    out = job(source, tmp_path / "out")
    plain = plain_job(source, tmp_path / "plain")
    for shard in sorted(plain.glob("model-*.safetensors")):
        assert shard.read_bytes() == (out / shard.name).read_bytes()


def test_too_few_samples_are_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="every 8th is held out, and 4 are given"):
        quantize(source, tmp_path / "out", recipe="trellis-1", effort="max", data=SAMPLES[:4])


def test_a_walk_in_memory_is_tuned_too(source: Path) -> None:
    prepared = prepare(source, make_request(PLAIN, settings={"distillation": 1}))
    inputs = answered(prepared.source, calibration_inputs(prepared.source, SAMPLES))
    store = MemoryStore()
    Walk(prepared.source, prepared.plan, store, inputs).run()
    before = {path: dict(unit[0]) for path, unit in store.units.items()}
    found = distil(prepared.source, prepared.plan, store, inputs)
    assert found.after < found.before
    assert "model.language_model.norm.weight" in store.outside
    scales = [
        (before[path][name].tensors["row_scale"], weight.tensors["row_scale"])
        for path, unit in store.units.items()
        for name, weight in unit[0].items()
    ]
    assert any(not torch.equal(old, new) for old, new in scales)


@pytest.mark.parametrize("kind", ["llava", "mllama", "qwen2_vl"])
def test_the_teacher_predicts_as_the_model_does(kind: str, tmp_path: Path) -> None:
    source = SourceModel(tiny_checkpoint(kind, tmp_path / "model"))
    inputs = answered(source, calibration_inputs(source, tiny_samples(2)))
    plan = make_plan(source, load_recipe("rtn-3"), PARTS)
    teacher = ask_teacher(source, [block.path for block in plan.blocks], inputs, tmp_path / "kept")
    again = ask_teacher(source, [block.path for block in plan.blocks], inputs)
    model, _ = bivlm.load(source.folder)
    for number, sample in enumerate(inputs):
        with torch.inference_mode():
            logits = model(**sample.tensors, use_cache=False).logits[0]
        logits = logits[sample.targets.nonzero()[:, 0] - 1]
        assert float(teacher.prediction(number).divergence(logits).abs().max()) < 1e-3
        assert torch.equal(again.prediction(number).tokens, teacher.prediction(number).tokens)


def test_a_kept_prediction_never_overrates_the_divergence() -> None:
    torch.manual_seed(0)
    expected, given = torch.randn(5, 1000) * 3, torch.randn(5, 1000) * 3
    whole = kl_divergence(expected, given)
    kept = Prediction.of(expected).divergence(given)
    assert bool((kept <= whole + 1e-3).all())
    assert bool((kept > 0.6 * whole).all())
    small = Prediction.of(expected[:, :100]).divergence(given[:, :100])  # every token is kept
    torch.testing.assert_close(small, kl_divergence(expected[:, :100], given[:, :100]), rtol=2e-3, atol=2e-3)


def test_the_packed_units_are_put_together_as_they_load(source: Path, tmp_path: Path) -> None:
    prepared = prepare(source, make_request(PLAIN, embeddings=4, settings={"distillation": 1}))
    inputs = answered(prepared.source, calibration_inputs(prepared.source, SAMPLES))
    store = MemoryStore()
    Walk(prepared.source, prepared.plan, store, inputs).run()
    student = SourceModel(source)
    put_together(student, prepared.plan, store, torch.float32)
    loaded, _ = bivlm.load(
        quantize(source, tmp_path / "out", recipe=PLAIN, embeddings=4, data=SAMPLES),
        dtype=torch.float32,
    )
    tensors = {n: t.float() if t.is_floating_point() else t for n, t in inputs[0].tensors.items()}
    with torch.inference_mode():
        expected = loaded(**tensors, use_cache=False).logits
        given = student.model.float()(**tensors, use_cache=False).logits
    # decoded embeddings are rounded to bfloat16 in one of them
    assert float((given - expected).norm() / expected.norm()) < 0.01


def test_the_products_are_in_sixteen_bits_for_models_of_sixteen() -> None:
    assert computing_dtype(torch.float16) == torch.bfloat16
    assert computing_dtype(torch.bfloat16) == torch.bfloat16


def test_unfinished_work_of_another_setting_is_not_taken_up(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        job(source, out, stop_at(TUNING, 1))
    with pytest.raises(InputError, match="another job"):
        plain_job(source, out)
