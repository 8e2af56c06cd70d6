"""bivlm analyze: the weights of a full-precision model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bivlm.cli.shared import (
    MORE,
    JsonOption,
    ModelArgument,
    TrustOption,
    command,
    command_line,
    out_console,
    print_json,
    quiet_libraries,
)

OutOption = Annotated[
    Path,
    typer.Option(help="folder for the page of plots, the tables and the numbers", show_default=False),
]


@command("analyze", MORE, "bivlm analyze path/to/model --out analysis")
def analyze(
    model: ModelArgument,
    out: OutOption,
    trust_remote_code: TrustOption = False,
    json_: JsonOption = False,
) -> None:
    """Look at the weights of a full-precision model: how Gaussian they are, and what a tail gains.

    Histograms and fitted Gaussian, KL divergence and outliers by depth, and the error as the salient tail
    grows, on a page of plots.
    """
    quiet_libraries()
    from bivlm.cli.progress import Shown
    from bivlm.studies.analyze.page import check_out, write_page
    from bivlm.studies.analyze.run import analyze as analyze_model
    from bivlm.studies.analyze.table import analysis_table
    from bivlm.studies.picture import require_matplotlib
    from bivlm.studies.study import RunSettings

    require_matplotlib()
    check_out(out)
    with Shown() as events:
        found = analyze_model(
            model,
            settings=RunSettings(command=command_line(), events=events, trust_remote_code=trust_remote_code),
        )
        write_page(found, out)
    if json_:
        print_json(found)
        return
    out_console.print(analysis_table(found))
    out_console.print(
        f"Results in [bold]{out}[/bold]: analysis.png, analysis.md, analysis.json", soft_wrap=True
    )
