"""bivlm data: what a data set is taken for, and what would be read from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bivlm.cli.shared import (
    MORE,
    ColumnsOption,
    DataRootOption,
    JsonOption,
    columns_of,
    command,
    out_console,
    print_json,
    shown,
)
from bivlm.errors import cut
from bivlm.types import Video

if TYPE_CHECKING:
    from rich.table import Table

    from bivlm.data.contents import Contents
    from bivlm.types import Sample, Visual

DataArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="a file, a folder, OWNER/NAME of a data set on the hub, or easy-vqa",
        show_default=False,
    ),
]
SheetOption = Annotated[
    Path | None,
    typer.Option(
        "--sheet",
        metavar="FILE.png",
        help="draw the first twelve questions with their images",
        show_default=False,
    ),
]
SplitOption = Annotated[
    str | None,
    typer.Option(
        "--split", metavar="NAME", help="which split to count; left out: the first", show_default=False
    ),
]
MOST_GROUPS = 8


@command("data", MORE, "bivlm data vqa.jsonl", "bivlm data path/to/folder --split test --sheet sheet.png")
def data(
    data: DataArgument,
    split: SplitOption = None,
    sheet: SheetOption = None,
    columns: ColumnsOption = None,
    data_root: DataRootOption = None,
    json_: JsonOption = False,
) -> None:
    """Show what a data set is taken for: its shape, its splits, how many questions, images and answers.

    Every row is read, so a mistake in any of them is found. Nothing is written but the sheet.
    """
    from bivlm.data.contents import contents
    from bivlm.data.sheet import contact_sheet

    found = contents(data, split=split, data_root=data_root, columns=columns_of(columns))
    if sheet is not None:
        contact_sheet(found.samples, sheet)
    if json_:
        print_json(found)
        return
    for name, value in _facts(found):
        out_console.print(f"{name:12}{value}", highlight=False, soft_wrap=True, markup=False)
    out_console.print(_first_rows(found))
    if sheet is not None:
        out_console.print(f"The first {len(found.samples)} are in {sheet}", highlight=False, soft_wrap=True)


def _facts(found: Contents) -> Iterator[tuple[str, str]]:
    """What is said above the rows, by name."""
    yield "stored as", found.container
    yield "shape", found.shape
    if list(found.splits) != [""]:
        yield "splits", ", ".join(f"{name or '?'} {count}" for name, count in found.splits.items())
        yield "counted", found.split
    yield "rows", f"{found.rows}"
    turns = f", up to {found.turns} earlier turns" if found.turns else ""
    yield "questions", f"{found.questions}{turns}"
    without = f"; {found.without_image} questions without" if found.without_image else ""
    yield "images", f"{found.images}{without}"
    if found.videos:
        yield "videos", f"{found.videos}"
    yield (
        "answers",
        f"{found.answers} questions have some" if found.answers else "none: for calibration alone",
    )
    if found.groups:
        first = [f"{shown(name)} {count}" for name, count in list(found.groups.items())[:MOST_GROUPS]]
        more = f" and {len(found.groups) - MOST_GROUPS} more" if len(found.groups) > MOST_GROUPS else ""
        yield "groups", ", ".join(first) + more
    if found.divided:
        left = f", {found.divided['']} in neither" if found.divided.get("") else ""
        yield (
            "no splits",
            (
                f"{found.divided.get('train', 0)} questions would calibrate, {found.divided.get('test', 0)}"
                f" be asked, about different images{left}"
            ),
        )


def _first_rows(found: Contents) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from bivlm.data.contents import SHOWN

    table = Table(box=SIMPLE_HEAD, show_edge=False)
    for name in ("row", "images", "question", "answers", "group"):
        table.add_column(name, overflow="fold")
    for sample in found.samples[:SHOWN]:
        answers = " | ".join(dict.fromkeys(sample.answers))
        texts = (sample.origin, _images(sample), sample.question, answers, sample.group)
        table.add_row(*(Text(shown(cut(text, 200))) for text in texts))
    return table


def _images(sample: Sample) -> str:
    """The images of a sample in words: names of files, and sizes of images that the data holds itself; videos
    by the names of their files, or the number of frames.
    """
    return ", ".join(map(_told, sample.visuals))


def _told(visual: Visual) -> str:
    source = visual.source if isinstance(visual, Video) else visual
    if isinstance(source, tuple):
        return f"video of {len(source)} frames"
    return source.name if isinstance(source, Path) else f"{source.width}x{source.height}"
