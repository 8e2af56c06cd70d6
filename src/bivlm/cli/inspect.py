"""bivlm inspect: the true bits of a packed folder."""

from __future__ import annotations

from typing import Annotated

import typer

from bivlm.cli.shared import MAIN, JsonOption, ModelArgument, command, out_console, print_json


@command("inspect", MAIN, "bivlm inspect out --layers")
def inspect(
    model: ModelArgument,
    layers: Annotated[bool, typer.Option("--layers", help="a row for every block as well")] = False,
    json_: JsonOption = False,
) -> None:
    """Count the true bits of a packed model, by part and by layer, from the bytes in its files.

    Every checksum is checked.
    """
    from bivlm.cli.tables import inspection_table
    from bivlm.eval.inspection import inspect as inspect_folder

    inspection = inspect_folder(model)
    if json_:
        print_json(inspection)
    else:
        out_console.print(inspection_table(inspection, layers=layers))
