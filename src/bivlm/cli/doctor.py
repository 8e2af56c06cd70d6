"""bivlm doctor: the kernels, the machine and the versions of this installation."""

from __future__ import annotations

from typing import Annotated

import typer

from bivlm.cli.shared import MORE, JsonOption, TrustOption, command, out_console, print_json


@command("doctor", MORE, "bivlm doctor", "bivlm doctor out")
def doctor(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="also say what its packed linears run on", show_default=False),
    ] = None,
    trust_remote_code: TrustOption = False,
    json_: JsonOption = False,
) -> None:
    """Say which kernels this installation runs packed models on, and why.

    And what else it found: instruction set, threads, versions, memory.
    """
    from bivlm.cli.tables import doctor_tables
    from bivlm.doctor import diagnose

    found = diagnose(model, trust_remote_code)
    if json_:
        print_json(found)
    else:
        out_console.print(*doctor_tables(found), sep="\n")
