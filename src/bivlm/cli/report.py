"""bivlm report: one page about several evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bivlm.cli.shared import MORE, command, out_console, quiet_libraries

FoldersArgument = Annotated[
    list[Path],
    typer.Argument(metavar="DIR…", help="folders that `bivlm eval … --out DIR` wrote", show_default=False),
]
OutOption = Annotated[Path, typer.Option(help="folder for report.html", show_default=False)]


@command("report", MORE, "bivlm report eval-full eval-2 eval-1 --out report")
def report(folders: FoldersArgument, out: OutOption) -> None:
    """Put evaluations on one page: sizes, scores, groups, confidence, and the questions on which models
    differ.

    The page is one file that needs no network. The models are compared with the first of the table: the one
    in full precision, or that of the most bits.
    """
    quiet_libraries()
    from bivlm.studies.picture import require_matplotlib
    from bivlm.studies.report.evaluated import read_evaluations
    from bivlm.studies.report.page import write_report

    require_matplotlib()
    page = write_report(read_evaluations(folders), out)
    out_console.print(f"The report is [bold]{page}[/bold]", soft_wrap=True)
