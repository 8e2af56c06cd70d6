"""The weights of a full-precision model, linear by linear: their distribution, their outliers, and what a
salient tail gains.

    model folder ─► plan of the preset `bivlm-paper` ─► one linear after the other from the shards
        ─► OUT/analysis.png, .md, .json

What Bi-VLM (arXiv 2509.18763) shows in its figures 1 and 3-8, for every linear that would be packed, as the
model computes with it (in its dtype). `weight_statistics.py` says what each number is. No more than one
weight is in memory at a time.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bivlm.checkpoint.hub import resolve_model
from bivlm.checkpoint.shards import write_atomically
from bivlm.checkpoint.source import SourceModel
from bivlm.errors import InputError
from bivlm.job.plan import BlockPlan, LinearPlan, Plan, make_plan
from bivlm.job.recipe import load_recipe
from bivlm.machine import machine, machine_line
from bivlm.quantizers.bivlm import BiVLM
from bivlm.quantizers.steps.salient import SalientLevels
from bivlm.studies.analyze import weight as one_weight
from bivlm.studies.analyze.plot import analysis_plot
from bivlm.studies.analyze.table import analysis_markdown
from bivlm.studies.analyze.weight import SaliencyCurve, WeightStatistics
from bivlm.studies.compare.plot import require_matplotlib
from bivlm.types import PARTS, PartName

PRESET = "bivlm-paper"  # its rules have the paper's largest salient share of each part
NAMES = ("analysis.png", "analysis.md", "analysis.json")
OnProgress = Callable[[str, int, int], None]  # what is going on, how much of it is done, of how much


@dataclass(frozen=True)
class LinearAnalysis:
    """One linear. `depth` counts the blocks of its part; `kind` is its name within a block, as short as tells
    it from the others of its part.
    """

    name: str
    part: PartName
    depth: int
    kind: str
    shape: tuple[int, int]
    statistics: WeightStatistics
    salient_max: float
    saliency: tuple[SaliencyCurve, ...]

    @property
    def weights(self) -> int:
        return self.shape[0] * self.shape[1]

    def curve(self, bands: int, levels: SalientLevels) -> SaliencyCurve:
        return next(curve for curve in self.saliency if (curve.bands, curve.levels) == (bands, levels))


@dataclass(frozen=True)
class SaliencySummary:
    """Medians over the linears of a part: J without a tail, the share where J is lowest, and the gain there,
    1 - J / J(0).
    """

    bands: int
    levels: SalientLevels
    error: float
    best_share: float
    gain: float


@dataclass(frozen=True)
class PartSummary:
    """The linears of a part together. `kl` and `kurtosis` are medians, outliers shares of all weights; None
    where every weight is one number.
    """

    part: PartName
    linears: int
    weights: int
    salient_max: float
    kl: float | None
    largest_kl: float | None
    kurtosis: float | None
    outliers: tuple[float, ...] | None
    largest: float | None
    saliency: tuple[SaliencySummary, ...]


@dataclass(frozen=True)
class Analysis:
    """Every linear that would be packed, in the order in which the model runs them, and how this was made."""

    model: str
    linears: tuple[LinearAnalysis, ...]
    seconds: float
    machine: str
    command: str

    @property
    def parts(self) -> tuple[PartSummary, ...]:
        return tuple(_summary(part, self.of_part(part)) for part in PARTS if self.of_part(part))

    def of_part(self, part: PartName) -> tuple[LinearAnalysis, ...]:
        return tuple(linear for linear in self.linears if linear.part == part)

    def least_gaussian(self, count: int) -> list[LinearAnalysis]:
        """The linears of the largest divergences, the largest first."""
        told = [linear for linear in self.linears if linear.statistics.kl is not None]
        return sorted(told, key=lambda linear: -(linear.statistics.kl or 0.0))[:count]

    def to_dict(self) -> dict[str, Any]:
        parts, linears = [asdict(part) for part in self.parts], [asdict(linear) for linear in self.linears]
        for entry in (*parts, *linears):
            entry["salient_shares"] = one_weight.saliency_shares(entry["salient_max"])
        return {
            "model": self.model,
            "histogram_bins": {
                "range": one_weight.RANGE,
                "width": one_weight.BIN_WIDTH,
                "count": one_weight.BINS + 2,
            },
            "outliers_beyond": one_weight.OUTLIERS,
            "parts": parts,
            "linears": linears,
            "seconds": self.seconds,
            "machine": self.machine,
            "command": self.command,
        }


def _summary(part: PartName, linears: tuple[LinearAnalysis, ...]) -> PartSummary:
    told = [linear.statistics for linear in linears if linear.statistics.kl is not None]
    divergences = [found.kl or 0.0 for found in told]
    saliency = []
    for levels in one_weight.LEVELS:
        for bands in one_weight.BANDS:
            curves = [linear.curve(bands, levels) for linear in linears]
            gains = [1 - curve.best_error / curve.errors[0] for curve in curves if curve.errors[0] > 0]
            best = median(curve.best_share for curve in curves)
            saliency.append(
                SaliencySummary(
                    bands,
                    levels,
                    median(curve.errors[0] for curve in curves),
                    best,
                    median(gains) if gains else 0.0,
                )
            )
    return PartSummary(
        part,
        len(linears),
        sum(linear.weights for linear in linears),
        linears[0].salient_max,
        kl=median(divergences) if told else None,
        largest_kl=max(divergences, default=None),
        kurtosis=median(found.kurtosis or 0.0 for found in told) if told else None,
        outliers=one_weight.pooled_outliers(told),
        largest=max((found.largest or 0.0 for found in told), default=None),
        saliency=tuple(saliency),
    )


def analyze(
    model: str | Path,
    out: str | Path,
    *,
    command: str = "",
    on_progress: OnProgress = lambda what, done, total: None,
) -> Analysis:
    """Measure the weights of `model` (a folder or hub id) and write picture, tables and numbers into the
    folder `out`.

    `command` is what the tables say that they were made by. Nothing is written before everything is measured;
    an analysis that is in `out` already is replaced. Raises InputError for whatever the user has to mend.
    """
    started, out = time.perf_counter(), Path(out)
    require_matplotlib()
    check_out(out)
    source = SourceModel(resolve_model(model))
    plan = make_plan(source, load_recipe(PRESET), PARTS)
    linears = _linears(source, plan, on_progress)
    found = Analysis(
        source.folder.resolve().name, linears, time.perf_counter() - started, machine_line(machine()), command
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_analysis(found, out)
    except OSError as error:
        raise InputError(
            f"{out} cannot be written ({error.strerror}); make room, or give --out a folder that can be"
            " written"
        ) from error
    return found


def check_out(out: Path) -> None:
    """InputError when `out` is a file, holds what no analysis wrote, or cannot be written."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; --out is a folder for the analysis")
    known = {*NAMES, *(f"{name}.writing" for name in NAMES)}
    foreign = sorted(path.name for path in out.iterdir() if path.name not in known) if out.exists() else []
    if foreign:
        raise InputError(f"{out} holds files that no analysis wrote ({foreign[0]}); give --out a new folder")
    nearest = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(
            f"{out} cannot be made, because {nearest} is no folder that can be written; give --out another"
            " folder"
        )


