"""The command line: parse, call, print. Heavy imports wait until a command runs, so that help and errors come
at once.
"""

from __future__ import annotations

import sys

from bivlm.cli import models as models
from bivlm.cli import studies as studies
from bivlm.cli.shared import app
from bivlm.errors import InputError

INTERRUPTED = 130  # what typer exits with on Ctrl-C


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
