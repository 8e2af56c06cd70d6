"""What bench_kernels.py found, as Markdown: the figures that were to be reached, one shape in full, and every
shape as ratios; on a card every shape in full.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Row = dict[str, Any]
FULL = [4096, 4096]  # the shape that is told in full
JUDGED = ([4096, 4096], [11008, 4096])
# kernels and what each should gain over torch bf16 with int8 activations and one token; with floating-point
# activations half of it
WANTED = (
    ("levels: 1", 10.0),
    ("planes, blocks: 1", 10.0),
    ("levels: 2", 7.0),
    ("levels, 1 % tail: 2", 5.0),
    ("levels: 3", 4.0),
    ("levels: 4", 4.0),
    ("uniform, groups of 128: 2", 7.0),
    ("uniform, groups of 128: 3", 4.0),
    ("uniform, groups of 128: 4", 4.0),
    ("trellis: 1", 4.0),
    ("trellis: 2", 4.0),
)
WANTED_MANY = 0.8
# llama.cpp's types with up to so many bits more count as of at most the same bits: all of them carry scales
SAME_BITS = 0.1


def markdown(found: dict[str, Any]) -> str:
    """The whole document."""
    rows = found["rows"]
    llama = (
        f"llama.cpp's kernels are those of {found['llama_cpp']}, with the same threads."
        if found["llama_cpp"]
        else "llama.cpp was not at hand."
    )
    lines = [
        "# Speed of the CPU kernels",
        "",
        (
            f"{found['machine']}; instruction set {found['instruction_set']}. Memory is read at"
            f" {found['bytes_per_second'] / 1e9:.1f} GB/s. {llama}"
        ),
        (
            "Made by `benchmarks/bench_kernels.py`, which says how; docs/performance.md says what it means."
            " Ratios are to torch's bf16 product of"
        ),
        "the same shape and number of tokens in the same run: 2.0 is twice as fast.",
        "",
    ]
    if any(row["shape"] in JUDGED for row in rows):
        lines += ["## Figures to reach", "", *_goals(rows), ""]
    if full := [row for row in rows if row["shape"] == FULL and row["batch"] == 1]:
        lines += [f"## {FULL[0]} x {FULL[1]}, one token", "", *_full(full), ""]
    for batch in sorted({row["batch"] for row in rows}):
        mine = [row for row in rows if row["batch"] == batch]
        lines += [
            f"## {batch} {'token' if batch == 1 else 'tokens'}: times torch bf16",
            "",
            *_ratios(mine),
            "",
        ]
    return "\n".join(lines)


def card_markdown(found: dict[str, Any]) -> str:
    """What was found on a card."""
    rows, rate = found["rows"], found["bytes_per_second"]
    lines = [
        "# Speed of the kernels on a card",
        "",
        (
            f"{found['machine']}. Memory is read at {rate / 1e9:.0f} GB/s. Inputs in bfloat16; every product"
            " in a CUDA"
        ),
        (
            "graph, with another copy of its weight each time; *eager* is the time as Python launches the"
            " kernels."
        ),
        (
            "Made by `benchmarks/bench_kernels.py --device cuda`. Ratios are to torch's bf16 product in the"
            " same run."
        ),
        "",
    ]
    head = ["", "", "bits", "µs", "µs, eager", "times torch bf16", "share of memory", "largest error"]
    for shape in dict.fromkeys(tuple(row["shape"]) for row in rows):
        for batch in dict.fromkeys(row["batch"] for row in rows):
            mine = [row for row in rows if (tuple(row["shape"]), row["batch"]) == (shape, batch)]
            tokens = "one token" if batch == 1 else f"{batch} tokens"
            table = _table(head, (_card_row(row) for row in mine), 2)
            lines += [f"## {shape[0]} x {shape[1]}, {tokens}", "", *table, ""]
    return "\n".join(lines)


def _card_row(row: Row) -> list[str]:
    return [
        row["family"],
        row["name"] + ("" if row["graph"] else ", no graph"),
        f"{row['bits']:.2f}",
        f"{row['seconds'] * 1e6:.1f}",
        f"{row['seconds_eager'] * 1e6:.1f}",
        f"{row['times_bf16']:.2f}",
        f"{row['share_of_memory']:.0%}",
        f"{row['error']:.0e}",
    ]


def _table(head: list[str], body: Iterator[list[str]], text: int = 1) -> list[str]:
    """Text columns first, numbers to the right."""
    return [
        f"| {' | '.join(head)} |",
        "|" + "---|" * text + "--:|" * (len(head) - text),
        *(f"| {' | '.join(cells)} |" for cells in body),
    ]


def _find(rows: list[Row], shape: list[int], batch: int, name: str, activations: str) -> Row | None:
    wanted = (shape, batch, "bivlm", name, activations)
    return next(
        (
            row
            for row in rows
            if (row["shape"], row["batch"], row["family"], row["name"], row["activations"]) == wanted
        ),
        None,
    )


def _goals(rows: list[Row]) -> list[str]:
    head = ["figure", "shape", "x", "wanted", "reached", ""]
    return _table(head, _goal_rows(rows), 3)


def _goal_rows(rows: list[Row]) -> Iterator[list[str]]:
    for name, wanted in WANTED:
        for shape in JUDGED:
            for activations, least in (("int8", wanted), ("bfloat16", wanted / 2), ("float32", wanted / 2)):
                if row := _find(rows, shape, 1, name, activations):
                    yield _goal(f"{name}, one token", shape, activations, least, row["times_bf16"])
    for name, _ in WANTED:
        for shape in JUDGED:
            row = _find(rows, shape, 1, name, "int8")
            rivals = [
                other
                for other in rows
                if other["family"] == "llama.cpp" and other["shape"] == shape and other["batch"] == 1
            ]
            rivals = [other for other in rivals if row and other["bits"] <= row["bits"] + SAME_BITS]
            if row and rivals:
                best = min(rivals, key=lambda other: other["seconds"])
                yield _goal(
                    f"{name}, one token, against {best['name']}",
                    shape,
                    "int8",
                    1.0,
                    best["seconds"] / row["seconds"],
                )
    for name, _ in WANTED:
        for shape in JUDGED:
            if row := _find(rows, shape, 256, name, "bfloat16"):
                yield _goal(f"{name}, 256 tokens", shape, "bfloat16", WANTED_MANY, row["times_bf16"])
    for activations, most in (("float32", 1e-5), ("int8", 2e-2)):
        errors = [
            row["error"] for row in rows if row["family"] == "bivlm" and row["activations"] == activations
        ]
        if errors:
            verdict = "reached" if max(errors) <= most else "missed"
            yield ["largest error of all", "all", activations, f"≤ {most:.0e}", f"{max(errors):.1e}", verdict]


def _goal(figure: str, shape: list[int], activations: str, wanted: float, reached: float) -> list[str]:
    return [
        figure,
        f"{shape[0]} x {shape[1]}",
        activations,
        f"{wanted:.1f}",
        f"{reached:.1f}",
        "reached" if reached >= wanted else "**missed**",
    ]


def _full(rows: list[Row]) -> list[str]:
    head = ["", "", "x", "bits", "µs", "times torch bf16", "share of memory", "largest error"]
    return _table(head, (_full_row(row) for row in rows), 3)


def _full_row(row: Row) -> list[str]:
    speed = [f"{row['seconds'] * 1e6:.0f}", f"{row['times_bf16']:.2f}", f"{row['share_of_memory']:.0%}"]
    return [
        row["family"],
        row["name"],
        row["activations"],
        f"{row['bits']:.2f}",
        *speed,
        f"{row['error']:.0e}",
    ]


def _ratios(rows: list[Row]) -> list[str]:
    shapes = list(dict.fromkeys(tuple(row["shape"]) for row in rows))
    found = {
        (row["family"], row["name"], row["activations"], tuple(row["shape"])): row["times_bf16"]
        for row in rows
    }
    names = dict.fromkeys(key[:3] for key in found)
    cells = (
        [*name, *(f"{found[*name, shape]:.2f}" if (*name, shape) in found else "" for shape in shapes)]
        for name in names
    )
    return _table(["", "", "x", *(f"{rows} x {columns}" for rows, columns in shapes)], cells, 3)
