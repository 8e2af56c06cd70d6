"""The page of bench_embedding: its tables from rows, with paired tests."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from bivlm.eval.statistics.draws import OverDraws, over_draws
from bivlm.eval.statistics.paired import Difference, corrected, score_difference
from kept_rows import Row
from preset_tables import command_of, markdown_table, number

FULL_PRECISION = "full precision"
WIDTH = 170  # of a line of text
FIDELITY = ",fidelity=embedding"
COLUMNS = (
    "preset",
    " true bits",
    " KB",
    " draws",
    " hit@1",
    " lowest … highest",
    " against full precision",
    " hit@5",
    " MRR",
    " nDCG@5",
    " hit@1 by caption",
    " same nearest",
    " drift",
)
UNSURE_COLUMNS = (
    "preset",
    " true bits",
    " errors",
    " Spearman, full precision's adapter",
    " R²",
    " Spearman, own adapter",
    " R²",
)
PAIR_COLUMNS = (
    "preset",
    " true bits, without and with",
    " hit@1",
    " p",
    " drift, without and with",
    " less drift in all draws",
    " p over draws",
)


def grouped(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of every preset that were measured, by name, without full precision."""
    found: dict[str, list[Row]] = {}
    for row in rows[1:]:
        if "failed" not in row:
            found.setdefault(row["preset"], []).append(row)
    return found


def mean(rows: Sequence[Row], name: str) -> float | None:
    """The mean of a field over draws; None where a draw has none."""
    values = [row[name] for row in rows]
    return None if None in values else statistics.fmean(values)


def hits(rows: Sequence[Row]) -> list[float]:
    """For each picture, in how many of the draws its caption came first."""
    ranks = [[int(rank) for rank in row["ranks"].split()] for row in rows]
    return [statistics.fmean(rank == 1 for rank in own) for own in zip(*ranks, strict=True)]


def against(rows: Sequence[Row]) -> dict[str, Difference]:
    """hit@1 of every preset next to full precision's on the same pictures, corrected for all presets."""
    before, presets = hits(rows[:1]), grouped(rows)
    told = [score_difference(before, hits(own), clusters(rows)) for own in presets.values()]
    return dict(zip(presets, corrected(told), strict=True))


def clusters(rows: Sequence[Row]) -> list[int]:
    """The caption of every judged picture: pictures of one caption are no independent ones."""
    return [number % rows[0]["captions"] for number in range(len(hits(rows[:1])))]


def p_value(p: float | None) -> str:
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def table(rows: Sequence[Row]) -> list[list[str]]:
    """A line for full precision, and the means over its draws for every preset."""
    told, cells = against(rows), [_line(FULL_PRECISION, rows[:1], "", "")]
    for name, own in grouped(rows).items():
        low, high = min(row["hit1"] for row in own), max(row["hit1"] for row in own)
        found = told[name]
        compared = f"{found.difference:+.3f}, p {p_value(found.p)}: {found.verdict}"
        cells.append(_line(name, own, f"{low:.3f} … {high:.3f}" if len(own) > 1 else "", compared))
    return cells


def _line(name: str, own: Sequence[Row], reach: str, compared: str) -> list[str]:
    packed = name != FULL_PRECISION
    size = mean(own, "bytes")
    drift = mean(own, "drift")
    return [
        *(name, number(mean(own, "bits"), 3) if packed else "", number(size and size / 1000, 0)),
        *(str(len(own)) if packed else "", number(mean(own, "hit1"), 3), reach, compared),
        *(number(mean(own, field), 3) for field in ("hit5", "mrr", "ndcg", "hit1_by_caption")),
        *((number(mean(own, "agreement"), 3), f"{drift:.2e}") if packed and drift is not None else ("", "")),
    ]


def unsure_table(rows: Sequence[Row]) -> list[list[str]]:
    """What uncertainty says about the search: means over draws."""
    full = rows[:1]
    error = number(1 - (mean(full, "hit1") or 0.0), 3)
    own_numbers = [number(mean(full, f"{name}_full"), 2) for name in ("spearman", "r2")]
    cells = [[FULL_PRECISION, "", error, *own_numbers, *own_numbers]]
    for name, own in grouped(rows).items():
        fields = ("spearman_full", "r2_full", "spearman_own", "r2_own")
        found = [number(mean(own, field), 2) for field in fields]
        error = number(1 - (mean(own, "hit1") or 0.0), 3)
        cells.append([name, number(mean(own, "bits"), 3), error, *found])
    return cells


