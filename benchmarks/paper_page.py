"""The page of paper_tables.py: for each of the paper's tables its printed numbers (data/paper), and below
them, in the same columns, what was measured.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bivlm.studies.cells import divergence, interval, made_by, markdown_table, number
from bivlm.studies.compare.result import FULL_PRECISION, Comparison, ComparisonRow, label_of
from bivlm.studies.compare.table import cells, columns_of, remarks
from bivlm.studies.prune.result import PruningStudy, grouped
from bivlm.types import PARTS, PartName

PAPER = Path(__file__).parent / "data" / "paper"
COLUMNS = {"AWQ": "awq-2:bits=1", "BiLLM": "billm-paper", "Bi-VLM": "bivlm-paper"}  # the paper's methods
OURS = ("bivlm-1", "trellis-1", "bivlm")  # what this package offers for as few bits
ABLATION = {  # the paper's steps; "" where no setting is that step alone
    "binarised": "bivlm-paper:bands=1,salient_max=0",
    "+ two-bit salient weights": "",
    "+ adaptive saliency": "bivlm-paper:bands=1",
    "+ several bands": "bivlm-paper",
}
NONE = "–"
LANGUAGE: tuple[PartName, ...] = ("language",)
DETAILS = {
    "preset": lambda row: row.preset,
    "parts": lambda row: "" if not row.parts else "all" if row.parts == PARTS else ", ".join(row.parts),
    " score": lambda row: "failed" if row.failure else number(row.accuracy, ".1%"),
    " 95 % interval": lambda row: "" if row.interval is None else interval(row.interval),
    " KL": lambda row: divergence(row.kl),
    " own count": lambda row: number(row.paper_bits, ".2f"),
    " true bits": lambda row: number(row.true_bits, ".2f"),
}


@dataclass(frozen=True)
class Asked:
    """One task: its rows, and its numbers as the paper prints such (a name for each, then one for each row's
    label).
    """

    title: str
    questions: int
    metric: str
    rows: tuple[ComparisonRow, ...]
    numbers: dict[str, dict[str, float]]

    def row(self, preset: str, parts: tuple[PartName, ...]) -> ComparisonRow | None:
        """The row of a packed model; None if it was not measured."""
        return next((row for row in self.rows if (row.preset, row.parts) == (preset, parts)), None)


@dataclass(frozen=True)
class Found:
    """All that was measured; `probe` is the task of ablation, parts and pruning."""

    model: str
    asked: tuple[Asked, ...]
    probe: str
    ablation: Comparison
    study: Comparison
    pruning: PruningStudy
    machine: str
    command: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON, with the paper's numbers."""
        printed = {name: paper_rows(name) for name in ("main", "pruning", "ablation", "cost")}
        measured = {**asdict(self), "pruning": self.pruning.to_dict()}
        return {"paper": {"source": "arXiv 2509.18763", **printed}, "measured": measured}


