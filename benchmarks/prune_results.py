"""How many visual tokens the embedded model can do without, in full precision and packed: the tables and heat
maps in docs/results, from one command.

    python benchmarks/prune_results.py --questions 400

Writes, each as .md, .json and .png: prune-full (every pruner, dropped inside the language model), prune-sites
(dropped before it and inside the vision tower), prune-text (text tokens, the probe), and prune-bivlm and
prune-bivlm-1 (the model packed by these presets, each also choosing its tokens by the full-precision model's
ranking). --work keeps the packed models and the runs, to continue in.
"""

from __future__ import annotations

import shlex
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from bivlm.cli.progress import Shown
from bivlm.cli.shared import quiet_libraries
from bivlm.data.samples import read_samples
from bivlm.errors import InputError
from bivlm.job.run import quantize
from bivlm.pruning.settings import sweep
from bivlm.studies.picture import require_matplotlib
from bivlm.studies.prune.page import write_page
from bivlm.studies.prune.run import study_pruning
from bivlm.studies.study import RunSettings
from bivlm.zoo import embedded_model
from machine import describe

RESULTS = Path(__file__).parent.parent / "docs" / "results"
CALIBRATION_SAMPLES = 32
LAST = "attention:attending=last"


@dataclass(frozen=True)
class Study:
    """What one study sweeps; `preset` packs the model first, and lets the full-precision one choose as
    well.
    """

    pruners: tuple[str, ...]
    layers: tuple[int, ...]
    keeps: tuple[float, ...] = (0.75, 0.5, 0.25, 0.14, 0.05, 0.01)
    sites: tuple[str, ...] = ("language",)
    tokens: str = "image"
    preset: str | None = None


RANKED = Study(("attention", LAST, "diversity"), (0, 1, 2, 4), (0.5, 0.25, 0.05))
STUDIES = {
    "prune-full": Study(("attention", LAST, "diversity", "grid", "joined", "random"), (0, 1, 2, 4)),
    "prune-sites": Study(("attention", "diversity", "grid"), (0, 3), sites=("input", "vision")),
    "prune-text": Study(("attention", "random"), (0, 2, 4), (0.75, 0.5, 0.25), tokens="text"),
    "prune-bivlm": replace(RANKED, preset="bivlm"),
    "prune-bivlm-1": replace(RANKED, preset="bivlm-1"),
}


def main(
    questions: Annotated[int, typer.Option(help="test questions for each cell")] = 400,
    only: Annotated[
        list[str] | None, typer.Option(help=f"which results: any of {', '.join(STUDIES)}; left out: all")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder for the results")] = RESULTS,
    work: Annotated[
        Path | None,
        typer.Option(help="folder for packed models and runs, to continue in; left out: a temporary one"),
    ] = None,
) -> None:
    """Sweep, and write the results where people read them."""
    quiet_libraries()
    require_matplotlib()
    chosen = only or list(STUDIES)
    if unknown := [name for name in chosen if name not in STUDIES]:
        raise InputError(f"there is no result {unknown[0]!r}; there are {', '.join(STUDIES)}")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bivlm-prune-") as temporary:
        for name in chosen:
            print(f"{name}:")
            command = ["python", "benchmarks/prune_results.py", "--questions", str(questions), "--only", name]
            write_results(name, STUDIES[name], questions, work or Path(temporary), out, shlex.join(command))


def write_results(name: str, study: Study, questions: int, work: Path, out: Path, command: str) -> None:
    """One study on the embedded model, into `out`."""
    full, model = embedded_model(), embedded_model()
    if study.preset is not None:
        model = work / study.preset
        if not (model / "config.json").exists():
            quantize(
                full,
                model,
                recipe=study.preset,
                data=read_samples("easy-vqa", split="train", limit=CALIBRATION_SAMPLES),
            )
    with Shown() as events:
        found = study_pruning(
            model,
            sweep(study.pruners, study.sites, study.layers, study.keeps, study.tokens),
            work / name,
            samples=read_samples("easy-vqa", split="test", limit=questions),
            reference=None if study.preset is None else full,
            ranking=study.preset is not None,
            settings=RunSettings(batch_size=50, max_new_tokens=4, command=command, events=events),
        )
    write_page(replace(found, machine=describe()), out, name)


if __name__ == "__main__":
    typer.run(main)
