"""A comparison of methods on one model: every preset packs it, the packed folder is loaded and asked, and its
bits are counted from its bytes.

    reference answers, once ─► for each run:  quantize ─► inspect ─► load the packed folder ─► evaluate
        ─► OUT/runs/<run>.json ─► Comparison

A run is not repeated if it has a record from the same recipe, model files, data and settings. An interrupted
run continues. A preset that does not work on this model is recorded with its reason, and the others go on.
`page.write_page` makes the table and the picture of the result.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bivlm.checkpoint.hub import resolve_model
from bivlm.checkpoint.source import SourceModel
from bivlm.data.digests import are_apart
from bivlm.errors import InputError
from bivlm.eval.fidelity import ReferenceAnswers
from bivlm.eval.inspection import inspect
from bivlm.eval.records import Record
from bivlm.eval.run import EvalResult
from bivlm.job.preflight import BITS_TOLERANCE
from bivlm.job.recipe import KEEP, Recipe
from bivlm.job.request import Request
from bivlm.job.run import prepare
from bivlm.loading import load
from bivlm.machine import machine, machine_line
from bivlm.studies.compare.checks import check_draws, check_samples, checked_parts, checked_recipes
from bivlm.studies.compare.differences import with_differences
from bivlm.studies.compare.draws import Measured, merged
from bivlm.studies.compare.folder import ComparisonFolder, run_name
from bivlm.studies.compare.pack import pack
from bivlm.studies.compare.result import (
    COMBINATIONS,
    FULL_PRECISION,
    Comparison,
    ComparisonRow,
    by_true_bits,
    label_of,
)
from bivlm.studies.compare.table import row_line
from bivlm.studies.folder import digests, joined, model_files
from bivlm.studies.study import DEFAULT_SETTINGS, Labelled, RunSettings, Study
from bivlm.types import PARTS, PartName, Sample


def compare_presets(
    model: str | Path,
    presets: Sequence[str | Path | Recipe],
    out: str | Path,
    *,
    samples: Sequence[Sample],
    calibration: Sequence[Sample] = (),
    further_draws: Sequence[Sequence[Sample]] = (),
    parts: Collection[str] = PARTS,
    parts_study: bool = False,
    in_order: bool = False,
    keep_models: bool = False,
    settings: RunSettings = DEFAULT_SETTINGS,
) -> Comparison:
    """Pack `model` with every preset, and measure the packed models on `samples`; the runs are kept in the
    folder `out`.

    `calibration` is for the presets that need data; they are packed once more with each of the
    `further_draws`, and their rows have the means. Every row is compared with the first of the table,
    question by question (differences.py). Rows are ordered by true bits, or with `in_order` as `presets` are.
    `parts_study` packs every combination of parts with every preset, instead of `parts`. `keep_models` leaves
    the packed models in `out`. Raises InputError, before anything is written, for every mistake that the user
    has to correct; a preset that fails later is a row with its reason.
    """
    recipes = checked_recipes(presets)
    combinations = COMBINATIONS if parts_study else (checked_parts(parts),)
    draws = (calibration, *further_draws)
    for draw in draws:
        check_samples(samples, draw, recipes, settings.scorer)
    folder = ComparisonFolder(Path(out))
    trusted = settings.trust_remote_code
    source = SourceModel(resolve_model(model, trusted), trust_remote_code=trusted)
    asked, calibrated = digests(samples), [digests(draw) for draw in draws]
    check_draws(calibrated)
    common = {"model": model_files(source.folder), "samples": joined(asked), **settings.fingerprint()}
    with folder:
        work = _Comparing(
            folder, samples, common, settings, source, draws, [*map(joined, calibrated)], keep_models
        )
        full, reference, metric = work.full_precision()
        packed = [work.preset(recipe, chosen, reference) for recipe in recipes for chosen in combinations]
    used = {one for draw in calibrated for one in draw}
    rows = with_differences(_ordered(full, packed, parts_study, in_order))
    return Comparison(
        rows=tuple(rows),
        study=parts_study,
        model=source.folder.resolve().name,
        questions=len(samples),
        metric=metric,
        calibration_samples=len(calibration),
        machine=machine_line(machine()),
        command=settings.command,
        notes=_notes(rows, len(set(asked) & used), len(used)),
        draws=len(draws),
        apart=all(are_apart(samples, draw) for draw in draws),
    )


def _ordered(full: Measured, packed: Sequence[Measured], parts_study: bool, in_order: bool) -> list[Measured]:
    """The rows as the table has them; the first is what the others are compared with."""
    if parts_study:
        return [full, *packed]
    if in_order:
        return [*packed, full]
    return sorted([full, *packed], key=lambda measured: by_true_bits(measured.row))


@dataclass(frozen=True)
class _Comparing(Study):
    """A comparison at work."""

    folder: ComparisonFolder
    source: SourceModel
    draws: Sequence[Sequence[Sample]]
    draw_digests: Sequence[str]
    keep_models: bool

    @property
    def how(self) -> dict[str, Any]:
        """How every model is loaded."""
        return {"device": self.settings.device, "trust_remote_code": self.settings.trust_remote_code}

    def full_precision(self) -> tuple[Measured, ReferenceAnswers, str]:
        """The model as it is: its row, its answers as the reference, and the metric."""
        known = self.folder.finished("full-precision", self.fingerprint)
        reference = self.folder.open_reference()
        if known is not None and reference is not None:
            self.say(f"{FULL_PRECISION}: measured before")
            return _known(known), reference, known["evaluation"]["metric"]
        loaded, processor = load(self.source.folder, **self.how)
        reference = self.collect_reference(FULL_PRECISION, loaded, processor)
        result = self.evaluate(FULL_PRECISION, loaded, processor, reference)
        row = _measured(
            FULL_PRECISION,
            FULL_PRECISION,
            (),
            result,
            true_bits=8.0 * self.source.dtype.itemsize,
            folder_bytes=self.source.file_bytes,
        )
        record = {
            "fingerprint": self.fingerprint,
            "row": asdict(row),
            "evaluation": result.to_dict(with_records=True),
            "machine": machine(),
        }
        self.folder.write_run("full-precision", record)
        self.say(row_line(row))
        return Measured(row, (result.records,)), reference, result.metric

    def preset(self, recipe: Recipe, parts: tuple[PartName, ...], reference: ReferenceAnswers) -> Measured:
        """A row: one run, or one for every calibration draw if the preset needs data."""
        count = len(self.draws) if recipe.needs_data else 1
        return merged([self.run(recipe, parts, draw, reference) for draw in range(1, count + 1)])

    def run(
        self, recipe: Recipe, parts: tuple[PartName, ...], draw: int, reference: ReferenceAnswers
    ) -> Measured:
        """One run: from its record where there is one, made otherwise."""
        name = run_name(recipe.name, parts, draw)
        fingerprint = {**self.fingerprint, "recipe": recipe.to_dict(), "parts": list(parts)}
        if recipe.needs_data:
            fingerprint["calibration"] = self.draw_digests[draw - 1]
        known = self.folder.finished(name, fingerprint)
        if known is not None and (not self.keep_models or (self.folder.model(name) / "config.json").exists()):
            self.folder.settle(name, keep_model=self.keep_models)
            self.say(f"{label_of(recipe.name, parts)}: measured before")
            return _known(known)
        try:
            record = self.measure(name, recipe, parts, draw, fingerprint, reference)
        except InputError as error:
            shutil.rmtree(self.folder.model(name), ignore_errors=True)
            record = {"row": asdict(ComparisonRow(recipe.name, method_of(recipe), parts, failure=str(error)))}
        self.folder.write_run(
            name, {"fingerprint": fingerprint, "recipe": recipe.to_dict(), **record, "machine": machine()}
        )
        self.folder.settle(name, keep_model=self.keep_models)
        found = _known(record)
        self.say(row_line(found.row))
        return found

    def measure(
        self,
        name: str,
        recipe: Recipe,
        parts: tuple[PartName, ...],
        draw: int,
        fingerprint: dict[str, Any],
        reference: ReferenceAnswers,
    ) -> dict[str, Any]:
        """Pack, count, load, ask: the content of the run's record."""
        label = label_of(recipe.name, parts) + ("" if draw == 1 else f", draw {draw}")
        trusted = self.settings.trust_remote_code
        prepared = prepare(self.source.folder, Request(recipe, parts, trust_remote_code=trusted))
        events = Labelled(self.settings.events, label)
        cost = pack(self.folder, name, fingerprint, prepared, self.draws[draw - 1], events)
        target = self.folder.model(name)
        inspection = inspect(target, trusted)
        result = self.evaluate(label, *load(target, expand=True, **self.how), reference)
        row = _measured(
            recipe.name,
            method_of(recipe),
            parts,
            result,
            true_bits=inspection.total.bits_per_weight,
            paper_bits=inspection.total.paper_bits,
            folder_bytes=inspection.folder_bytes_after,
            quantize_seconds=cost.seconds,
            peak_bytes=cost.peak_bytes,
            note=_purpose_note(recipe, inspection.total.bits_per_weight),
        )
        return {
            "row": asdict(row),
            "preflight": asdict(prepared.expected),
            "inspection": inspection.to_dict(),
            "evaluation": result.to_dict(with_records=True),
        }


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
        standard_error=result.standard_error,
        kl_geometric=result.kl_geometric,
        kl_standard_error=result.kl_standard_error,
        greedy_agreement=result.greedy_agreement,
        **{name: getattr(result.calibration, name, None) for name in ("ece", "brier", "aurc", "auroc")},
        **rest,
    )


