"""Runs the demo and writes its table where people read it: docs/results/demo.json, docs/results/demo.md and
the README.

python benchmarks/demo_results.py --questions 2000
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from bivlm.cli.progress import Shown
from bivlm.cli.shared import quiet_libraries
from bivlm.studies.demo import run_demo
from bivlm.studies.demo_table import demo_markdown
from machine import describe

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- demo table: make results -->", "<!-- end of demo table -->"


def main(questions: Annotated[int, typer.Option(help="test questions for each model")] = 2000) -> None:
    """Measure, write, and replace the table in the README."""
    quiet_libraries()
    with Shown() as events:
        rows = run_demo(None, questions, events)
    caption = f"easy-VQA, {questions} test questions drawn with seed 0; {describe()}; made by `make results`."
    results = ROOT / "docs" / "results"
    results.mkdir(parents=True, exist_ok=True)
    (results / "demo.json").write_text(
        json.dumps(
            {"questions": questions, "machine": describe(), "rows": [asdict(row) for row in rows]}, indent=2
        )
        + "\n"
    )
    table = demo_markdown(rows)
    (results / "demo.md").write_text(f"# The demo's table\n\n{table}\n\n{caption}\n")
    readme = ROOT / "README.md"
    text = readme.read_text()
    readme.write_text(
        re.sub(
            f"{re.escape(BEGIN)}.*?{re.escape(END)}",
            f"{BEGIN}\n{table}\n\n{caption}\n{END}",
            text,
            flags=re.DOTALL,
        )
    )


if __name__ == "__main__":
    typer.run(main)
