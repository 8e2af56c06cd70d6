"""How a benchmark that packs models runs: quiet libraries, its number of threads, mistakes as one line and
exit code 2.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import torch

from bivlm.cli.shared import quiet_libraries
from bivlm.errors import InputError


def run_script(name: str, options: argparse.Namespace, report: Callable[[argparse.Namespace], None]) -> None:
    """Run `report` on the options of the benchmark `name`, which have `threads`."""
    quiet_libraries()
    torch.set_num_threads(options.threads)
    try:
        report(options)
    except InputError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        sys.exit(2)
