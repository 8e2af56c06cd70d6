"""The tables of the Bi-VLM paper (arXiv 2509.18763), and next to its printed numbers what this package
measures for the same cells: docs/results/paper.md and paper.json, from one command.

    python benchmarks/paper_tables.py --questions 400
    python benchmarks/paper_tables.py --model MODEL --task scienceqa --data ScienceQA --task mme --data MME

Without --task the embedded model is asked easy-VQA. Parts, ablation and pruning are measured on ScienceQA, as
in the paper, or on the first task if it is not among them. --work keeps the runs, to continue in.
"""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from bivlm.checkpoint.hub import resolve_model
from bivlm.checkpoint.source import SourceModel
from bivlm.cli.progress import Shown
from bivlm.cli.shared import quiet_libraries
from bivlm.data.samples import read_samples
from bivlm.errors import InputError
from bivlm.eval.tasks import TASKS, samples_of_task, task_named
from bivlm.job.recipe import load_recipe
from bivlm.job.run import quantize
from bivlm.job.samples import samples_for
from bivlm.pruning.settings import sweep
from bivlm.studies.compare.folder import run_name
from bivlm.studies.compare.result import FULL_PRECISION, Comparison, ComparisonRow
from bivlm.studies.compare.run import compare_presets
from bivlm.studies.page import write_result
from bivlm.studies.prune.result import PruningStudy
from bivlm.studies.prune.run import study_pruning
from bivlm.studies.study import RunSettings
from bivlm.types import PARTS, Sample
from bivlm.zoo import embedded_model
from machine import describe
from paper_page import ABLATION, COLUMNS, OURS, Asked, Found, paper_markdown

RESULTS = Path(__file__).parent.parent / "docs" / "results"
EASY = "easy-vqa"
CALIBRATION_SAMPLES = 32
PRUNED = "bivlm-paper"  # the model whose tokens are dropped
STUDIED = ("bivlm-paper",)  # packed in every combination of parts
LAYERS, KEEPS = (2, 10), (0.75, 0.5, 0.25, 0.14, 0.05, 0.01)  # the paper's
SUMS = {"perception": "MME-perception", "cognition": "MME-cognition"}  # what the paper prints of MME
TITLES = {"VizWiz": "VizWiz-VQA"}


@dataclass(frozen=True)
class Questions:
    """The questions of one task, how they are asked, and what calibrates."""

    title: str
    samples: Sequence[Sample]
    calibration: Sequence[Sample]
    settings: RunSettings
    work: Path


def main(
    model: Annotated[str | None, typer.Option(help="model folder or hub id; left out: embedded")] = None,
    task: Annotated[list[str] | None, typer.Option(help=f"any of {', '.join(TASKS)}; repeatable")] = None,
    data: Annotated[list[str] | None, typer.Option(help="where each task's data lie, in the order")] = None,
    questions: Annotated[int | None, typer.Option(help="test questions of each task; left out: all")] = None,
    layers: Annotated[str, typer.Option(help="blocks from which on tokens are dropped")] = "",
    batch_size: Annotated[int, typer.Option(help="questions answered at a time")] = 32,
    out: Annotated[Path, typer.Option(help="folder for paper.md and paper.json")] = RESULTS,
    work: Annotated[Path | None, typer.Option(help="folder for the runs; left out: temporary")] = None,
) -> None:
    """Measure every cell, and write the page."""
    quiet_libraries()
    pairs = pairs_of(task or [], data or [])
    folder = resolve_model(model or embedded_model())
    command = command_of(model, pairs, questions, layers)
    with tempfile.TemporaryDirectory(prefix="bivlm-paper-") as temporary, Shown() as events:
        place = work or Path(temporary)
        settings = RunSettings(batch_size, command=command, events=events)
        asked = [questions_of(folder, *pair, questions, settings, place) for pair in pairs]
        found = measured(folder, asked, [int(layer) for layer in layers.split(",") if layer], place)
    found = replace(found, command=command)
    write_result(out, "paper", found.to_dict(), paper_markdown(found), None)
    print(f"{out / 'paper.md'}")


def pairs_of(tasks: Sequence[str], data: Sequence[str]) -> list[tuple[str, str]]:
    """Every task with its data; easy-VQA without any. InputError if one has no other."""
    if len(tasks) != len(data):
        raise InputError(
            f"there are {len(tasks)} --task and {len(data)} --data; give one --data for each --task"
        )
    return list(zip(tasks, data, strict=True)) or [(EASY, EASY)]


