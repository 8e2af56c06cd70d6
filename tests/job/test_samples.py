"""Calibration sets in which some questions have images and others have none, or none has any."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import bivlm
from bivlm.calibration.distillation import TUNING
from bivlm.calibration.inputs import CalibrationInput, calibration_inputs
from bivlm.checkpoint.source import SourceModel
from bivlm.errors import InputError
from bivlm.eval.answer import prepare as prepare_inputs
from bivlm.families import family_of
from bivlm.job import unit
from bivlm.job.budget.sensitivity import PROBE_SAMPLES, probe_samples
from bivlm.job.request import make_request
from bivlm.job.run import prepare
from bivlm.job.unit import MemoryStore
from bivlm.job.walk import Walk
from bivlm.types import LinearStats, Sample
from folders import assert_same_files
from tiny import tiny_checkpoint, tiny_samples
from told import Told

SEEING = tiny_samples(4)
BLIND = [
    Sample(None, question, ("red",), f"blind:{number}")
    for number, question in enumerate(
        ("Is it red?", "What color is green?", "How many are there?", "Yes or no?")
    )
]
MIXED = [BLIND[0], SEEING[0], BLIND[1], SEEING[1], SEEING[2], BLIND[2], BLIND[3], SEEING[3]]
LARGE = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("qwen2_5_vl", "gemma3", "qwen3_vl")]
KINDS = ["llava", *LARGE]

Source = Callable[[str], Path]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A folder of each kind, made when it is asked for."""
    made: dict[str, Path] = {}

    def of(kind: str) -> Path:
        if kind not in made:
            made[kind] = tiny_checkpoint(kind, tmp_path_factory.mktemp(kind) / "source", torch.bfloat16)
        return made[kind]

    return of


