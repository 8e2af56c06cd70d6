"""bivlm adapt: a small adapter that makes up for what packing lost, or learns a task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bivlm.cli.shared import (
    DATA_HELP,
    MAIN,
    MORE,
    ColumnsOption,
    DataRootOption,
    JsonOption,
    ModelArgument,
    SeedOption,
    SplitOption,
    TrustOption,
    columns_of,
    command,
    out_console,
    print_json,
    quiet_libraries,
    split_of,
)

if TYPE_CHECKING:
    from bivlm.adapting.run import Adapted

OutArgument = Annotated[
    Path, typer.Argument(metavar="OUT", help="folder for the adapter", show_default=False)
]
TrainingOption = Annotated[str, typer.Option(help=f"training {DATA_HELP}", show_default=False)]
TeacherOption = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help=(
            "full-precision model whose answers are learned, by the KL divergence; left out: the answers of"
            " the data are learned"
        ),
        show_default=False,
    ),
]
RankOption = Annotated[
    int | None, typer.Option(min=1, help="components for every linear; left out: 8", show_default=False)
]
BudgetOption = Annotated[
    float | None,
    typer.Option(
        "--budget-bits",
        help="instead of a rank: as many components as so many bits per packed weight allow (0.1)",
        show_default=False,
    ),
]
WidthOption = Annotated[
    int,
    typer.Option(
        help="bits of each number: 8; or 16 or 32, which peft reads too",
        rich_help_panel=MORE,
    ),
]
LinearsOption = Annotated[
    str,
    typer.Option(
        metavar="GLOB",
        help="which packed linears get an adapter, by their names: '*language*q_proj'",
        rich_help_panel=MORE,
    ),
]
SamplesOption = Annotated[
    int, typer.Option(min=4, help="how many questions to draw from --data; every fourth judges")
]
EpochsOption = Annotated[int, typer.Option(min=1, help="passes over the questions")]
RateOption = Annotated[float, typer.Option(help="learning rate at the start", rich_help_panel=MORE)]
BatchOption = Annotated[int, typer.Option(min=1, help="questions in a step", rich_help_panel=MORE)]
GivenOption = Annotated[
    bool,
    typer.Option(
        "--given-answers",
        help="the teacher judges the answers of the data instead of its own",
        rich_help_panel=MORE,
    ),
]


@command(
    "adapt",
    MAIN,
    "bivlm adapt out adapter --data vqa.jsonl --teacher path/to/model --budget-bits 0.1",
    'bivlm ask out --adapter adapter --image photo.jpg "How many?"',
)
def adapt(
    model: ModelArgument,
    out: OutArgument,
    data: TrainingOption,
    teacher: TeacherOption = None,
    rank: RankOption = None,
    budget_bits: BudgetOption = None,
    samples: SamplesOption = 512,
    epochs: EpochsOption = 1,
    bits: WidthOption = 8,
    linears: LinearsOption = "*",
    rate: RateOption = 1e-3,
    batch_size: BatchOption = 8,
    given_answers: GivenOption = False,
    seed: SeedOption = 0,
    split: SplitOption = None,
    columns: ColumnsOption = None,
    data_root: DataRootOption = None,
    trust_remote_code: TrustOption = False,
    json_: JsonOption = False,
) -> None:
    """Train a small low-rank adapter (LoRA) for a packed model; the packed weights stay as they are.

    The model is judged on questions that are not learned from; if no adapter makes it better there, none is
    written. Interrupted, the same command continues.
    """
    quiet_libraries()
    from bivlm.adapting.run import adapt
    from bivlm.adapting.settings import AdaptSettings
    from bivlm.cli.progress import Shown

    settings = AdaptSettings(
        rank=rank,
        budget_bits=budget_bits,
        bits=bits,
        linears=linears,
        epochs=epochs,
        rate=rate,
        batch_size=batch_size,
        seed=seed,
        given_answers=given_answers,
    )
    with Shown() as events:
        result = adapt(
            model,
            out,
            data,
            teacher=teacher,
            settings=settings,
            samples=samples,
            data_root=data_root,
            trust_remote_code=trust_remote_code,
            split=split_of(split, "train"),
            columns=columns_of(columns),
            events=events,
        )
    if json_:
        print_json(result)
    else:
        _show(result, model)


def _show(result: Adapted, model: str) -> None:
    start, best = result.losses[0], min(result.losses)
    if result.folder is None:
        out_console.print(
            f"No adapter was better than none: the held-out loss was {start:.5f} before training and"
            f" {min(result.losses[1:], default=start):.5f} at best. Nothing is written; more questions"
            " (--samples) or a smaller --rate may help.",
            soft_wrap=True,
        )
        return
    ranks = sorted(set(result.ranks.values()))
    rank = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
    bits = f"{result.base_bits:.3f} + {result.adapter_bits:.3f} = {result.bits:.3f}"
    out_console.print(
        f"Held-out loss {start:.5f} before, {best:.5f} now. {len(result.ranks)} linears with rank {rank}:"
        f" true bits per packed weight {bits}.",
        soft_wrap=True,
    )
    out_console.print(
        f"Adapter in [bold]{result.folder}[/bold]; use it with: bivlm ask {model} --adapter {result.folder}"
        " --image IMAGE QUESTION",
        soft_wrap=True,
    )
