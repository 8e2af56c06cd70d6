"""Tables for the terminal, one function per kind of result; the numbers come as dataclasses and are only laid
out here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from bivlm.errors import cut
from bivlm.studies.cells import Columns, divergence, interval, number, rich_table, size

if TYPE_CHECKING:
    from bivlm.doctor import Diagnosis
    from bivlm.eval.embedding.run import EmbeddingResult
    from bivlm.eval.groups import GroupScore
    from bivlm.eval.inspection import Inspection
    from bivlm.eval.run import EvalResult
    from bivlm.eval.structure import StructureReport
    from bivlm.job.preflight import Preflight
    from bivlm.job.presets import Preset
    from bivlm.job.recipe import Recipe

BITS = ".3f"  # of bits per weight
MOST_GROUPS = 24  # rows of a table of groups


def preflight_table(expected: Preflight, recipe: Recipe, seconds: Mapping[str, float]) -> Table:
    """The plan of a job; `seconds` is the time that it is expected to take, by part, empty if nobody
    knows.
    """
    caption = (
        f"at most {size(expected.bytes_after)} on the disk (now {size(expected.bytes_before)}), about"
        f" {size(expected.memory_bytes)} of memory; {expected.kept_share:.1%} of the model's bytes stay in"
        f" full precision{_time_line(seconds)}"
    )
    table = rich_table(
        f"recipe {recipe.name}",
        ("part", "what happens", " linears", " weights", " bits ≤"),
        caption,
        expendable=(" linears", " weights"),
    )
    for row in expected.rows:
        table.add_row(row.part, row.treatment, str(row.linears), f"{row.weights:,}", number(row.bits, BITS))
    return table


def _time_line(seconds: Mapping[str, float]) -> str:
    """How long a job is expected to take, and what takes a tenth of it or more."""
    total = sum(seconds.values())
    if not seconds:
        return ""
    parts = [f"{name} {duration(value)}" for name, value in seconds.items() if value >= max(0.1 * total, 1)]
    told = f" ({', '.join(parts)})" if len(parts) > 1 else ""
    return f"; about {duration(total)} on this machine{told}"


def duration(seconds: float) -> str:
    """Seconds up to two minutes, minutes up to two hours, then hours."""
    if seconds < 120:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def inspection_table(inspection: Inspection, *, layers: bool) -> Table:
    before, after = inspection.folder_bytes_before, inspection.folder_bytes_after
    caption = f"whole folder: {size(before)} before, {size(after)} now ({after / before:.1%})"
    if inspection.kept_share is not None:
        caption += f"; {inspection.kept_share:.1%} of the model's bytes stayed in full precision"
    if split := {parts: count for parts, count in inspection.blocks.items() if parts > 1}:
        counts = ", ".join(f"{count} linears in {parts}" for parts, count in split.items())
        caption += f"; inputs can be split among devices: {counts}"
    columns = ("", " linears", " weights", " before", " now", " true bits", " paper bits")
    less = (" paper bits", " linears", " before", " weights")
    table = rich_table(f"recipe {inspection.recipe}", columns, caption, expendable=less)
    groups = [inspection.layers] if layers else []
    for group in [*groups, inspection.parts, (inspection.total,)]:
        for row in group:
            before_now = (size(row.bytes_before), size(row.bytes_after))
            table.add_row(
                row.name,
                str(row.linears),
                f"{row.weights:,}",
                *before_now,
                number(row.bits_per_weight, BITS),
                number(row.paper_bits, BITS),
            )
        table.add_section()
    return table


def experts_table(inspection: Inspection) -> Table:
    """The packed experts, layer by layer."""
    columns = ("", " experts", " weights", " true bits", " fewest", " most", " tokens", " median", " most")
    caption = (
        "bits of an expert's linear and calibration tokens of an expert: the fewest and the most of a layer"
    )
    table = rich_table("experts", columns, caption)
    for row in inspection.experts:
        bits = (row.bits_per_weight, row.fewest_bits, row.most_bits)
        tokens = (row.fewest_tokens, row.median_tokens, row.most_tokens)
        table.add_row(
            row.name,
            str(row.experts),
            f"{row.weights:,}",
            *(number(value, BITS) for value in bits),
            *(number(value, ".0f") for value in tokens),
        )
    return table


def profile_table(seconds: Mapping[str, float]) -> Table:
    """Where the time of a job went: its parts, the longest first."""
    whole = sum(seconds.values())
    table = rich_table("where the time went", ("part", " seconds", " share"), f"{whole:.1f} s in all")
    for name, spent in sorted(seconds.items(), key=lambda one: -one[1]):
        table.add_row(name, number(spent, ".1f"), number(spent / whole, ".1%"))
    return table


def structure_tables(report: StructureReport) -> tuple[Table, ...]:
    """One table with the weights by place, one with what else was found."""
    structure = report.structure
    caption = f"{report.weights:,} weights, of which {report.packable:.1%} can be packed"
    columns = ("part", "path", " blocks", " weights", " share", "full precision because")
    weights = rich_table(
        f"{structure.model_type}, found with {structure.inputs}",
        columns,
        caption,
        expendable=(" share", " blocks"),
    )
    for row in report.rows:
        blocks = "" if row.blocks is None else str(row.blocks)
        weights.add_row(row.what, row.name, blocks, f"{row.weights:,}", f"{row.share:.1%}", row.reason)
    more = rich_table("", ("found", ""))
    token = structure.image_token_id
    more.add_row("visual token", "none: the image enters elsewhere" if token is None else str(token))
    more.add_row("embedding and head", "share their weight" if structure.tied else "have their own weights")
    more.add_row("declaration", "there is one, and it is used" if report.declared else "none; this is used")
    seen = structure.patches
    more.add_row(
        "patches",
        (
            "cannot be dropped in the tower"
            if seen is None
            else (
                f"{seen.tokens.fold} x {seen.tokens.fold} become a visual token; they can be dropped in the"
                " tower"
            )
        ),
    )
    for group in structure.shared:
        more.add_row("linears with the same input", "\n".join(group))
    for stack in structure.stacks:
        if stack.visual_linears:
            more.add_row("linears that see the image alone", "\n".join(stack.visual_linears))
    for note in structure.notes:
        more.add_row("note", note)
    return weights, more


RESULT: Columns = {
    "model": lambda row: row[0],
    " accuracy": lambda row: f"{row[1].accuracy:.2%}",
    " 95 % interval": lambda row: interval(row[1].interval),
    " KL (nats)": lambda row: divergence(row[1].kl),
    " geometric KL": lambda row: divergence(row[1].kl_geometric),
    " top-1 agreement": lambda row: number(row[1].top1_agreement, ".1%"),
    " same answers": lambda row: number(row[1].greedy_agreement, ".1%"),
}
CONFIDENCE: Columns = {
    f" {head}": lambda row, name=name: number(
        None if row[1].calibration is None else getattr(row[1].calibration, name), ".3f"
    )
    for head, name in {
        "ECE": "ece",
        "Brier": "brier",
        "AURC": "aurc",
        "AUROC": "auroc",
        "uncertainty S": "uncertainty_correlation",
        "R²": "uncertainty_r2",
    }.items()
}


def result_tables(name: str, result: EvalResult, *, confidence: bool) -> tuple[Table, ...]:
    """A table with the numbers of all questions, with `confidence` also those of the model's confidence; one
    with the groups of questions where there are any; and one with what the scorer says beyond these. Columns
    without a number are left out.
    """
    row = (name, result)
    columns = {**RESULT, **(CONFIDENCE if confidence else {})}
    cells = {head: text for head, cell in columns.items() if (text := cell(row))}
    caption = f"{result.n} questions, {result.metric}, {result.seconds:.1f} s"
    if result.pruning is not None:
        caption += f"; visual tokens dropped: {result.pruning}"
    less = (*reversed([*CONFIDENCE]), " top-1 agreement", " same answers", " geometric KL", " 95 % interval")
    table = rich_table("", cells, caption, expendable=less)
    table.add_row(*cells.values())
    tables = [table, *([groups_table(result.groups)] if result.groups else [])]
    told = {group.group: group.accuracy for group in result.groups}
    beyond = {what: value for what, value in result.aggregates.items() if told.get(what) != value}
    if beyond:
        more = rich_table("", (result.metric, " "))
        for what, value in beyond.items():
            more.add_row(escape(cut(what)), f"{value:.4g}")
        tables.append(more)
    return tuple(tables)


def embedding_tables(name: str, result: EmbeddingResult) -> tuple[Table, ...]:
    """One table with what a search found, one with the distance from the reference; those there are."""
    what = f"{result.items} items, {result.dimensions} dimensions, {result.pooling}, {result.seconds:.1f} s"
    if result.non_finite:
        what += f"; {result.non_finite} vectors are NaN or infinite"
    tables = []
    found, near = result.retrieval, result.closeness
    if found is not None:
        hits = {f" hit@{k}": f"{value:.1%}" for k, value in found.hits.items()}
        first = interval(found.hit_intervals[1])
        cells = {"model": name, **hits, " MRR": f"{found.mrr:.3f}", " nDCG@5": f"{found.ndcg:.3f}"}
        caption = f"{found.queries} queries, {found.documents} documents; hit@1 {first}; {what}"
        table = rich_table("", cells, caption, expendable=(" hit@10", " hit@5"))
        table.add_row(*cells.values())
        tables.append(table)
    if near is not None:
        low, high = near.drift_interval
        cells = {
            "model": name,
            " drift": divergence(near.drift),
            " 95 % interval": f"{low:.1e} to {high:.1e}",
        }
        cells[" largest"] = divergence(near.largest_drift)
        if near.agreement is not None:
            cells[f" same {near.neighbours} nearest"] = f"{near.agreement:.1%}"
        table = rich_table("", cells, "1 - cosine with the reference's vectors" if found else what)
        table.add_row(*cells.values())
        tables.append(table)
    return tuple(tables)


def groups_table(groups: Sequence[GroupScore]) -> Table:
    """The lowest scores by group of questions; a group that is not shown is in the JSON."""
    hidden = len(groups) - MOST_GROUPS
    caption = f"the lowest {MOST_GROUPS} of {len(groups)} groups; --json has all" if hidden > 0 else ""
    table = rich_table("", ("group", " questions", " accuracy", " 95 % interval"), caption)
    for row in groups[:MOST_GROUPS]:
        name = escape(cut(row.group)) if row.group else "(none)"
        table.add_row(name, str(row.n), f"{row.accuracy:.1%}", interval(row.interval))
    return table


def presets_table(presets: Sequence[Preset]) -> Table:
    """By rising bits. True bits are a preset's target for linears of a thousand columns and more; in narrower
    linears scales cost more.
    """
    table = rich_table("", ("preset", " true bits", "needs data", "what it is"))
    for preset in sorted(presets, key=lambda preset: (preset.true_bits or 0.0, preset.name)):
        bits = "" if preset.true_bits is None else f"{preset.true_bits:g}"
        table.add_row(preset.name, bits, "yes" if preset.needs_data else "no", preset.description)
    return table


def doctor_tables(found: Diagnosis) -> tuple[Table, ...]:
    """One table with what was found, one with the kernels on the CPU, one with those on other devices, and,
    if a model was given, one about the model.
    """
    machine = rich_table("", ("found", ""))
    rows = {
        "native library": found.library,
        "instruction set": found.instruction_set or "none in use",
        "processor": found.processor,
        "threads": str(found.threads),
        "memory": f"{size(found.memory_bytes)}, {size(found.memory_available_bytes)} of it free",
        **found.versions,
        **{name: version or "not installed" for name, version in found.extras.items()},
    }
    for name, value in rows.items():
        machine.add_row(name, value)
    kernels = rich_table("kernels on the CPU", ("format", "kernel", "why"))
    for row in found.kernels:
        kernels.add_row(row.format, row.kernel, row.why)
    devices = rich_table("kernels on other devices", ("device", "", "kernel", "why"))
    for row in found.devices:
        devices.add_row(row.device, row.name, row.kernel, row.why)
    if found.model is None:
        return machine, kernels, devices
    linears = rich_table(f"linears of {found.model}, on the CPU", ("format", "kernel", " linears", "why"))
    for row in found.linears:
        linears.add_row(row.format, row.kernel, str(row.linears), row.why)
    return machine, kernels, devices, linears
