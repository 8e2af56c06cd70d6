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
import bivlm.cli.eval
import bivlm.cli.inspect
import bivlm.cli.verify
import bivlm.cli.compare
import bivlm.cli.prune
import bivlm.cli.analyze
import bivlm.cli.presets
import bivlm.cli.doctor
import bivlm.cli.demo

# isort: on
from bivlm.cli.shared import app
from bivlm.errors import InputError

INTERRUPTED = 130  # typer's exit code on Ctrl-C


def main() -> None:
    """Run the command line. Exit code 0; 2 with one line for the user's mistakes; 130 for Ctrl-C."""
    try:
        app(standalone_mode=True)
    except InputError as error:
        print(f"bivlm: error: {error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            print(
                "bivlm: interrupted; what is finished is kept, and the same command continues",
                file=sys.stderr,
            )
        raise


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