def walked(
    folder: Path, samples: Sequence[Sample], parts: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[MemoryStore, dict[str, LinearStats]]:
    """The packed units, and the statistics with which each linear was quantized."""
    prepared, seen = prepare(folder, make_request("gptq-2", parts=parts)), dict[str, LinearStats]()
    quantize_weights = unit.quantize_weights

    def noted(source: Any, linears: Sequence[Any], stats: Any, propagation: float) -> Any:
        seen.update({linear.name: stats for linear in linears})
        return quantize_weights(source, linears, stats, propagation)

    with monkeypatch.context() as patch:
        patch.setattr(unit, "quantize_weights", noted)
        store = MemoryStore()
        Walk(prepared.source, prepared.plan, store, calibration_inputs(prepared.source, samples)).run()
    return store, seen


@torch.inference_mode()
def moments(folder: Path, samples: Sequence[Sample], names: Sequence[str]) -> dict[str, Tensor]:
    """Mean of x xᵀ of the inputs of some linears, in forward passes of the whole model."""
    source = SourceModel(folder)
    model = source.family.auto_model.from_pretrained(folder, dtype=source.dtype).eval()
    seen: dict[str, list[Tensor]] = {name: [] for name in names}
    for name in names:
        model.get_submodule(name).register_forward_pre_hook(
            lambda _module, args, name=name: seen[name].append(args[0].reshape(-1, args[0].shape[-1]))
        )
    for sample in calibration_inputs(source, samples):
        model(**sample.tensors, use_cache=False)
    rows = {name: torch.cat(parts).float() for name, parts in seen.items()}
    return {name: x.T @ x / len(x) for name, x in rows.items()}


def first_block(folder: Path, part: str, names: Sequence[str]) -> list[str]:
    """The linears of the first block of a part: nothing is packed before it."""
    family = SourceModel(folder).family
    path = next(stack.path for stack in family.stacks if stack.part == part)
    return [name for name in names if name.startswith(f"{path}.0.")]


def assert_moments(folder: Path, samples: Sequence[Sample], seen: dict[str, LinearStats], part: str) -> None:
    names = first_block(folder, part, list(seen))
    assert names
    for name, expected in moments(folder, samples, names).items():
        torch.testing.assert_close(seen[name].hessian, expected, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_questions_without_images_calibrate_the_language_model(
    kind: str, source: Source, monkeypatch: pytest.MonkeyPatch
):
    """Alone, or together with others."""
    folder = source(kind)
    for samples in (BLIND, MIXED):
        _, seen = walked(folder, samples, ["language"], monkeypatch)
        assert_moments(folder, samples, seen, "language")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llava", "qwen2_5_vl", "gemma3", "qwen3_vl"])
def test_questions_without_images_change_nothing_in_the_tower(
    kind: str, source: Source, monkeypatch: pytest.MonkeyPatch
):
    folder = source(kind)
    mixed, seen = walked(folder, MIXED, ["vision"], monkeypatch)
    assert_moments(folder, SEEING, seen, "vision")
    alike, _ = walked(folder, SEEING, ["vision"], monkeypatch)
    for path, (packed, _, rows) in mixed.units.items():
        assert rows == alike.units[path][2]
        for name, weight in packed.items():
            tensors = alike.units[path][0][name].tensors
            assert all(torch.equal(tensor, tensors[field]) for field, tensor in weight.tensors.items())


def settings_of(recipe: str) -> dict[str, Any]:
    return {
        "gradients": {"gradient_power": 0.5, "modality_weight": "gradient"},
        "propagation": {"propagation": 0.5},
        "tuning": {"tuning": 1},
        "distillation": {"distillation": 1, "modality_weight": "tokens"},
        "measured": {"budget": 2.0, "modality_weight": "tokens"},
        "predicted": {"budget": 2.0, "budget_from": "gradients"},
    }[recipe]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llava", "gemma3", "qwen3_vl", "mllama"])
@pytest.mark.parametrize(
    "recipe", ["gradients", "propagation", "tuning", "distillation", "measured", "predicted"]
)
def test_mixed_sets_serve_everything_that_looks_at_samples(
    kind: str, recipe: str, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("bivlm.calibration.distillation.LEAST_STEPS", 4)
    monkeypatch.setattr("bivlm.calibration.exact.KEPT_BYTES", 1)  # every sample is differentiated alone
    monkeypatch.setattr("bivlm.job.weighing.LEAST_TOKENS", 0.0)
    out = bivlm.quantize(
        source(kind), tmp_path / "out", recipe="trellis-2", settings=settings_of(recipe), data=MIXED
    )
    model, processor = bivlm.load(out, dtype=torch.float32)
    for sample in (SEEING[0], BLIND[0]):
        inputs = prepare_inputs(model, processor, family_of(model.config), [sample])
        assert bool(model(**inputs).logits.isfinite().all())


@pytest.mark.slow
def test_an_interrupted_tuning_of_a_mixed_set_ends_with_the_same_bytes(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Steps without an image reach no vision part: its optimizer must go on as if nothing had happened."""
    monkeypatch.setattr("bivlm.calibration.distillation.LEAST_STEPS", 12)
    monkeypatch.setattr("bivlm.calibration.distillation.MOST_SAMPLES", 1)
    monkeypatch.setattr("bivlm.calibration.distillation.SAVED", 1)

    def job(out: Path, events: Told) -> Path:
        settings = settings_of("distillation")
        return bivlm.quantize(
            source("llava"), out, recipe="trellis-2", settings=settings, data=MIXED, events=events
        )

    whole = job(tmp_path / "whole", Told())
    with pytest.raises(KeyboardInterrupt):
        job(tmp_path / "out", Told(stop=lambda what, done: what == TUNING and done >= 5))
    assert_same_files(whole, job(tmp_path / "out", Told()))


def refusal(folder: Path, samples: Sequence[Sample], out: Path, **request: Any) -> str:
    with pytest.raises(InputError) as caught:
        bivlm.quantize(folder, out, data=samples, **request)
    assert not out.exists()
    return str(caught.value)


def test_parts_that_no_sample_shows_anything_are_named(source: Source, tmp_path: Path):
    out = tmp_path / "out"
    assert refusal(source("llava"), BLIND, out, recipe="gptq-2") == (
        "no calibration sample has an image, and model.vision_tower.encoder.layers.0 and others (vision and"
        " projector) are calibrated on images; give questions with images, or pack the language model alone"
        " (--parts language)"
    )
    assert "multi_modal_projector (projector) is" in refusal(
        source("llava"), BLIND, out, recipe="gptq-2", parts=["projector"]
    )
    few = [*BLIND, *SEEING[:3]]
    assert "3 of 7 calibration samples have an image" in refusal(
        source("llava"), few, out, recipe="gptq-2", settings={"tuning": 1}
    )


def test_blocks_that_read_the_image_by_cross_attention_are_named(source: Source, tmp_path: Path):
    said = refusal(source("mllama"), BLIND, tmp_path / "out", recipe="gptq-2", parts=["language"])
    assert "model.language_model.layers.1 (language) is calibrated on images" in said
    assert "--parts" not in said


def sample(*, seeing: bool) -> CalibrationInput:
    ids = torch.tensor([[1, 2]])
    pixels = {"pixel_values": torch.zeros(1)} if seeing else {}
    return CalibrationInput({"input_ids": ids, **pixels}, torch.zeros(2, dtype=torch.bool))


@pytest.mark.parametrize(("seeing", "blind", "chosen"), [(20, 0, 16), (0, 20, 0), (3, 3, 3), (1, 99, 1)])
def test_a_budget_is_measured_on_samples_of_both_kinds(seeing: int, blind: int, chosen: int):
    """In their proportion, the first of each; at least one."""
    samples = [sample(seeing=False)] * blind + [sample(seeing=True)] * seeing
    numbers = probe_samples(samples)
    assert len(numbers) == min(PROBE_SAMPLES, len(samples))
    assert [samples[number].has_image for number in numbers].count(True) == chosen
    assert numbers == sorted(set(numbers))
    half = probe_samples([sample(seeing=bool(number % 2)) for number in range(40)])
    assert half == list(range(16))
