"""Methods side by side on the embedded model: the tables and pictures in docs/results, from one command.

    python benchmarks/compare_results.py --questions 2000

Writes, each as .md and .json, the first three also as .png:

compare-language, compare-all     all presets, the language model alone and all parts
compare-modality                  what weighing text and visual tokens brings
trellis-ablations, …-ablations-2  what each part of the trellis brings at one and at two bits: three draws of
                                  the calibration questions, every row compared with the first
peers-1, peers-2                  other methods of about one and two bits, compared with the trellis likewise
parts-study                       every combination of parts

They share their runs. Nothing of an earlier call is used unless --work names its folder: the record of a run
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
from bivlm.job.presets import preset_names
from bivlm.job.recipe import load_recipe, split_presets
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
    "rotation=false",
    "feedback=false",
    "refit=false",
    "spread=1.05",
    "window=12",
    "modality_weight=tokens",
    "modality_weight=balanced",
    "gradient_power=0.5",
    "damping=0.1",
    "propagation=0.25",
    "tuning=4",
    "propagation=0.25,tuning=4",
    "distillation=1",
)
BUDGETS = (
    "budget={bits}",
    "budget={bits},budget_from=gradients",
    "budget={bits},budget_from=gradients,distillation=1",
)
BUDGETED = tuple(f"trellis-{bits}:budget={bits},budget_from=gradients" for bits in ("1", "1.5", "2"))
PEERS = {
    "peers-1": ("trellis-1", "dbf-1", "sign-feedback-1", "gptq-1", "bivlm-1", "sign-1"),
    "peers-2": (
        *(
            "trellis-2",
            "dbf-2",
            "leanquant-2",
            "squeezellm-2",
            "gptq-lloyd-2",
            "gptq-2",
            "squeezellm-sparse-2",
        ),
        *("bivlm", "mbq-2", "awq-2", "rtn-2"),
    ),
}


def ablations(preset: str, bits: float) -> tuple[str, ...]:
    """The preset, then with each part changed, then with its bits dealt out by a budget."""
    changes = (*ABLATIONS, *(budget.format(bits=bits) for budget in BUDGETS))
    return (preset, *(f"{preset}:{change}" for change in changes))


@dataclass(frozen=True)
class Result:
    """One comparison: its presets, empty for all that there are and the budgets; what else `compare_presets`
    is told, the number of draws of the calibration questions, and whether a picture says more.
    """

    presets: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    draws: int = 1
    picture: bool = True


TOLD: dict[str, Any] = {"parts": PARTS, "in_order": True}
COMPARISONS = {
    "compare-language": Result(settings={"parts": ("language",)}),
    "compare-all": Result(settings={"parts": PARTS}),
    "compare-modality": Result(
        tuple(f"{preset}:modality_weight={weight}" for preset in WEIGHTED for weight in WEIGHTS),
        {"parts": ("language",)},
    ),
    "trellis-ablations": Result(
        (*ablations("trellis-1", 1.06), "trellis-1.5", "trellis-1.5:allocation=false"), TOLD, 3, False
    ),  # allocation moves bits between columns, where there are some
    "trellis-ablations-2": Result(ablations("trellis-2", 2.06), TOLD, 3, False),
    **{name: Result(presets, TOLD, 3, False) for name, presets in PEERS.items()},
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
            names = split_presets(presets) if presets else result.presets or (*preset_names(), *BUDGETED)
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
    draws = [
        read_samples("easy-vqa", split="train", limit=CALIBRATION_SAMPLES, seed=seed)
        for seed in range(result.draws)
    ]
    with Shown() as events:
        found = compare_presets(
            embedded_model(),
            [load_recipe(preset) for preset in presets],
            work,
            samples=read_samples("easy-vqa", split="test", limit=questions),
            calibration=draws[0],
            further_draws=draws[1:],
            settings=RunSettings(batch_size=50, max_new_tokens=4, command=command, events=events),
            **result.settings,
        )
    write_page(replace(found, machine=describe()), out, name, picture=result.picture)


if __name__ == "__main__":
    typer.run(main)
