"""Methods side by side on one model: every preset packs it, the packed folder is loaded and asked, and its
bits are those of its bytes.

    reference answers, once ─► for each run:  quantize ─► inspect ─► load the packed folder ─► evaluate
        ─► OUT/runs/<run>.json
                            ─► OUT/comparison.md, .json, .png

A run whose record is there and was made from the same (recipe, model files, data, settings) is not made
again; one that was interrupted continues. A preset that this model cannot take is recorded with its reason,
and the others go on.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bivlm import __version__
from bivlm.checkpoint.hub import resolve_model
from bivlm.checkpoint.shards import write_atomically
from bivlm.checkpoint.source import SourceModel
from bivlm.errors import InputError
from bivlm.eval.fidelity import ReferenceAnswers, collect_reference
from bivlm.eval.inspection import inspect
from bivlm.eval.metrics import METRICS_VERSION
from bivlm.eval.run import EvalResult, evaluate
from bivlm.job.preflight import BITS_TOLERANCE
from bivlm.job.recipe import KEEP, Recipe, load_recipe
from bivlm.job.run import Prepared, prepare, run
from bivlm.job.unit import BlockReport
from bivlm.loading import load
from bivlm.machine import machine, machine_line, peak_memory, reset_peak_memory
from bivlm.studies.compare.folder import ComparisonFolder, Effort, run_name
from bivlm.studies.compare.plot import comparison_plot, require_matplotlib
from bivlm.studies.compare.result import COMBINATIONS, FULL_PRECISION, Comparison, ComparisonRow, by_true_bits
from bivlm.studies.compare.table import comparison_markdown
from bivlm.studies.folder import digests, joined, model_files
from bivlm.types import PARTS, PartName, Sample

Say = Callable[[str], None]
OnProgress = Callable[[str, int, int], None]  # what is going on, how much of it is done, of how much


@dataclass(frozen=True)
class _Work:
    """What all runs of a comparison share; `common` is the part of their fingerprints that they share."""

    source: SourceModel
    folder: ComparisonFolder
    samples: Sequence[Sample]
    calibration: Sequence[Sample]
    calibration_digest: str
    common: dict[str, Any]
    batch_size: int
    max_new_tokens: int
    keep_models: bool
    say: Say
    on_progress: OnProgress


def compare_presets(
    model: str | Path,
    presets: Sequence[str | Path | Recipe],
    out: str | Path,
    *,
    samples: Sequence[Sample],
    calibration: Sequence[Sample] = (),
    parts: Collection[str] = PARTS,
    parts_study: bool = False,
    batch_size: int = 32,
    max_new_tokens: int = 16,
    keep_models: bool = False,
    command: str = "",
    say: Say = lambda line: None,
    on_progress: OnProgress = lambda what, done, total: None,
) -> Comparison:
    """Pack `model` with every preset, measure the packed models on `samples`, and write table, numbers and
    picture into the folder `out`.

    `calibration` serves the presets that need data. `parts_study` packs every combination of parts with every
    preset, instead of `parts`, and draws nothing. `command` is what the table says that it was made by; `say`
    gets a line per finished run. Raises InputError, before anything is written, for what the user has to
    mend; a preset that fails later is a row with its reason.
    """
    recipes = _checked_recipes(presets)
    combinations = COMBINATIONS if parts_study else (_checked_parts(parts),)
    _check_samples(samples, calibration, recipes, batch_size)
    if not parts_study:
        require_matplotlib()
    folder = ComparisonFolder(Path(out))
    source = SourceModel(resolve_model(model))
    asked, calibrated = digests(samples), digests(calibration)
    common = {
        "model": model_files(source.folder),
        "samples": joined(asked),
        "batch_size": batch_size,
        "max_new_tokens": max_new_tokens,
        "metrics": METRICS_VERSION,
        "bivlm": __version__,
    }
    with folder:
        work = _Work(
            source,
            folder,
            samples,
            calibration,
            joined(calibrated),
            common,
            batch_size,
            max_new_tokens,
            keep_models,
            say,
            on_progress,
        )
        full, reference, metric = _full_precision(work)
        rows = [
            full,
            *(_row(work, recipe, chosen, reference) for recipe in recipes for chosen in combinations),
        ]
        found = Comparison(
            rows=tuple(rows if parts_study else sorted(rows, key=by_true_bits)),
            study=parts_study,
            model=source.folder.resolve().name,
            questions=len(samples),
            metric=metric,
            calibration_samples=len(calibration),
            machine=machine_line(machine()),
            command=command,
            notes=_notes(rows, len(set(asked) & set(calibrated)), len(set(calibrated))),
        )
        write_comparison(found, folder.out, "comparison")
    return found


def write_comparison(found: Comparison, folder: Path, name: str, *, picture: bool = True) -> None:
    """`name`.json, `name`.md and, where `picture` and unless it is a parts study, `name`.png."""
    picture = picture and not found.study
    write_atomically(
        folder / f"{name}.json", json.dumps(found.to_dict(), indent=1, ensure_ascii=False) + "\n"
    )
    if picture:
        comparison_plot(found, folder / f"{name}.png")
    write_atomically(
        folder / f"{name}.md", comparison_markdown(found, picture=f"{name}.png" if picture else None)
    )


def _checked_recipes(presets: Sequence[str | Path | Recipe]) -> list[Recipe]:
    """The recipes, each once. InputError when there is none, or when two that differ would have one name."""
    by_name: dict[str, Recipe] = {}
    for preset in presets:
        recipe = preset if isinstance(preset, Recipe) else load_recipe(preset)
        if by_name.setdefault(run_name(recipe.name, PARTS), recipe) != recipe:
            raise InputError(
                f"two recipes that differ are called {recipe.name!r}; give one of them another name in its"
                " file"
            )
    if not by_name:
        raise InputError("no preset is given; give at least one to compare with full precision")
    return list(by_name.values())


def _checked_parts(parts: Collection[str]) -> tuple[PartName, ...]:
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise InputError(
            f"there is no part {', '.join(map(repr, unknown)) or '(none given)'}; parts are"
            f" {', '.join(PARTS)}"
        )
    return tuple(part for part in PARTS if part in parts)


def _check_samples(
    samples: Sequence[Sample], calibration: Sequence[Sample], recipes: Sequence[Recipe], batch_size: int
) -> None:
    unanswered = next((sample for sample in samples if not sample.answers), None)
    if not samples or unanswered is not None:
        what = (
            "there are no questions"
            if unanswered is None
            else f"{unanswered.origin or 'a question'} has no answer to compare with"
        )
        raise InputError(f"{what}; a comparison needs questions with answers")
    needing = next((recipe for recipe in recipes if recipe.needs_data), None)
    if needing is not None and not calibration:
        raise InputError(
            f"preset {needing.name} calibrates on data and there are no calibration samples; give some, or"
            " leave the preset out"
        )
    if batch_size < 1:
        raise InputError(f"the batch size is {batch_size}; give 1 or more")


def _full_precision(work: _Work) -> tuple[ComparisonRow, ReferenceAnswers, str]:
    """The model as it is: its row, its answers as the reference, and the metric."""
    known, reference = work.folder.finished("full-precision", work.common), work.folder.open_reference()
    if known is not None and reference is not None:
        work.say(f"{FULL_PRECISION}: measured before")
        return ComparisonRow.from_dict(known["row"]), reference, known["evaluation"]["metric"]
    shutil.rmtree(work.folder.reference, ignore_errors=True)
    loaded, processor = load(work.source.folder)
    reference = collect_reference(
        loaded,
        processor,
        work.samples,
        work.folder.reference,
        batch_size=work.batch_size,
        max_new_tokens=work.max_new_tokens,
        on_progress=lambda done, total: work.on_progress(f"{FULL_PRECISION}: reference answers", done, total),
    )
    result = _evaluated(work, FULL_PRECISION, loaded, processor, reference)
    row = _measured(
        FULL_PRECISION,
        FULL_PRECISION,
        (),
        result,
        true_bits=8.0 * work.source.dtype.itemsize,
        folder_bytes=work.source.file_bytes,
    )
    record = {
        "fingerprint": work.common,
        "row": asdict(row),
        "evaluation": result.to_dict(with_records=True),
        "machine": machine(),
    }
    work.folder.write_run("full-precision", record)
    work.say(row_line(row))
    return row, reference, result.metric


def _row(
    work: _Work, recipe: Recipe, parts: tuple[PartName, ...], reference: ReferenceAnswers
) -> ComparisonRow:
    """One run: from its record where it stands, made otherwise."""
    name = run_name(recipe.name, parts)
    fingerprint = {**work.common, "recipe": recipe.to_dict(), "parts": list(parts)}
    if recipe.needs_data:
        fingerprint["calibration"] = work.calibration_digest
    known = work.folder.finished(name, fingerprint)
    if known is not None and (not work.keep_models or (work.folder.model(name) / "config.json").exists()):
        work.folder.settle(name, keep_model=work.keep_models)
        work.say(f"{_label(recipe.name, parts)}: measured before")
        return ComparisonRow.from_dict(known["row"])
    try:
        record = _measure(work, name, recipe, parts, fingerprint, reference)
    except InputError as error:
        shutil.rmtree(work.folder.model(name), ignore_errors=True)
        record = {"row": asdict(ComparisonRow(recipe.name, method_of(recipe), parts, failure=str(error)))}
    work.folder.write_run(
        name, {"fingerprint": fingerprint, "recipe": recipe.to_dict(), **record, "machine": machine()}
    )
    work.folder.settle(name, keep_model=work.keep_models)
    row = ComparisonRow.from_dict(record["row"])
    work.say(row_line(row))
    return row


def _measure(
    work: _Work,
    name: str,
    recipe: Recipe,
    parts: tuple[PartName, ...],
    fingerprint: dict[str, Any],
    reference: ReferenceAnswers,
) -> dict[str, Any]:
    """Pack, count, load, ask: the content of the run's record."""
    prepared = prepare(work.source.folder, recipe=recipe, parts=parts)
    effort = _pack(work, name, prepared, fingerprint)
    target = work.folder.model(name)
    inspection = inspect(target)
    loaded, processor = load(target, expand=True)
    result = _evaluated(work, _label(recipe.name, parts), loaded, processor, reference)
    row = _measured(
        recipe.name,
        method_of(recipe),
        parts,
        result,
        true_bits=inspection.total.bits_per_weight,
        paper_bits=inspection.total.paper_bits,
        folder_bytes=inspection.folder_bytes_after,
        quantize_seconds=effort.seconds,
        peak_bytes=effort.peak_bytes,
        note=_purpose_note(recipe, inspection.total.bits_per_weight),
    )
    return {
        "row": asdict(row),
        "preflight": asdict(prepared.expected),
        "inspection": inspection.to_dict(),
        "evaluation": result.to_dict(with_records=True),
    }