def write_analysis(found: Analysis, out: Path) -> None:
    """The three files, each the old one or the whole new one; the numbers last."""
    picture, page, numbers = (out / name for name in NAMES)
    analysis_plot(found, picture)
    write_atomically(page, analysis_markdown(found, picture=picture.name))
    write_atomically(
        numbers, json.dumps(found.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    )


def _linears(source: SourceModel, plan: Plan, on_progress: OnProgress) -> tuple[LinearAnalysis, ...]:
    """Every linear that the plan packs, measured one after the other."""
    parts: list[PartName] = [source.family.stacks[block.stack].part for block in plan.blocks]
    kinds = {
        part: _kinds([block for block, of in zip(plan.blocks, parts, strict=True) if of == part])
        for part in PARTS
    }
    total, done, depth = (
        sum(len(block.quantized) for block in plan.blocks),
        0,
        dict[PartName, int].fromkeys(PARTS, 0),
    )
    linears = []
    for block, part in zip(plan.blocks, parts, strict=True):
        for linear in block.quantized:
            on_progress(linear.name, done, total)
            linears.append(_linear(source, linear, part, depth[part], kinds[part][linear.name]))
            done += 1
        depth[part] += 1
    on_progress("drawing", done, total)
    return tuple(linears)


def _linear(source: SourceModel, linear: LinearPlan, part: PartName, depth: int, kind: str) -> LinearAnalysis:
    quantizer = linear.quantizer
    if not isinstance(quantizer, BiVLM):
        raise TypeError(f"preset {PRESET} packs {linear.name} with another quantizer")
    name = f"{linear.name}.weight"
    weight = source.read([name], copy=False)[name].to(source.dtype).float()
    curves = one_weight.saliency_curves(
        weight, quantizer.salient_max, rounds=quantizer.rounds, alpha=quantizer.alpha
    )
    return LinearAnalysis(
        linear.name,
        part,
        depth,
        kind,
        linear.shape,
        one_weight.statistics(weight),
        quantizer.salient_max,
        curves,
    )


def _kinds(blocks: Sequence[BlockPlan]) -> dict[str, str]:
    """A kind for each linear of a part: the end of its path within its block that no other path of the part's
    blocks has, beginning with a word.
    """
    paths = {}
    for block in blocks:
        for linear in block.quantized:
            paths[linear.name] = (
                linear.name.removeprefix(block.path).removeprefix(".") or block.path.rpartition(".")[2]
            )
    distinct = {path: _shortest(path, set(paths.values()) - {path}) for path in set(paths.values())}
    return {name: distinct[path] for name, path in paths.items()}


def _shortest(path: str, others: set[str]) -> str:
    words = path.split(".")
    for count in range(1, len(words)):
        end = words[-count:]
        if not end[0].isdigit() and all(other.split(".")[-count:] != end for other in others):
            return ".".join(end)
    return path
