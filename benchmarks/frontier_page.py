"""The tables of bench_frontier.py, on the screen and on a page, and the picture."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bivlm.studies.compare.plot import style_of
from bivlm.studies.labels import place_labels
from kept_rows import Row
from preset_tables import by_bits, command_of, markdown_table, number, print_table

COLUMNS = (
    "",
    " true bits",
    " whole model",
    " MB",
    " perplexity",
    " KL",
    " top 1",
    " written, until",
    " written, all",
    " second perplexity",
    " second KL",
    " seconds",
    " peak GB",
    " tokens / s",
    " int8",
    "types of the linears",
)
PAGE = """\
# The frontier: methods at two bits and less on the same language models

Presets of this package and llama.cpp's types, packed with the same calibration tokens ({calibration_windows}
windows of {window}) and judged alike, on {windows} windows of {text}. True bits are the stored bits of the
blocks' linears over their weights, everything counted; the whole model's count what is not packed with 16,
and MB is its weights by that count. KL is the mean divergence from the full-precision model in nats per
token, top 1 the share of tokens that both find likeliest. Written: both go on greedily, 64 tokens after each
64 of the test text; the share of tokens before the first that differs, and of all that are equal at the same
place. The second text is of another kind than what was calibrated on.

llama.cpp's types are made by llama-quantize of ik_llama.cpp with an importance matrix of the calibration
tokens, and expanded to float32 to be judged. Most hold only widths that are multiples of 256; on others, and
in some layers by the program's own rules, a larger type takes their place: the last column says what the
linears are stored in. "+tables" stores embedding and head as the program likes; otherwise they stay in 16
bits. Tokens per second: one sequence after 64 tokens, float activations, and activations in 8 bits, which
llama.cpp always has. Peak: largest resident memory while packing."""


def cells(row: Row, count: int) -> list[str]:
    """A line of the table; `count` is how many weights the model has."""
    whole, peak = row.get("whole"), row.get("peak_bytes")
    return [
        row["preset"],
        number(row.get("bits"), 3),
        number(whole, 3),
        number(None if whole is None else whole * count / 8e6, 0),
        number(row.get("perplexity"), 2),
        *(number(row.get(what), 3) for what in ("kl", "top1", "written_until", "written_all")),
        number(row.get("second_perplexity"), 2),
        number(row.get("second_kl"), 3),
        number(row.get("seconds"), 0),
        number(None if peak is None else peak / 1e9, 2),
        *(number(row.get(what), 1) for what in ("tokens_per_second", "tokens_per_second_int8")),
        row.get("types") or "",
    ]


def table(rows: Sequence[Row]) -> Iterable[list[str]]:
    """The full-precision row first, then the others by their bits."""
    count = rows[0]["weights_count"]
    return [cells(row, count) for row in (rows[0], *by_bits({"bits": None, **row} for row in rows[1:]))]


def failures(rows: Sequence[Row]) -> list[str]:
    return [f"{row['preset']}: {row['failed']}" for row in rows if "failed" in row]


def machines(rows: Iterable[Row]) -> str:
    return " and ".join(dict.fromkeys(row["machine"] for row in rows))


def print_models(models: Mapping[str, Sequence[Row]]) -> None:
    for name, rows in models.items():
        print_table(name, COLUMNS, table(rows), machines(rows))
        for line in failures(rows):
            print(line)


def timed_together(rows: Iterable[Row]) -> str:
    """The machine on which all rows were timed in one run (`--speeds`), or together with all else that was
    measured; empty if there were several.
    """
    timed = {row.get("speed_machine", row["machine"]) for row in rows if "failed" not in row}
    return timed.pop() if len(timed) == 1 else ""


def markdown(models: Mapping[str, Sequence[Row]], protocol: Mapping[str, Any]) -> str:
    """The page, a section for each model."""
    lines = [*PAGE.format(**protocol).splitlines(), ""]
    for name, found in models.items():
        together = timed_together(found)
        rows = (
            found
            if together
            else [{**row, "tokens_per_second": None, "tokens_per_second_int8": None} for row in found]
        )
        failed = [f"- {line}" for line in failures(rows)]
        lines += [f"## {name}", "", *markdown_table(COLUMNS, table(rows)), ""]
        lines += [*failed, ""] if failed else []
    everything = [row for rows in models.values() for row in rows]
    if timed := timed_together(everything):
        lines += [f"Tokens per second of all rows: in one run, {timed}.", ""]
    else:
        lines += ["Tokens per second are left out: the rows were timed in different runs.", ""]
    lines += [f"Machine: {machines(everything)}. Command:", ""]
    lines += [f"    {command_of('bench_frontier.py', sys.argv[1:])}", ""]
    return "\n".join(lines)


def plot_models(path: Path, models: Mapping[str, Sequence[Row]]) -> None:
    """KL against the true bits of the linears, a panel for each model."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2 + 8 * len(models), 7), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(models), squeeze=False)[0]
    everything = [row for rows in models.values() for row in rows[1:] if row.get("kl")]
    methods = sorted({row["quantizer"] for row in everything})
    for axes, (name, rows) in zip(panels, models.items(), strict=True):
        marks = []
        for method in methods:
            colour, marker = style_of(method, methods)
            mine = [row for row in rows[1:] if row.get("kl") and row["quantizer"] == method]
            bits, divergences = ([row[what] for row in mine] for what in ("bits", "kl"))
            axes.plot(bits, divergences, marker, color=colour, label=method, zorder=3)
            marks += [(row["preset"], row["bits"], row["kl"], colour) for row in mine]
        axes.set(yscale="log", xlabel="true bits per weight of the linears", title=name)
        axes.grid(visible=True, color="0.9", linewidth=0.6)
        axes.margins(x=0.15, y=0.1)
        place_labels(canvas, axes, marks)
    panels[0].set_ylabel("KL divergence from full precision, nats per token")
    panels[0].legend(frameon=False)
    canvas.print_figure(path)
