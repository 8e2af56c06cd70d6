"""The weights of a full-precision model, linear by linear: their distribution, their outliers, and what a
salient tail gains.

    model folder ─► plan of the preset `bivlm-paper` ─► one linear after the other from the shards
        ─► Analysis

What Bi-VLM (arXiv 2509.18763) shows in its figures 1 and 3-8, for every linear that would be packed, as the
model computes with it (in its dtype). `weight.py` says what each number is. No more than one weight is in
memory at a time. `page.write_page` makes tables and plots of the result.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from bivlm.checkpoint.hub import resolve_model
from bivlm.checkpoint.source import SourceModel
from bivlm.events import Events
from bivlm.job.plan import BlockPlan, LinearPlan, Plan, make_plan
from bivlm.job.recipe import load_recipe
from bivlm.machine import machine, machine_line
from bivlm.quantizers.bivlm import BiVLM
from bivlm.studies.analyze.result import Analysis, LinearAnalysis
from bivlm.studies.analyze.weight import saliency_curves, statistics
from bivlm.studies.study import DEFAULT_SETTINGS, RunSettings
from bivlm.types import PARTS, PartName

PRESET = "bivlm-paper"  # its rules have the paper's largest salient share of each part


def analyze(model: str | Path, *, settings: RunSettings = DEFAULT_SETTINGS) -> Analysis:
    """Measure the weights of `model` (a folder or hub id). Of the settings it takes the command, the
    events, and whether the folder's code may be run.

    Raises InputError for what the user has to put right: no model, one that is packed, a damaged weight.
    """
    started = time.perf_counter()
    trusted = settings.trust_remote_code
    source = SourceModel(resolve_model(model, trusted), trust_remote_code=trusted)
    plan = make_plan(source, load_recipe(PRESET), PARTS)
    linears = _linears(source, plan, settings.events)
    return Analysis(
        source.folder.resolve().name,
        linears,
        time.perf_counter() - started,
        machine_line(machine()),
        settings.command,
    )


def _linears(source: SourceModel, plan: Plan, events: Events) -> tuple[LinearAnalysis, ...]:
    """Every linear that the plan packs, measured one after the other."""
    parts: list[PartName] = [source.family.stacks[block.stack].part for block in plan.blocks]
    kinds = {
        part: _kinds([block for block, of in zip(plan.blocks, parts, strict=True) if of == part])
        for part in PARTS
    }
    total = sum(len(block.quantized) for block in plan.blocks)
    depth = dict[PartName, int].fromkeys(PARTS, 0)
    linears: list[LinearAnalysis] = []
    for block, part in zip(plan.blocks, parts, strict=True):
        for linear in block.quantized:
            linears.append(_linear(source, linear, part, depth[part], kinds[part][linear.name]))
            events.progress("linears", len(linears), total)
        depth[part] += 1
    return tuple(linears)


def _linear(source: SourceModel, linear: LinearPlan, part: PartName, depth: int, kind: str) -> LinearAnalysis:
    quantizer = linear.quantizer
    if not isinstance(quantizer, BiVLM):
        raise TypeError(f"preset {PRESET} packs {linear.name} with another quantizer")
    name = f"{linear.name}.weight"
    weight = source.read([name], copy=False)[name].to(source.dtype).float()
    curves = saliency_curves(weight, quantizer.salient_max, rounds=quantizer.rounds, alpha=quantizer.alpha)
    return LinearAnalysis(
        linear.name,
        part,
        depth,
        kind,
        linear.shape,
        statistics(weight),
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
