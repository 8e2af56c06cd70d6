"""Methods side by side on the embedded model: the tables and pictures in docs/results, from one command.

    python benchmarks/compare_results.py --questions 2000

Writes compare-language and compare-all (.md, .json, .png) and parts-study (.md, .json); the three share their runs. Nothing of an earlier call is
used unless --work names its folder: the record of a run knows the version of the package, not the state of its code.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from bivlm.cli import quiet_libraries
from bivlm.data.samples import read_samples
from bivlm.recipe import Recipe, load_recipe, preset_names, split_presets
from bivlm.report.compare import compare_presets, write_comparison
from bivlm.types import PARTS
from bivlm.zoo import embedded_model
from machine import describe

RESULTS = Path(__file__).parent.parent / "docs" / "results"
CALIBRATION_SAMPLES = 32
COMPARISONS: dict[str, dict[str, Any]] = {
    "compare-language": {"parts": ("language",)},
    "compare-all": {"parts": PARTS},
    "parts-study": {"parts_study": True},
}


def main(
    questions: Annotated[int, typer.Option(help="test questions for each model")] = 2000,
    presets: Annotated[list[str] | None, typer.Option(help="presets to compare, as for `bivlm compare`; left out: all that there are")] = None,
    study: Annotated[list[str] | None, typer.Option(help="presets of the parts study, seven runs each; left out: bivlm-paper,bivlm")] = None,
    out: Annotated[Path, typer.Option(help="folder for the results")] = RESULTS,
    work: Annotated[Path | None, typer.Option(help="folder for the runs, to continue in; left out: a temporary one")] = None,
) -> None:
    """Compare, and write the results where people read them."""
    quiet_libraries()
    compared = [load_recipe(name) for name in (split_presets(presets) if presets else preset_names())]
    studied = [load_recipe(name) for name in split_presets(study or ["bivlm-paper,bivlm"])]
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bivlm-compare-") as temporary:
        for name, settings in COMPARISONS.items():
            print(f"{name}:")
            write_results(name, studied if settings.get("parts_study") else compared, settings, questions, work or Path(temporary) / "work", out)


def write_results(name: str, recipes: Sequence[Recipe], settings: dict[str, Any], questions: int, work: Path, out: Path) -> None:
    """One comparison on the embedded model, into `out`."""
    found = compare_presets(
        embedded_model(),
        recipes,
        work,
        samples=read_samples("easy-vqa", split="test", limit=questions),
        calibration=read_samples("easy-vqa", split="train", limit=CALIBRATION_SAMPLES),
        batch_size=50,
        max_new_tokens=4,
        say=print,
        **settings,
    )
    command = shlex.join(["python", "benchmarks/compare_results.py", *sys.argv[1:]])
    write_comparison(replace(found, machine=describe(), command=command), out, name)


if __name__ == "__main__":
    typer.run(main)