def command_of(
    model: str | None, pairs: Sequence[tuple[str, str]], questions: int | None, layers: str
) -> str:
    """The command that makes the page, without the folders of this machine."""
    words = ["python", "benchmarks/paper_tables.py"]
    words += [] if model is None else ["--model", Path(model).name]
    for task, data in pairs:
        words += [] if task == EASY else ["--task", task, "--data", Path(data).name]
    words += [] if questions is None else ["--questions", str(questions)]
    return shlex.join([*words, *(["--layers", layers] if layers else [])])


def questions_of(
    model: Path, task: str, data: str, limit: int | None, settings: RunSettings, work: Path
) -> Questions:
    """What is asked of one task, and what calibrates: easy-VQA's own training questions, the built-in set
    for a benchmark.
    """
    if task == EASY:
        samples = read_samples(EASY, split="test", limit=limit)
        calibration = read_samples(EASY, split="train", limit=CALIBRATION_SAMPLES)
        return Questions("easy-VQA", samples, calibration, replace(settings, max_new_tokens=4), work / task)
    benchmark = task_named(task)
    samples = samples_of_task(benchmark, data, limit=limit, events=settings.events)
    how = replace(settings, max_new_tokens=benchmark.max_new_tokens, scorer=benchmark.scorer)
    calibration = samples_for(SourceModel(model), CALIBRATION_SAMPLES, 0)
    return Questions(benchmark.title, samples, calibration, how, work / task)


def measured(model: Path, tasks: Sequence[Questions], layers: Sequence[int], work: Path) -> Found:
    """Everything that the page shows. Runs that `work` has are not repeated."""
    presets = [*COLUMNS.values(), *OURS]
    asked = []
    for one in tasks:
        compared = [compared_on(model, one, presets, parts=parts) for parts in (("language",), PARTS)]
        asked.append(asked_of(one, compared))
    probe = next((one for one in tasks if one.title == TASKS["scienceqa"].title), tasks[0])
    ablation = compared_on(model, probe, [preset for preset in ABLATION.values() if preset], parts=PARTS)
    study = compared_on(model, probe, STUDIED, parts_study=True)
    return Found(
        model=ablation.model,
        asked=tuple(asked),
        probe=probe.title,
        ablation=ablation,
        study=study,
        pruning=pruned(model, probe, layers or layers_of(model), work),
        machine=describe(),
    )


def compared_on(model: Path, asked: Questions, presets: Sequence[str], **how: Any) -> Comparison:
    """Presets on the questions of one task; they share the runs of the task's folder."""
    return compare_presets(
        model,
        [load_recipe(preset) for preset in presets],
        asked.work,
        samples=asked.samples,
        calibration=asked.calibration,
        settings=asked.settings,
        **how,
    )


def asked_of(one: Questions, compared: Sequence[Comparison]) -> Asked:
    """The rows of a task, and each of its numbers as the paper prints it."""
    rows = {(row.preset, row.parts): row for found in compared for row in found.rows}
    numbers: dict[str, dict[str, float]] = {}
    for row in rows.values():
        for name, number in printed(one, row).items():
            numbers.setdefault(name, {})[row.label] = number
    return Asked(one.title, compared[0].questions, compared[0].metric, tuple(rows.values()), numbers)


def printed(one: Questions, row: ComparisonRow) -> dict[str, float]:
    """The numbers of a row: the sums of MME, or the mean score in per cent; none of a failed row."""
    if row.failure or row.accuracy is None:
        return {}
    if one.settings.scorer != "mme":
        return {TITLES.get(one.title, one.title): 100 * row.accuracy}
    name = "full-precision" if row.preset == FULL_PRECISION else run_name(row.preset, row.parts)
    record = json.loads((one.work / "runs" / f"{name}.json").read_text(encoding="utf-8"))
    sums = record["evaluation"]["aggregates"]
    return {title: sums[name] for name, title in SUMS.items() if name in sums}


def layers_of(model: Path) -> list[int]:
    """The paper's blocks; the middle one in place of one that the model does not have."""
    depth = SourceModel(model).config.get_text_config().num_hidden_layers
    return sorted({layer if layer < depth else depth // 2 for layer in LAYERS})


def pruned(model: Path, probe: Questions, layers: Sequence[int], work: Path) -> PruningStudy:
    """Image tokens dropped inside the language model of the packed model, by their attention."""
    packed = work / f"packed-{PRUNED}"
    quantize(model, packed, recipe=PRUNED)
    return study_pruning(
        packed,
        sweep(("attention",), ("language",), list(layers), list(KEEPS), "image"),
        work / "pruning",
        samples=probe.samples,
        reference=model,
        settings=probe.settings,
    )


if __name__ == "__main__":
    typer.run(main)
