"""bivlm inspect: the true bits of a packed folder, or the structure of a full-precision one."""

from __future__ import annotations

from typing import Annotated

import typer

from bivlm.cli.shared import (
    MAIN,
    JsonOption,
    ModelArgument,
    TrustOption,
    command,
    out_console,
    print_json,
    quiet_libraries,
)


@command("inspect", MAIN, "bivlm inspect out --layers")
def inspect(
    model: ModelArgument,
    layers: Annotated[bool, typer.Option("--layers", help="a row for every block as well")] = False,
    experts: Annotated[
        bool,
        typer.Option(
            "--experts",
            help=(
                "a row for every layer of experts as well: its bits, and how many calibration tokens"
                " reached an"
                " expert, fewest, median and most"
            ),
        ),
    ] = False,
    structure: Annotated[
        bool,
        typer.Option(
            "--structure",
            help="of a full-precision model: its stacks, and what would stay in full precision and why;"
            " config.json alone is enough",
        ),
    ] = False,
    trust_remote_code: TrustOption = False,
    json_: JsonOption = False,
) -> None:
    """Count the true bits of a packed model, by part and by layer, from the bytes in its files.

    Every checksum is checked. With --structure: show what a full-precision model is made of, found on a small
    copy of it.
    """
    if structure:
        show_structure(model, json_, trust_remote_code)
        return
    from bivlm.cli.tables import experts_table, inspection_table
    from bivlm.eval.inspection import inspect as inspect_folder

    inspection = inspect_folder(model, trust_remote_code)
    if json_:
        print_json(inspection)
    else:
        out_console.print(inspection_table(inspection, layers=layers))
        if experts:
            out_console.print(experts_table(inspection))


def show_structure(model: str, json_: bool, trust_remote_code: bool) -> None:
    """The tables of `bivlm inspect --structure`."""
    from bivlm.cli.tables import structure_tables
    from bivlm.eval.structure import find_structure_of

    quiet_libraries()
    report = find_structure_of(model, trust_remote_code)
    if json_:
        print_json(report)
        return
    for table in structure_tables(report):
        out_console.print(table)