def paper_rows(name: str) -> list[dict[str, str]]:
    """The rows of one of the paper's tables, as printed."""
    with (PAPER / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def paper_markdown(found: Found) -> str:
    """The page."""
    lines = ["# The paper's tables, and ours next to them", "", *_introduction(found)]
    lines += _main(found, LANGUAGE) + _main(found, PARTS)
    lines += _parts(found) + _ablation(found) + _pruning(found) + _cost(found) + _details(found)
    return "\n".join([*lines, *made_by(found.machine, found.command)]) + "\n"


def _introduction(found: Found) -> list[str]:
    asked = ", ".join(f"{one.title} ({one.questions} questions)" for one in found.asked)
    presets = ", ".join(f"{name} is `{preset}`" for name, preset in COLUMNS.items())
    return [
        (
            'The paper: Wang et al., "Bi-VLM: Pushing Ultra-Low Precision Post-Training Quantization'
            ' Boundaries in Vision-Language Models", [arXiv 2509.18763](https://arxiv.org/abs/2509.18763).'
            " Its numbers are copied as printed (`benchmarks/data/paper`). The order of the tables is this"
            " page's."
        ),
        "",
        (
            "**The two are not comparable one to one.** The paper's models have 7 to 11 billion weights and"
            " were asked MME, MMMU, ScienceQA-IMG and VizWiz. The rows in bold are this package's, of the"
            f" model **{found.model}**, asked {asked}. They stand in the same columns so that it can be seen"
            " which differences come back, and what the bits are when everything that is stored counts."
        ),
        "",
        f"In the bold rows {presets}; {', '.join(f'`{name}`' for name in OURS)} are not in the paper.",
        "",
    ]


def _main(found: Found, parts: tuple[PartName, ...]) -> list[str]:
    """The main results for the language model alone, or for all parts."""
    alone = parts == LANGUAGE
    ending, words = ("language", "the language model alone") if alone else ("all", "all parts")
    heads = ("model", "benchmark", " full precision", *(f" {name}" for name in (*COLUMNS, *OURS)))
    rows = [
        [
            row["model"],
            row["benchmark"],
            row["full_precision"],
            *(row.get(f"{name.lower().replace('-', '')}_{ending}", NONE) for name in COLUMNS),
            *(NONE for _ in OURS),
        ]
        for row in paper_rows("main")
    ]
    presets = [*COLUMNS.values(), *OURS]
    labels = [FULL_PRECISION, *(label_of(preset, parts) for preset in presets)]
    for one in found.asked:
        for name, numbers in one.numbers.items():
            ours = (number(numbers.get(label), ".2f") or NONE for label in labels)
            rows.append(_bold([found.model, name, *ours]))
    own = [found.asked[0].row(preset, parts) for preset in presets]
    for what, field in (("bits, the method's own count", "paper_bits"), ("true bits", "true_bits")):
        bits = [NONE if row is None else number(getattr(row, field), ".2f") or NONE for row in own]
        rows.append(_bold([found.model, what, "16.00", *bits]))
    return [
        f"## Main results, {words}",
        "",
        "MME in points, the others in %; the last two rows are bits per packed weight.",
        "",
        *markdown_table(heads, rows),
        "",
    ]


def _parts(found: Found) -> list[str]:
    """Every combination of parts."""
    columns = columns_of(found.study)
    return [
        f"## Which parts bear it, {found.probe}",
        "",
        (
            "The paper packs every combination of parts too. Its finding, in words: the projector is"
            " insensitive, the language model the most sensitive, the vision tower in between. Its numbers"
            " for them are not copied here; the rows are all ours ([more of them](parts-study.md), of the"
            " embedded model)."
        ),
        "",
        *markdown_table(list(columns), (cells(row, columns) for row in found.study.rows), centred=PARTS),
        "",
        remarks(found.study)[0],
        "",
    ]


def _ablation(found: Found) -> list[str]:
    """The method step by step."""
    own = {row.preset: row for row in found.ablation.rows}
    rows = []
    for row in paper_rows("ablation"):
        ours = own.get(ABLATION[row["step"]])
        measured = [NONE] * 4
        if ours is not None:
            measured = [
                f"`{ours.preset}`",
                "failed" if ours.failure else number(ours.accuracy, ".1%"),
                number(ours.paper_bits, ".2f"),
                number(ours.true_bits, ".2f"),
            ]
        rows.append([row["step"], row["scienceqa"], *_bold(measured)])
    heads = ("step", " paper", "ours", f" {found.probe}", " own count", " true bits")
    return [
        "## What each step of the method brings",
        "",
        (
            "The paper: ScienceQA-IMG in % of Llama-3.2-11B-Vision, all parts. A share of salient weights"
            " that is not searched is no setting here, so its second step has no row of ours."
        ),
        "",
        *markdown_table(heads, rows),
        "",
    ]


def _pruning(found: Found) -> list[str]:
    """Accuracy by block and share of image tokens that stays."""
    study = found.pruning
    kept = {"13.7": "14", "15": "14"}  # printed for Llama and for Qwen
    shares = ("75", "50", "25", "14", "5", "1")
    printed: dict[tuple[str, str], dict[str, str]] = {}
    for row in paper_rows("pruning"):
        share = kept.get(row["kept_percent"], row["kept_percent"])
        printed.setdefault((row["model"], row["start_layer"]), {})[share] = row["scienceqa"]
    rows = [
        [model, "ScienceQA-IMG", layer, NONE, *(numbers.get(share, NONE) for share in shares)]
        for (model, layer), numbers in printed.items()
    ]
    for _, group in grouped(study.cells):
        numbers = {f"{100 * cell.keep:.0f}": f"{100 * cell.accuracy:.2f}" for cell in group}
        ours = [numbers.get(share, NONE) for share in shares]
        whole = f"{100 * study.accuracy:.2f}"
        rows.append(_bold([found.model, found.probe, str(group[0].layer), whole, *ours]))
    return [
        "## Image tokens dropped inside the quantized language model",
        "",
        (
            "Score in % by the block from which on tokens are dropped, and the share that stays (14: the"
            " paper has 13.7 for Llama and 15 for Qwen). Models packed by Bi-VLM, tokens ranked by"
            f" attention; the bold rows by `bivlm prune`, {study.visual_tokens} image tokens in a prompt,"
            f" {study.questions} questions."
        ),
        "",
        *markdown_table(("model", "questions", " block", " all", *(f" {share} %" for share in shares)), rows),
        "",
    ]


def _cost(found: Found) -> list[str]:
    """Bits as they are counted and as they are stored, and the paper's time of packing."""
    rows = []
    printed = {row["method"]: row for row in paper_rows("cost")}
    for name in (*COLUMNS, *OURS):
        ours = found.asked[0].row(COLUMNS.get(name, name), PARTS)
        theirs = printed.get(name, {"bits": "", "minutes_11b": ""})
        measured = [NONE, NONE]
        if ours is not None and not ours.failure:
            measured = [number(bits, ".2f") or NONE for bits in (ours.paper_bits, ours.true_bits)]
        rows.append([name, theirs["minutes_11b"] or NONE, theirs["bits"] or NONE, *_bold(measured)])
    heads = ("method", " paper: minutes", " paper: bits", " ours: own count", " ours: true bits")
    return [
        "## Bits and time",
        "",
        (
            "The paper counts neither the band of a weight nor the places of the salient ones (Eq. 24-26)."
            " True bits: stored bytes of the packed weights × 8 / weights, everything counted; ours are those"
            " of all parts. Minutes are those of the 11B model on the authors' hardware. Our seconds are in"
            " paper.json (`quantize_seconds`), and not here: they are wall time, whatever else the machine"
            " did."
        ),
        "",
        *markdown_table(heads, rows),
        "",
    ]


def _details(found: Found) -> list[str]:
    """Every row of ours with its interval."""
    lines: list[str] = []
    for one in found.asked:
        lines += [
            f"## Ours: {one.title}, {one.questions} questions ({one.metric})",
            "",
            *markdown_table(list(DETAILS), ([cell(row) for cell in DETAILS.values()] for row in one.rows)),
            "",
        ]
        lines += [f"failed: {row.label}: {row.failure}\n" for row in one.rows if row.failure]
    return lines


def _bold(row: Sequence[str]) -> list[str]:
    """A row of ours."""
    return [cell if cell in ("", NONE) else f"**{cell}**" for cell in row]
