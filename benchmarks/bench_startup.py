"""How long commands take that only look: in fresh processes, on a packed folder of the embedded model.

    python benchmarks/bench_startup.py [--before PYTHON] [--rounds 5] [--json F] [--markdown F]

Of every command the smallest time of all rounds, and of its processor seconds, which other processes do not
change. `--before` is the Python of an environment that has another version of bivlm, to compare with.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import bivlm
from bivlm.errors import InputError
from bivlm.zoo import embedded_model
from machine import describe
from preset_tables import closing, command_of, markdown_table, positive
from script import run_script

COMMANDS = (
    ("--version",),
    ("--help",),
    ("presets",),
    ("recount", "{packed}"),
    ("verify", "{packed}"),
    ("inspect", "{packed}"),
    ("quantize", "--help"),
)
PAGE = """\
# How long commands take that only look

Fresh processes, on the embedded model packed by `rtn-3`; the smallest of {rounds} rounds. The processor
seconds are the command's own; where other processes share the processor, the clock shows more. What the
columns mean stands in `benchmarks/bench_startup.py`.
"""


def taken(python: str, arguments: list[str], rounds: int) -> dict[str, float]:
    """The least seconds, and the least processor seconds, of `python -m bivlm …`."""
    found: list[tuple[float, float]] = []
    for _ in range(rounds):
        before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(
            [python, "-m", "bivlm", *arguments], capture_output=True, text=True, check=False
        )
        seconds, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise InputError(f"{python} -m bivlm {' '.join(arguments)} failed: {done.stderr.strip()[-200:]}")
        found.append((seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))
    walls, processors = zip(*found, strict=True)
    return {"seconds": min(walls), "processor": min(processors)}


def measured(python: str, packed: Path, rounds: int) -> dict[str, dict[str, float]]:
    """The times of every command with one Python."""
    return {
        " ".join(words).replace("{packed}", "out"): taken(
            python, [word.format(packed=packed) for word in words], rounds
        )
        for words in COMMANDS
    }


def table(versions: dict[str, dict[str, dict[str, float]]]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: two columns for each version."""
    columns = ["command", *(f" {what}, {name}" for name in versions for what in ("s", "processor s"))]
    rows = [
        [
            f"`bivlm {command}`",
            *(f"{own[command][what]:.2f}" for own in versions.values() for what in ("seconds", "processor")),
        ]
        for command in versions["now"]
    ]
    return columns, rows


def report(options: argparse.Namespace) -> None:
    pythons = {"before": options.before, "now": sys.executable}
    with tempfile.TemporaryDirectory() as folder:
        packed = bivlm.quantize(embedded_model(), Path(folder) / "out", recipe="rtn-3")
        versions = {
            name: measured(python, packed, options.rounds) for name, python in pythons.items() if python
        }
    text = "\n".join(markdown_table(*table(versions)))
    print(text)
    if options.json:
        kept: dict[str, Any] = {"versions": versions, "machine": describe()}
        kept["command"] = command_of("bench_startup.py", sys.argv[1:])
        options.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    if options.markdown:
        page = f"{PAGE.format(rounds=options.rounds)}\n{text}\n\n{closing('bench_startup.py')}"
        options.markdown.write_text(page, encoding="utf-8")


def parse() -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--before", help="the Python of an environment with another version")
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--markdown", type=Path, help="write the page here")
    return parser.parse_args()


def main() -> None:
    run_script("bench_startup", parse(), report)


if __name__ == "__main__":
    main()
