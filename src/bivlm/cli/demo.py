"""bivlm demo: the whole job on the embedded small model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bivlm.cli.shared import MORE, JsonOption, command, note, out_console, print_json, quiet_libraries


@command("demo", MORE, "bivlm demo --questions 100")
def demo(
    out: Annotated[
        Path | None, typer.Option(help="keep the packed models in this folder; left out: a temporary one")
    ] = None,
    questions: Annotated[
        int, typer.Option(min=10, help="how many of the 9 673 test questions to answer with each model")
    ] = 300,
    json_: JsonOption = False,
) -> None:
    """Run the whole job on the embedded small model: pack it in several ways, load, answer, one table."""
    note.print(
        "bivlm demo: packing the embedded small model and measuring it on easy-VQA; first result in a few"
        " seconds"
    )
    quiet_libraries()
    from bivlm.cli.progress import Shown
    from bivlm.studies.demo import run_demo
    from bivlm.studies.demo_table import demo_table

    with Shown() as events:
        rows = run_demo(out, questions, events)
    if json_:
        print_json({"questions": questions, "rows": rows})
    else:
        out_console.print(demo_table(rows, questions))
