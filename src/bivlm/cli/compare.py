"""bivlm compare: presets side by side on one model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bivlm.cli.running import DeviceOption, ThreadsOption, chosen_running
from bivlm.cli.shared import (
    ALL_PARTS,
    DATA_HELP,
    MORE,
    PRESETS_HELP,
    BatchOption,
    ColumnsOption,
    DataRootOption,
    JsonOption,
    LimitOption,
    ModelArgument,
    PartsOption,
    TaskOption,
    TaskTokensOption,
    TrustOption,
    columns_of,
    command,
    command_line,
    out_console,
    print_json,
    quiet_libraries,
    words,
)
from bivlm.errors import InputError
from bivlm.job.presets import COMPARED

if TYPE_CHECKING:
    from bivlm.studies.compare.result import Comparison
    from bivlm.types import Sample

MAX_NEW_TOKENS = 16  # of an answer, unless a task says otherwise

QuestionsOption = Annotated[
    str,
    typer.Option(
        help=f"{DATA_HELP}; its split test is asked, its split train calibrates", show_default=False
    ),
]
OutOption = Annotated[
    Path,
    typer.Option(
        help="folder for runs, table and picture; the same command continues in it", show_default=False
    ),
]
PresetsOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="A,B,…", help=f"{PRESETS_HELP}; left out: {', '.join(COMPARED)}", show_default=False
    ),
]
PartsStudyOption = Annotated[
    bool,
    typer.Option("--parts-study", help="pack every combination of parts instead, and make one table of them"),
]
OrderOption = Annotated[
    bool,
    typer.Option(
        "--in-order",
        help="rows in the order of --presets, and compared with the first of them; left out: by true bits",
        rich_help_panel=MORE,
    ),
]
CalibrationOption = Annotated[
    int,
    typer.Option(
        min=1,
        help="how many calibration questions to draw, for presets that need data",
        rich_help_panel=MORE,
    ),
]
CalibrationDataOption = Annotated[
    str | None,
    typer.Option(
        metavar="DATA",
        help=(
            "what to calibrate on, its split train; general is the built-in set. Left out: --data, and with"
            " --task the built-in set"
        ),
        show_default=False,
        rich_help_panel=MORE,
    ),
]
DrawsOption = Annotated[
    int,
    typer.Option(
        "--seeds",
        min=1,
        help=(
            "how many draws of calibration questions to pack every preset with that needs data: rows are"
            " their means"
        ),
        rich_help_panel=MORE,
    ),
]
SeedOption = Annotated[int, typer.Option(help="seed of both draws", rich_help_panel=MORE)]
KeepModelsOption = Annotated[
    bool,
    typer.Option("--keep-models", help="keep the packed models in OUT/models", rich_help_panel=MORE),
]


@command(
    "compare",
    MORE,
    "bivlm compare path/to/model --data vqa.jsonl --presets gptq-2,bivlm,gptq-3 --out comparison",
    "bivlm compare path/to/model --data vqa.jsonl --presets trellis-2,bivlm --in-order --seeds 3 --out runs",
    "bivlm compare path/to/model --data vqa.jsonl --presets rtn-3 --parts-study --out study",
)
def compare(
    model: ModelArgument,
    data: QuestionsOption,
    out: OutOption,
    presets: PresetsOption = None,
    parts: PartsOption = ALL_PARTS,
    parts_study: PartsStudyOption = False,
    calibration: CalibrationOption = 32,
    limit: LimitOption = None,
    seeds: DrawsOption = 1,
    seed: SeedOption = 0,
    batch_size: BatchOption = 32,
    task: TaskOption = None,
    calibration_data: CalibrationDataOption = None,
    max_new_tokens: TaskTokensOption = None,
    in_order: OrderOption = False,
    keep_models: KeepModelsOption = False,
    columns: ColumnsOption = None,
    data_root: DataRootOption = None,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    trust_remote_code: TrustOption = False,
    json_: JsonOption = False,
) -> None:
    """Pack a model with several presets, ask every packed model the same questions: accuracy by true bits.

    Writes a table, a picture and the numbers. Every finished run is in OUT/runs at once: interrupted, the
    same command continues, and a longer list of presets runs only the new ones.
    """
    quiet_libraries()
    from bivlm.cli.progress import Shown
    from bivlm.data.general_set import GENERAL
    from bivlm.data.samples import read_samples
    from bivlm.eval.scoring import BY_REFERENCES
    from bivlm.eval.tasks import samples_of_task, task_named
    from bivlm.job.recipe import load_recipe, split_presets
    from bivlm.studies.compare.page import write_page
    from bivlm.studies.compare.run import compare_presets
    from bivlm.studies.picture import require_matplotlib
    from bivlm.studies.study import RunSettings

    if not parts_study:
        require_matplotlib()
    place = str(chosen_running(device, threads=threads)["device"])
    recipes = [load_recipe(preset) for preset in split_presets(presets or COMPARED)]
    shown, names = Shown(), columns_of(columns)
    reading: dict[str, Any] = {"data_root": data_root, "columns": names}
    benchmark = None if task is None else task_named(task)
    asking = {"limit": limit, "seed": seed, "events": shown, **reading}
    if benchmark is None:
        samples = read_samples(data, split="test", answers_required=True, **asking)
    else:
        samples = samples_of_task(benchmark, data, **asking)
    draws = range(seed, seed + seeds) if any(recipe.needs_data for recipe in recipes) else ()
    taught = calibration_data or (data if benchmark is None else GENERAL)
    drawn = [_calibration(model, taught, calibration, draw, reading, trust_remote_code) for draw in draws]
    longest = max_new_tokens or (benchmark.max_new_tokens if benchmark else MAX_NEW_TOKENS)
    scorer = benchmark.scorer if benchmark else BY_REFERENCES
    with shown as events:
        found = compare_presets(
            model,
            recipes,
            out,
            samples=samples,
            calibration=drawn[0] if drawn else (),
            further_draws=drawn[1:],
            parts=words(parts),
            parts_study=parts_study,
            in_order=in_order,
            keep_models=keep_models,
            settings=RunSettings(
                batch_size, longest, command_line(), events, trust_remote_code, scorer, place
            ),
        )
        write_page(found, out)
    _show(found, out, json_)


def _calibration(
    model: str, data: str, count: int, seed: int, reading: dict[str, Any], trusted: bool
) -> list[Sample]:
    """Calibration samples: those of the built-in set that `bivlm quantize` would take for this model, or from
    the training split of a data set.
    """
    from bivlm.checkpoint.hub import resolve_model
    from bivlm.checkpoint.source import SourceModel
    from bivlm.data.general_set import GENERAL
    from bivlm.data.samples import read_samples
    from bivlm.job.samples import samples_for

    if data == GENERAL:
        source = SourceModel(resolve_model(model, trusted), trust_remote_code=trusted)
        return samples_for(source, count, seed)
    return read_samples(data, split="train", limit=count, seed=seed, **reading)


def _show(found: Comparison, out: Path, json_: bool) -> None:
    """Print what was found. InputError when a run failed."""
    from bivlm.studies.compare.table import comparison_table, remarks

    if json_:
        print_json(found)
    else:
        out_console.print(comparison_table(found))
        for remark in remarks(found):
            out_console.print(remark, highlight=False, soft_wrap=True)
        picture = "" if found.study else ", comparison.png"
        out_console.print(f"Results in [bold]{out}[/bold]: comparison.md, comparison.json{picture}")
    if found.failed:
        raise InputError(
            f"{len(found.failed)} of {len(found.rows) - 1} runs failed; the table names the reasons, and the"
            " others are measured"
        )