def _known(record: Mapping[str, Any]) -> Measured:
    """The row and the questions of a run's record; a failed one has no questions."""
    row, evaluation = ComparisonRow.from_dict(record["row"]), record.get("evaluation")
    if evaluation is None:
        return Measured(row, ())
    return Measured(row, (tuple(map(Record.from_dict, evaluation["records"])),))


def method_of(recipe: Recipe) -> str:
    """The quantizers of a recipe, in the order of its rules: what a method's colour in the picture stands
    for.
    """
    return "+".join(dict.fromkeys(rule.method for rule in recipe.rules if rule.quantizer != KEEP))


def _purpose_note(recipe: Recipe, true_bits: float) -> str:
    if recipe.true_bits is None or true_bits <= BITS_TOLERANCE * recipe.true_bits:
        return ""
    return (
        f"{recipe.name} is meant for about {recipe.true_bits:g} true bits and takes {true_bits:.2f} on this"
        " model's shapes"
    )


def _notes(rows: Sequence[ComparisonRow], shared: int, calibrated: int) -> tuple[str, ...]:
    """What the rows note, each once, and that calibration questions were asked too."""
    notes = dict.fromkeys(row.note for row in rows if row.note)
    if not shared:
        return tuple(notes)
    overlap = (
        f"{shared} of the {calibrated} calibration questions are among those that were asked; give the set a"
        " train split"
    )
    return (*notes, overlap)
