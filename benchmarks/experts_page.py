"""The tables of bench_experts.py, on the terminal and as a page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

COLUMNS = ("", "x", "bits", "µs", "times bf16", "by medians", "share of memory", "error")
STATES = {
    (1, "warm"): "One token",
    (8, "warm"): "Eight tokens",
    (256, "warm"): "256 tokens",
    (1, "cold"): "One token, nothing in the page cache",
}


def tables(found: dict[str, Any]) -> Iterator[tuple[str, list[list[str]]]]:
    """The title and the cells of every table."""
    for (tokens, state), title in STATES.items():
        rows = [row for row in found["rows"] if (row["tokens"], row["state"]) == (tokens, state)]
        yield (
            title,
            [
                [
                    row["name"],
                    row["activations"],
                    f"{row['bits']:.2f}",
                    f"{row['seconds'] * 1e6:.0f}",
                    f"{row['times_bf16']:.2f}",
                    f"{row['times_bf16_median']:.2f}",
                    f"{row['share_of_memory']:.0%}" if "share_of_memory" in row else "",
                    f"{row['error']:.0e}",
                ]
                for row in rows
            ],
        )


def resident(found: dict[str, Any]) -> str:
    """What one token brings into memory, in a sentence or two."""
    kb = {name: f"{size / 1024:,.0f} KB" for name, size in found["resident"].items()}
    return (
        f"After one token of `trellis: 2` on a freshly mapped file of {kb['file']}, {kb['rss']} of the"
        f" mapping are resident (`/proc/self/smaps`; {kb['rss_before']} before). The chosen experts have"
        f" {kb['chosen']} of them in whole pages. The others have {kb['others']} within 64 KB of their first"
        f" and last bytes, where the system maps what lies around a page that is read, and further inside"
        f" {kb['others_inside']}."
    )


def about(found: dict[str, Any]) -> str:
    load = ", ".join(f"{one:.1f}" for one in found["load"])
    return (
        f"{found['machine']}. Memory is read at {found['bytes_per_second'] / 1e9:.1f} GB/s. Load average when"
        f" the run ended: {load}."
    )


def print_tables(found: dict[str, Any]) -> None:
    console = Console(width=140)
    for title, cells in tables(found):
        table = Table(*COLUMNS, title=title)
        for row in cells:
            table.add_row(*row)
        console.print(table)
    print(resident(found))
    print(about(found))


def markdown(found: dict[str, Any]) -> str:
    lines = [
        "# The chosen experts of a layer",
        "",
        "128 experts, 8 chosen by each token at random, hidden width 2048, expert width 768;"
        " `benchmarks/bench_experts.py`.",
        "Times are the smallest of all calls; *times bf16* compares with the fastest bf16 of the same table,"
        " *by medians* the same of the medians.",
        "*One by one*: the experts' products without the common call. *Share of memory*: a token's bytes over"
        " the time, of the rate at which memory is read.",
        "That rate is taken a few times during the run: where other processes use the machine, a share may"
        " exceed 100 %.",
        "",
    ]
    for title, cells in tables(found):
        lines += [f"## {title}", "", f"| {' | '.join(COLUMNS)} |", "|---|---|" + "--:|" * (len(COLUMNS) - 2)]
        lines += [f"| {' | '.join(row)} |" for row in cells]
        lines.append("")
    return "\n".join([*lines, "## Memory", "", resident(found), "", f"Machine: {about(found)}", ""])