def _pack(work: _Work, name: str, prepared: Prepared, fingerprint: dict[str, Any]) -> Effort:
    """The packed model in its folder, and what it took: blocks that an interrupted run packed count with the
    time that they took then.
    """
    target, before = work.folder.model(name), work.folder.effort(name, fingerprint)
    if before.packed and (target / "config.json").exists():
        return before
    total, reports = len(prepared.plan.shards), list[BlockReport]()
    measurable, started = reset_peak_memory(), time.perf_counter()

    def spent(*, packed: bool) -> Effort:
        earlier = before if any(report.resumed for report in reports) else Effort()
        peak = peak_memory() if measurable else None
        return Effort(
            earlier.seconds + time.perf_counter() - started,
            None if peak is None else max(peak, earlier.peak_bytes or 0),
            packed=packed,
        )

    def on_block(report: BlockReport) -> None:
        reports.append(report)
        work.folder.write_effort(name, fingerprint, spent(packed=False))
        work.on_progress(
            f"{_label(prepared.recipe.name, prepared.parts)}: packing blocks", len(reports), total
        )

    run(prepared, target, work.calibration, overwrite=True, on_block=on_block)
    effort = spent(packed=True)
    work.folder.write_effort(name, fingerprint, effort)
    return effort


def _evaluated(
    work: _Work, label: str, loaded: Any, processor: Any, reference: ReferenceAnswers
) -> EvalResult:
    return evaluate(
        loaded,
        processor,
        work.samples,
        batch_size=work.batch_size,
        max_new_tokens=work.max_new_tokens,
        reference=reference,
        on_progress=lambda done, total: work.on_progress(f"{label}: questions", done, total),
    )


