"""The main job on one screen: a full-precision model folder in, a packed model folder out.

source ─► plan ─► walk (block by block, written at once) ─► card, report, index, config.json
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bivlm import __version__
from bivlm.calibration.capture import CalibrationInput
from bivlm.calibration.tuning import HELD_OUT
from bivlm.checkpoint.hub import resolve_model
from bivlm.checkpoint.output import FORMAT_VERSION, REPORT_NAME, Job, disk_full_explained, to_json
from bivlm.checkpoint.shards import read_json
from bivlm.checkpoint.source import SourceModel
from bivlm.data.images import open_image
from bivlm.errors import InputError
from bivlm.families import load_processor
from bivlm.job.budget.allocation import allocate, linear_budget
from bivlm.job.card import model_card
from bivlm.job.plan import Plan, make_plan
from bivlm.job.preflight import Preflight, check_disk, preflight
from bivlm.job.presets import DEFAULT_PRESET
from bivlm.job.recipe import Recipe, load_recipe
from bivlm.job.unit import BlockReport
from bivlm.job.walk import walk
from bivlm.pruning.apply import TokenPruning
from bivlm.pruning.settings import Pruning, parse_pruning
from bivlm.types import PARTS, PartName, Sample


@dataclass(frozen=True)
class Prepared:
    """A job that has been checked and planned, and not begun."""

    source: SourceModel
    recipe: Recipe
    parts: tuple[PartName, ...]
    plan: Plan
    expected: Preflight
    pruning: Pruning | None = None


def prepare(
    model: str | Path,
    *,
    recipe: str | Path | Recipe = DEFAULT_PRESET,
    settings: Mapping[str, Any] | None = None,
    parts: Collection[str] = PARTS,
    pruning: str | Mapping[str, Any] | Pruning | None = None,
) -> Prepared:
    """Read the model's headers, match the recipe, predict size, memory and time. InputError for whatever the
    user has to mend.
    """
    wanted = None if pruning is None else parse_pruning(pruning)
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise InputError(
            f"there is no part {', '.join(unknown) or '(none given)'}; parts are {', '.join(PARTS)}"
        )
    chosen_parts: tuple[PartName, ...] = tuple(part for part in PARTS if part in parts)
    chosen = (recipe if isinstance(recipe, Recipe) else load_recipe(recipe)).with_settings(settings or {})
    source = SourceModel(resolve_model(model))
    plan = make_plan(source, chosen, chosen_parts)
    budget = None if chosen.budget is None else linear_budget(plan, chosen.budget)
    if wanted is not None:
        TokenPruning(source.model, wanted)  # refuses what this model cannot do
    return Prepared(source, chosen, chosen_parts, plan, preflight(source, plan, budget), wanted)


def quantize(
    model: str | Path,
    out: str | Path,
    *,
    recipe: str | Path | Recipe = DEFAULT_PRESET,
    settings: Mapping[str, Any] | None = None,
    parts: Collection[str] = PARTS,
    samples: Sequence[Sample] = (),
    pruning: str | Mapping[str, Any] | Pruning | None = None,
    overwrite: bool = False,
    on_block: Callable[[BlockReport], None] = lambda report: None,
    on_probe: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Quantize `model` (a folder or hub id) into the folder `out`, and return it.

    `recipe` is a preset's name, a TOML file or a `Recipe`; `settings` change its quantizers' fields;
    `samples` calibrate where the quantizer needs data; `pruning` is what the packed model drops by default
    ("attention:layer=2,keep=0.25"); `on_block` is called after every block, `on_probe` with the number of
    blocks that are measured, and of all, where a budget is dealt out. A call that is interrupted continues
    when it is made again with the same arguments, and ends with the same bytes. Raises InputError for
    whatever the user has to mend.
    """
    prepared = prepare(model, recipe=recipe, settings=settings, parts=parts, pruning=pruning)
    return run(prepared, Path(out), samples, overwrite=overwrite, on_block=on_block, on_probe=on_probe)


