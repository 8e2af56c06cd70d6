"""Commands that set many measurements side by side: presets, prunings, layers. They write a folder of
results, and continue what was interrupted.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from bivlm.cli.shared import (
    DATA_HELP,
    PRESETS_HELP,
    BatchOption,
    JsonOption,
    ModelArgument,
    app,
    note,
    out_console,
    print_json,
    quiet_libraries,
    stages,
)
from bivlm.errors import InputError


@app.command()
def compare(
    model: ModelArgument,
    data: Annotated[
        str,
        typer.Option(
            help=f"{DATA_HELP}; its split test is asked, its split train calibrates", show_default=False
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="folder for runs, table and picture; the same command continues in it", show_default=False
        ),
    ],
    presets: Annotated[
        list[str] | None, typer.Option(metavar="A,B,…", help=PRESETS_HELP, show_default=False)
    ] = None,
    parts: Annotated[
        str, typer.Option(help="which parts to pack: any of vision,projector,language")
    ] = "vision,projector,language",
    parts_study: Annotated[
        bool,
        typer.Option(
            "--parts-study", help="pack every combination of parts instead, and make one table of them"
        ),
    ] = False,
    calibration: Annotated[
        int, typer.Option(min=1, help="how many calibration questions to draw, for presets that need data")
    ] = 32,
    limit: Annotated[
        int | None, typer.Option(min=1, help="draw this many test questions instead of all")
    ] = None,
    seed: Annotated[int, typer.Option(help="seed of both draws")] = 0,
    batch_size: BatchOption = 32,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="longest answer, in tokens")] = 16,
    keep_models: Annotated[
        bool, typer.Option("--keep-models", help="keep the packed models in OUT/models")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Pack a model with several presets, ask every packed model the same questions, and set accuracy against
    true bits: table, JSON, picture.

    Every finished run is in OUT/runs at once: interrupted, the same command continues, and a longer list of
    presets runs only the new ones.
    """
    quiet_libraries()
    from bivlm.data.samples import read_samples
    from bivlm.job.recipe import load_recipe, split_presets
    from bivlm.studies.compare.plot import require_matplotlib
    from bivlm.studies.compare.run import compare_presets
    from bivlm.studies.compare.table import comparison_table, remarks

    if not parts_study:
        require_matplotlib()
    recipes = [load_recipe(preset) for preset in split_presets(presets or [])]
    samples = read_samples(data, split="test", limit=limit, seed=seed, answers_required=True)
    drawn = (
        read_samples(data, split="train", limit=calibration, seed=seed)
        if any(recipe.needs_data for recipe in recipes)
        else []
    )
    with stages() as on_progress:
        found = compare_presets(
            model,
            recipes,
            out,
            samples=samples,
            calibration=drawn,
            parts=[part.strip() for part in parts.split(",")],
            parts_study=parts_study,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            keep_models=keep_models,
            command=shlex.join(["bivlm", *sys.argv[1:]]),
            say=lambda line: note.print(line, highlight=False, soft_wrap=True),
            on_progress=on_progress,
        )
    if json_:
        print_json(found)
    else:
        out_console.print(comparison_table(found, out_console.width))
        for remark in remarks(found):
            out_console.print(remark, highlight=False, soft_wrap=True)
        out_console.print(
            f"Results in [bold]{out}[/bold]: comparison.md,"
            f" comparison.json{'' if parts_study else ', comparison.png'}"
        )
    if found.failed:
        raise InputError(
            f"{len(found.failed)} of {len(found.rows) - 1} runs failed; the table names the reasons, and the"
            " others are measured"
        )


