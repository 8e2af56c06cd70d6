"""bivlm prune: how many visual tokens a model can do without."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bivlm.cli.running import DeviceOption, ThreadsOption, chosen_running
from bivlm.cli.shared import (
    MORE,
    BatchOption,
    ColumnsOption,
    DataOption,
    DataRootOption,
    JsonOption,
    LimitOption,
    ModelArgument,
    SeedOption,
    SplitOption,
    TokensOption,
    TrustOption,
    columns_of,
    command,
    command_line,
    numbers,
    out_console,
    print_json,
    pruner_names,
    quiet_libraries,
    split_of,
    words,
)

if TYPE_CHECKING:
    from bivlm.pruning.settings import Pruning

OutOption = Annotated[
    Path,
    typer.Option(
        help="folder for runs, table and heat map; the same command continues in it", show_default=False
    ),
]
PrunersOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="A,B,…",
        help=(
            f"pruners, of {', '.join(pruner_names())}, with settings after a colon: attention:attending=last;"
            " left out: all"
        ),
    ),
]
LayersOption = Annotated[
    str | None,
    typer.Option(
        metavar="2,5,…", help="blocks from which on tokens are dropped; left out: six over the depth"
    ),
]
KeepOption = Annotated[str, typer.Option(metavar="SHARES", help="shares of the tokens that stay")]
SitesOption = Annotated[
    str,
    typer.Option(
        help="where: any of language, input (before the language model), vision (inside the tower)",
        rich_help_panel=MORE,
    ),
]
KindOption = Annotated[str, typer.Option(help="image; or text, a probe", rich_help_panel=MORE)]
ReferenceOption = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="measure KL against this model instead of MODEL without pruning",
        show_default=False,
        rich_help_panel=MORE,
    ),
]
RankingOption = Annotated[
    bool,
    typer.Option(
        "--ranking",
        help="let the reference choose the tokens too: do the two models keep the same ones?",
        rich_help_panel=MORE,
    ),
]


@command(
    "prune",
    MORE,
    "bivlm prune out --data vqa.jsonl --layers 2,5,10 --out study",
    "bivlm prune out --data vqa.jsonl --reference path/to/model --ranking --out study",
)
def prune(
    model: ModelArgument,
    data: DataOption,
    out: OutOption,
    pruners: PrunersOption = None,
    layers: LayersOption = None,
    keep: KeepOption = "0.75,0.5,0.25,0.14,0.05,0.01",
    sites: SitesOption = "language",
    tokens: KindOption = "image",
    reference: ReferenceOption = None,
    ranking: RankingOption = False,
    limit: LimitOption = None,
    seed: SeedOption = 0,
    batch_size: BatchOption = 32,
    max_new_tokens: TokensOption = 16,
    split: SplitOption = None,
    columns: ColumnsOption = None,
    data_root: DataRootOption = None,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    trust_remote_code: TrustOption = False,
    json_: JsonOption = False,
) -> None:
    """Drop visual tokens with several pruners, from several blocks on: accuracy, time, memory by what stays.

    Writes a table, a heat map and the numbers. Every finished cell is in OUT/runs at once: interrupted, the
    same command continues, and a longer list runs only what is new.
    """
    quiet_libraries()
    from bivlm.cli.progress import Shown
    from bivlm.data.samples import read_samples
    from bivlm.studies.picture import require_matplotlib
    from bivlm.studies.prune.page import write_page
    from bivlm.studies.prune.run import default_layers, study_pruning
    from bivlm.studies.prune.table import redundancy_table
    from bivlm.studies.study import RunSettings

    require_matplotlib()
    place = str(chosen_running(device, threads=threads)["device"])
    depth = (
        default_layers(model, trust_remote_code)
        if layers is None
        else numbers(layers, int, "--layers", "block numbers: 2,5,10")
    )
    prunings = _prunings(pruners, sites, depth, keep, tokens)
    shown = Shown()
    samples = read_samples(
        data,
        split=split_of(split, "test"),
        limit=limit,
        seed=seed,
        answers_required=True,
        data_root=data_root,
        columns=columns_of(columns),
        events=shown,
    )
    with shown as events:
        found = study_pruning(
            model,
            prunings,
            out,
            samples=samples,
            reference=reference,
            ranking=ranking,
            settings=RunSettings(
                batch_size, max_new_tokens, command_line(), events, trust_remote_code, device=place
            ),
        )
        write_page(found, out)
    if json_:
        print_json(found)
        return
    out_console.print(redundancy_table(found))
    out_console.print(f"Results in [bold]{out}[/bold]: pruning.md, pruning.json, pruning.png", soft_wrap=True)


def _prunings(
    pruners: list[str] | None, sites: str, depth: list[int], keep: str, tokens: str
) -> list[Pruning]:
    """Every pruning that the options ask for, each once."""
    from bivlm.job.recipe import split_presets
    from bivlm.pruning import PRUNERS
    from bivlm.pruning.settings import sweep

    shares = numbers(keep, float, "--keep", "shares: 0.5,0.25")
    return sweep(split_presets(pruners or sorted(PRUNERS)), words(sites), depth, shares, tokens)