def run(
    prepared: Prepared,
    out: Path,
    samples: Sequence[Sample] = (),
    *,
    overwrite: bool = False,
    on_block: Callable[[BlockReport], None],
    on_probe: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Carry out a prepared job. `on_probe` is told how many blocks are measured, of how many, where a budget
    is dealt out.
    """
    source, plan = prepared.source, prepared.plan
    if not prepared.recipe.needs_data:
        samples = ()
    elif not samples:
        raise InputError(
            f"recipe {prepared.recipe.name} calibrates on data and none was given; add --data, or choose a"
            " preset that needs no data"
        )
    if prepared.recipe.tuning and len(samples) < HELD_OUT:
        raise InputError(
            f"recipe {prepared.recipe.name} tunes on calibration samples of which every {HELD_OUT}th is held"
            f" out, and {len(samples)} are given; give at least {HELD_OUT}, or leave tuning out"
        )
    check_disk(out, prepared.expected)
    inputs = (
        [calibration_input(source, sample) for sample in _with_processor(source, samples)] if samples else []
    )
    job = Job(
        out, source, plan.shards, fingerprint(prepared, inputs), shared=plan.shared, overwrite=overwrite
    )
    with disk_full_explained(out), job:
        job.write_rest()
        if prepared.recipe.budget is not None:
            plan = allocate(
                source, plan, inputs, prepared.recipe.budget, job.folder / "sensitivities.json", on_probe
            )
        walk(source, plan, job, inputs, on_block)
        report = {name: linear for _, record in job.records() for name, linear in record["report"].items()}
        quantization = quantization_config(prepared, job, len(inputs))
        config = {**read_json(source.folder / "config.json"), "quantization_config": quantization}
        card = model_card(source, prepared.recipe, report, quantization)
        job.finish({REPORT_NAME: to_json(report), "README.md": card}, config)
    return out


def _with_processor(source: SourceModel, samples: Sequence[Sample]) -> list[tuple[Any, Sample]]:
    processor = load_processor(source.folder)
    return [(processor, sample) for sample in samples]


def calibration_input(source: SourceModel, item: tuple[Any, Sample]) -> CalibrationInput:
    """One calibration sample as the model takes it: the whole prompt, never cut."""
    processor, sample = item
    tensors = source.family.inputs(processor, [sample], [open_image(sample)], source.config)
    cast = {
        name: tensor.to(source.dtype) if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }
    return CalibrationInput(cast, source.family.visual_mask(source.config, tensors["input_ids"])[0])


def fingerprint(prepared: Prepared, inputs: Sequence[CalibrationInput]) -> dict[str, Any]:
    """What decides the bytes of the result; unfinished work is continued only under the same."""
    source = prepared.source
    described: dict[str, Any] = {
        "recipe": prepared.recipe.to_dict(),
        "parts": list(prepared.parts),
        "model": [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in source.shards],
        "bivlm": __version__,
    }
    if prepared.pruning is not None:
        described["pruning"] = prepared.pruning.to_dict()
    if inputs:
        digest = hashlib.sha256()
        for sample in inputs:
            for name, tensor in sorted(sample.tensors.items()):
                digest.update(name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
        described |= {
            "data": digest.hexdigest(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }
    return described


def quantization_config(prepared: Prepared, job: Job, calibration_samples: int) -> dict[str, Any]:
    """The `quantization_config` of config.json: how to read every packed module, and where the model came
    from.
    """
    source = prepared.source
    kinds = {
        linear.name: {"kind": linear.kind, **({} if linear.head is None else {"head": linear.head})}
        for linear in prepared.plan.embeddings
    }
    modules = {
        name: {**linear, **kinds.get(name, {})}
        for _, record in job.records()
        for name, linear in record["linears"].items()
    }
    pruning = {} if prepared.pruning is None else {"pruning": prepared.pruning.to_dict()}
    return {
        "quant_method": "bivlm",
        "format_version": FORMAT_VERSION,
        "bivlm_version": __version__,
        "recipe": json.loads(json.dumps(prepared.recipe.to_dict())),
        "parts": list(prepared.parts),
        "calibration_samples": calibration_samples,
        "source": {
            "name": source.folder.resolve().name,
            "file_bytes": source.file_bytes,
            "linears": {name: source.entries[f"{name}.weight"].nbytes for name in modules},
        },
        **pruning,
        "modules": modules,
    }