@app.command()
def prune(
    model: ModelArgument,
    data: Annotated[str, typer.Option(help=DATA_HELP, show_default=False)],
    out: Annotated[
        Path,
        typer.Option(
            help="folder for runs, table and heat map; the same command continues in it", show_default=False
        ),
    ],
    pruners: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A,B,…",
            help="pruners, with settings behind a colon: attention:attending=last; left out: all",
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="2,5,…", help="blocks from which on tokens are dropped; left out: six over the depth"
        ),
    ] = None,
    keep: Annotated[
        str, typer.Option(metavar="SHARES", help="shares of the tokens that stay")
    ] = "0.75,0.5,0.25,0.14,0.05,0.01",
    sites: Annotated[
        str,
        typer.Option(
            help="where: any of language, input (before the language model), vision (inside the tower)"
        ),
    ] = "language",
    tokens: Annotated[str, typer.Option(help="image; or text, a probe")] = "image",
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="measure KL against this model instead of MODEL without pruning",
            show_default=False,
        ),
    ] = None,
    ranking: Annotated[
        bool,
        typer.Option(
            "--ranking", help="let the reference choose the tokens too: do the two models keep the same ones?"
        ),
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="draw this many test questions instead of all")
    ] = None,
    seed: Annotated[int, typer.Option(help="seed of that draw")] = 0,
    batch_size: BatchOption = 32,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="longest answer, in tokens")] = 16,
    json_: JsonOption = False,
) -> None:
    """Drop visual tokens with several pruners, from several blocks on, and set accuracy, time and memory
    against the share that stays.

    Every finished cell is in OUT/runs at once: interrupted, the same command continues, and a longer list
    runs only what is new.
    """
    quiet_libraries()
    from bivlm.data.samples import read_samples
    from bivlm.job.recipe import split_presets
    from bivlm.pruning import PRUNERS
    from bivlm.pruning.settings import sweep
    from bivlm.studies.prune.run import default_layers, study_pruning
    from bivlm.studies.prune.table import redundancy_table

    depth = (
        numbers(layers, int, "--layers", "block numbers: 2,5,10")
        if layers is not None
        else default_layers(model)
    )
    shares = numbers(keep, float, "--keep", "shares: 0.5,0.25")
    prunings = sweep(split_presets(pruners or sorted(PRUNERS)), sites.split(","), depth, shares, tokens)
    samples = read_samples(data, split="test", limit=limit, seed=seed, answers_required=True)
    with stages() as on_progress:
        found = study_pruning(
            model,
            prunings,
            out,
            samples=samples,
            reference=reference,
            ranking=ranking,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            command=shlex.join(["bivlm", *sys.argv[1:]]),
            say=lambda line: note.print(line, highlight=False, soft_wrap=True),
            on_progress=on_progress,
        )
    if json_:
        print_json(found)
    else:
        out_console.print(redundancy_table(found))
        out_console.print(
            f"Results in [bold]{out}[/bold]: pruning.md, pruning.json, pruning.png", soft_wrap=True
        )


@app.command()
def analyze(
    model: ModelArgument,
    out: Annotated[
        Path,
        typer.Option(help="folder for the page of plots, the tables and the numbers", show_default=False),
    ],
    json_: JsonOption = False,
) -> None:
    """Look at the weights of a full-precision model: histograms and fitted Gaussian, KL divergence and
    outliers by depth, what a tail gains.
    """
    quiet_libraries()
    from bivlm.studies.analyze.run import analyze as analyze_model
    from bivlm.studies.analyze.table import analysis_table

    with stages() as on_progress:
        found = analyze_model(
            model, out, command=shlex.join(["bivlm", *sys.argv[1:]]), on_progress=on_progress
        )
    if json_:
        print_json(found)
    else:
        out_console.print(analysis_table(found))
        out_console.print(
            f"Results in [bold]{out}[/bold]: analysis.png, analysis.md, analysis.json", soft_wrap=True
        )


def numbers(text: str, kind: type[int] | type[float], option: str, like: str) -> list[Any]:
    """ "2,5" as [2, 5]. Raises InputError that says how it is written."""
    try:
        return [kind(word) for word in text.split(",")]
    except ValueError as error:
        raise InputError(f"{option} is {text!r}; give {like}") from error
