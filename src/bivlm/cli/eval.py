"""bivlm eval: accuracy on a question set, and fidelity to a reference model."""

from __future__ import annotations

from typing import Annotated

import typer

from bivlm.cli.shared import (
    MAIN,
    MORE,
    AdapterOption,
    BatchOption,
    ColumnsOption,
    DataOption,
    DataRootOption,
    JsonOption,
    LimitOption,
    MaxPixelsOption,
    MinPixelsOption,
    ModelArgument,
    PruneOption,
    SeedOption,
    SplitOption,
    TokensOption,
    chosen_pruning,
    columns_of,
    command,
    out_console,
    print_json,
    quiet_libraries,
    split_of,
)

ReferenceOption = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="full-precision model: adds KL divergence and top-1 agreement of the answer tokens",
    ),
]
ShuffleOption = Annotated[
    bool,
    typer.Option(
        "--shuffle-images", help="control: ask every question about another image", rich_help_panel=MORE
    ),
]
KeepSeenOption = Annotated[
    bool,
    typer.Option(
        "--keep-seen",
        help="ask the questions too on which the packed model was calibrated; without it they are left out",
        rich_help_panel=MORE,
    ),
]


@command(
    "eval",
    MAIN,
    "bivlm eval out --data vqa.jsonl --reference path/to/model",
    "bivlm eval out --data easy-vqa --limit 500 --prune none",
)
def evaluate(
    model: ModelArgument,
    data: DataOption,
    reference: ReferenceOption = None,
    limit: LimitOption = None,
    seed: SeedOption = 0,
    batch_size: BatchOption = 32,
    max_new_tokens: TokensOption = 16,
    prune: PruneOption = None,
    adapter: AdapterOption = None,
    max_pixels: MaxPixelsOption = None,
    min_pixels: MinPixelsOption = None,
    shuffle_images: ShuffleOption = False,
    keep_seen: KeepSeenOption = False,
    split: SplitOption = None,
    columns: ColumnsOption = None,
    data_root: DataRootOption = None,
    json_: JsonOption = False,
) -> None:
    """Measure a model on visual questions: accuracy with its 95 % interval, and fidelity to a reference."""
    quiet_libraries()
    from bivlm.cli.progress import Shown
    from bivlm.cli.tables import result_table
    from bivlm.data.samples import read_samples
    from bivlm.data.samples import shuffle_images as shuffled
    from bivlm.eval.measure import measure
    from bivlm.eval.seen import unseen

    shown = Shown()
    chosen = read_samples(
        data,
        split=split_of(split, "test"),
        limit=limit,
        seed=seed,
        answers_required=True,
        data_root=data_root,
        columns=columns_of(columns),
        events=shown,
    )
    if not keep_seen:
        chosen = unseen(model, chosen, shown)
    if shuffle_images:
        chosen = shuffled(chosen, seed)
    with shown as events:
        result = measure(
            model,
            chosen,
            reference=reference,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            pruning=chosen_pruning(prune),
            adapter=adapter,
            max_pixels=max_pixels,
            min_pixels=min_pixels,
            events=events,
        )
    if json_:
        print_json(result)
    else:
        out_console.print(result_table({model if adapter is None else f"{model} + {adapter}": result}))
