"""The command line: parse, call, print; a file for each command.

Heavy imports wait until a command runs, so that help and errors come at once.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

# the help lists the commands in this order
# isort: off
import bivlm.cli.quantize
import bivlm.cli.ask
import bivlm.cli.chat
import bivlm.cli.serve
import bivlm.cli.eval
import bivlm.cli.embed
import bivlm.cli.adapt
import bivlm.cli.export
import bivlm.cli.inspect
import bivlm.cli.recount
import bivlm.cli.verify
import bivlm.cli.compare
import bivlm.cli.prune
import bivlm.cli.analyze
import bivlm.cli.report
import bivlm.cli.show
import bivlm.cli.push
import bivlm.cli.data
import bivlm.cli.presets
import bivlm.cli.doctor
import bivlm.cli.demo

# isort: on
from bivlm.cli.faults import prepare_streams, run
from bivlm.cli.shared import app


def main() -> None:
    """Run the command line, and exit: 0; 2 with one line for what the user can correct; faults.py lists the
    others.
    """
    prepare_streams()
    sys.exit(run(app))


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"bivlm {bivlm.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """What comes before the command."""