def pair_table(rows: Sequence[Row]) -> list[list[str]]:
    """Presets with `fidelity=embedding` next to the same ones without it."""
    presets, cells = grouped(rows), []
    for name, own in presets.items():
        other = presets.get(name.replace(FIDELITY, ""), [])
        if not name.endswith(FIDELITY) or not other:
            continue
        told = score_difference(hits(other), hits(own), clusters(rows))
        drifts = [[row["drift"] for row in some] for some in (other, own)]
        over: OverDraws | None = over_draws(*drifts) if len(drifts[0]) == len(drifts[1]) else None
        less = over is not None and over.holds and all(one < 0 for one in over.differences)
        cells.append(
            [
                name.replace(FIDELITY, ""),
                f"{number(mean(other, 'bits'), 3)}, {number(mean(own, 'bits'), 3)}",
                f"{told.difference:+.3f}",
                p_value(told.p),
                ", ".join(f"{statistics.fmean(some):.2e}" for some in drifts),
                "yes" if less else "no",
                p_value(None if over is None else over.p),
            ]
        )
    return cells


def failures(rows: Sequence[Row]) -> list[str]:
    return [f"- {row['preset']}, draw {row['draw']}: {row['failed']}" for row in rows if "failed" in row]


def markdown(rows: Sequence[Row], protocol: Mapping[str, Any], argv: Sequence[str]) -> str:
    """The page."""
    low, high = rows[0]["interval"]
    failed, pairs = failures(rows), pair_table(rows)
    about = (
        f"The model of `make embedder`, on rendered scenes that it never saw: {protocol['captions']}"
        f" captions with {protocol['rounds']} pictures each. A picture is ranked against all captions, and"
        " in the column *by caption* a caption against all pictures; every caption has others that differ"
        f" in one thing. Each draw calibrates on {protocol['samples']} other scenes, in turn a picture and"
        " a caption. All parts are packed. Numbers are means over draws; the 95 % interval of full"
        f" precision's hit@1 is {low:.3f} to {high:.3f}. *Against full precision*: hit@1 on the same"
        " pictures, each one's mean over draws, by sign flips with the pictures of a caption together, p"
        " after Holm's correction for all rows. *Same nearest*: the share of a picture's ten nearest"
        " captions that are full precision's. *Drift*: 1 - cosine with full precision's vectors. True"
        " bits: of what is packed. KB: of the folder."
    )
    fidelity = (
        "`fidelity=embedding` next to the same preset with a budget about answers, which are the model's"
        " own. hit@1: with minus without, on the same pictures. Drift: draw by draw, with Student's paired"
        " test."
    )
    unsure = (
        "ProbVLM's adapter with the exact likelihood, trained on as many other pictures and their captions:"
        " on full precision's vectors, and on those of the packed model itself. Its uncertainty for the"
        " judged pictures against the share of errors (1 - hit@1), over ten bins of equal mass: Spearman's"
        " correlation, and R² of a line; 1 is best, and R² does not know the sign."
    )
    lines = [
        "# Embeddings of a packed model",
        "",
        *wrapped(about),
        *markdown_table(COLUMNS, table(rows)),
        *(["", *failed] if failed else []),
        "",
        *(["## A budget about vectors", "", *wrapped(fidelity)] if pairs else []),
        *([*markdown_table(PAIR_COLUMNS, pairs), ""] if pairs else []),
        "## How unsure the search is",
        "",
        *wrapped(unsure),
        *markdown_table(UNSURE_COLUMNS, unsure_table(rows)),
        "",
        f"Machine: {rows[-1]['machine']}. Command:",
        "",
        f"    {command_of('bench_embedding.py', argv)}",
        "",
    ]
    return "\n".join(lines)


def wrapped(text: str) -> list[str]:
    """A paragraph and the empty line after it."""
    return [*textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False), ""]