def _measured(
    preset: str, method: str, parts: tuple[PartName, ...], result: EvalResult, **rest: Any
) -> ComparisonRow:
    return ComparisonRow(
        preset,
        method,
        parts,
        result.n,
        result.accuracy,
        result.interval,
        result.kl,
        result.top1_agreement,
        eval_seconds=result.seconds,
        **rest,
    )


def method_of(recipe: Recipe) -> str:
    """The quantizers of a recipe, in the order of its rules: what a method's colour in the picture stands
    for.
    """
    return "+".join(dict.fromkeys(rule.quantizer for rule in recipe.rules if rule.quantizer != KEEP))


def _purpose_note(recipe: Recipe, true_bits: float) -> str:
    if recipe.true_bits is None or true_bits <= BITS_TOLERANCE * recipe.true_bits:
        return ""
    return (
        f"{recipe.name} is meant for about {recipe.true_bits:g} true bits and takes {true_bits:.2f} on this"
        " model's shapes"
    )


def _notes(rows: Sequence[ComparisonRow], shared: int, calibrated: int) -> tuple[str, ...]:
    overlap = (
        (
            (
                f"{shared} of the {calibrated} calibration questions are among those that were asked; give"
                " the set a train split"
            ),
        )
        if shared
        else ()
    )
    return (*dict.fromkeys(row.note for row in rows if row.note), *overlap)


def _label(preset: str, parts: Sequence[PartName]) -> str:
    return f"{preset} ({', '.join(parts)})" if parts and tuple(parts) != PARTS else preset


def row_line(row: ComparisonRow) -> str:
    """A finished run in one line."""
    label = _label(row.preset, row.parts)
    if row.failure or row.accuracy is None or row.kl is None or row.true_bits is None:
        return f"{label}: failed: {row.failure}"
    packed = "" if row.quantize_seconds is None else f", packed in {row.quantize_seconds:.1f} s"
    return f"{label}: {row.true_bits:.2f} bits, accuracy {row.accuracy:.1%}, KL {row.kl:.4f}{packed}"
