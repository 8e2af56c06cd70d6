"""Methods side by side on the embedded model: the tables and pictures in docs/results, from one command.

    python benchmarks/compare_results.py --questions 2000

Writes compare-language and compare-all (.md, .json, .png), compare-modality (what weighing text and visual
tokens brings), trellis-ablations (what each part of the trellis brings) and parts-study (.md, .json both);
they share their runs. Nothing of an earlier call is used unless --work names its folder: the record of a run
knows the version of the package, not the state of its code.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from bivlm.cli.progress import Shown
from bivlm.cli.shared import quiet_libraries
from bivlm.data.samples import read_samples
from bivlm.errors import InputError
from bivlm.job.recipe import load_recipe, preset_names, split_presets
from bivlm.studies.compare.page import write_page
from bivlm.studies.compare.run import compare_presets
from bivlm.studies.picture import require_matplotlib
from bivlm.studies.study import RunSettings
from bivlm.types import PARTS
from bivlm.zoo import embedded_model
from machine import describe

RESULTS = Path(__file__).parent.parent / "docs" / "results"
CALIBRATION_SAMPLES = 32
WEIGHTED, WEIGHTS = ("gptq-1", "gptq-1.6", "bivlm"), ("tokens", "balanced", "0.05")
ABLATIONS = (
    "trellis-1",
    "trellis-1:rotation=false",
    "trellis-1:feedback=false",
    "trellis-1:refit=false",
    "trellis-1:window=12",
    "trellis-1:modality_weight=tokens",
    "trellis-1:modality_weight=balanced",
    "trellis-1:damping=0.1",
    "trellis-1:propagation=0.25",
    "trellis-1:tuning=4",
    "trellis-1:propagation=0.25,tuning=4",
    "trellis-1:distillation=1",
    "trellis-1:budget=1.06",
    "trellis-1:budget=1.06,budget_from=gradients",
    "trellis-1:budget=1.06,budget_from=gradients,distillation=1",
    "trellis-1.5",  # where there are bits to move between columns
    "trellis-1.5:allocation=false",
)


@dataclass(frozen=True)
class Result:
    """One comparison: its presets, empty for all that there are, what else `compare_presets` is told, and
    whether a picture says more.
    """

    presets: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    picture: bool = True


COMPARISONS = {
    "compare-language": Result(settings={"parts": ("language",)}),
    "compare-all": Result(settings={"parts": PARTS}),
    "compare-modality": Result(
        tuple(f"{preset}:modality_weight={weight}" for preset in WEIGHTED for weight in WEIGHTS),
        {"parts": ("language",)},
    ),
    "trellis-ablations": Result(ABLATIONS, {"parts": PARTS}, picture=False),
    "parts-study": Result(("bivlm-paper", "bivlm"), {"parts_study": True}),
}


def main(
    questions: Annotated[int, typer.Option(help="test questions for each model")] = 2000,
    only: Annotated[
        list[str] | None, typer.Option(help=f"which results: any of {', '.join(COMPARISONS)}; left out: all")
    ] = None,
    presets: Annotated[
        list[str] | None, typer.Option(help="other presets than the result's own, as for `bivlm compare`")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder for the results")] = RESULTS,
    work: Annotated[
        Path | None, typer.Option(help="folder for the runs, to continue in; left out: a temporary one")
    ] = None,
) -> None:
    """Compare, and write the results where people read them."""
    quiet_libraries()
    require_matplotlib()
    chosen = only or list(COMPARISONS)
    if unknown := [name for name in chosen if name not in COMPARISONS]:
        raise InputError(f"there is no result {unknown[0]!r}; there are {', '.join(COMPARISONS)}")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bivlm-compare-") as temporary:
        for name in chosen:
            print(f"{name}:")
            result = COMPARISONS[name]
            names = split_presets(presets) if presets else result.presets or preset_names()
            command = [
                "python",
                "benchmarks/compare_results.py",
                "--questions",
                str(questions),
                "--only",
                name,
            ]
            command += ["--presets", ",".join(presets)] if presets else []
            write_results(
                name, names, result, questions, work or Path(temporary) / "work", out, shlex.join(command)
            )


def write_results(
    name: str, presets: Sequence[str], result: Result, questions: int, work: Path, out: Path, command: str
) -> None:
    """One comparison on the embedded model, into `out`."""
    with Shown() as events:
        found = compare_presets(
            embedded_model(),
            [load_recipe(preset) for preset in presets],
            work,
            samples=read_samples("easy-vqa", split="test", limit=questions),
            calibration=read_samples("easy-vqa", split="train", limit=CALIBRATION_SAMPLES),
            settings=RunSettings(batch_size=50, max_new_tokens=4, command=command, events=events),
            **result.settings,
        )
    write_page(replace(found, machine=describe()), out, name, picture=result.picture)


if __name__ == "__main__":
    typer.run(main)
