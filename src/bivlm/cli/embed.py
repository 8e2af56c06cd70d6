"""bivlm embed: vectors of texts and images, and what a search with them finds."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from bivlm.cli.running import (
    ActivationsOption,
    DeviceOption,
    DtypeOption,
    ExpandOption,
    ThreadsOption,
    chosen_running,
)
from bivlm.cli.shared import (
    MAIN,
    MORE,
    DataRootOption,
    JsonOption,
    MaxPixelsOption,
    MinPixelsOption,
    ModelArgument,
    SeedOption,
    TrustOption,
    command,
    out_console,
    print_json,
    quiet_libraries,
)
from bivlm.errors import InputError


class PoolingName(StrEnum):
    """How one vector is made of a prompt's hidden states."""

    LAST = "last"
    MEAN = "mean"


class PromptName(StrEnum):
    """What stands around an item."""

    CHAT = "chat"
    PLAIN = "plain"


RowsOption = Annotated[
    str,
    typer.Option(
        "--data",
        help=(
            "rows with query, positives and candidates, each a text or {text, image}; or items to embed, with"
            " text and image: a file (JSON, JSONL, parquet), a folder, or OWNER/NAME of the hub"
        ),
        show_default=False,
    ),
]
VectorsOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="new safetensors file for the vectors and their ids"),
]
PoolingOption = Annotated[
    PoolingName,
    typer.Option(
        help="last: the state of the prompt's last token; mean: of all; the model's card says which"
    ),
]
ReferenceOption = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL", help="full-precision model: adds drift and agreement of the nearest neighbours"
    ),
]
PromptOption = Annotated[
    PromptName,
    typer.Option(
        "--prompt",
        help="chat: by the chat template; plain: images and text alone, as VLM2Vec was trained",
        rich_help_panel=MORE,
    ),
]
SystemOption = Annotated[
    str, typer.Option(metavar="TEXT", help="system prompt of every item", rich_help_panel=MORE)
]
RowLimitOption = Annotated[
    int | None, typer.Option("--limit", min=1, help="draw this many rows instead of all", show_default=False)
]
RowSplitOption = Annotated[
    str | None,
    typer.Option("--split", metavar="NAME", help="which split of the data to read", rich_help_panel=MORE),
]
ItemsOption = Annotated[
    int, typer.Option("--batch-size", min=1, help="items embedded at a time", rich_help_panel=MORE)
]


@command(
    "embed",
    MAIN,
    "bivlm embed out --data search.jsonl --reference path/to/model",
    "bivlm embed out --data photos.jsonl --out vectors.safetensors --pooling mean",
)
def embed(
    model: ModelArgument,
    data: RowsOption,
    out: VectorsOption = None,
    pooling: PoolingOption = PoolingName.LAST,
    reference: ReferenceOption = None,
    limit: RowLimitOption = None,
    seed: SeedOption = 0,
    prompt: PromptOption = PromptName.CHAT,
    system: SystemOption = "",
    batch_size: ItemsOption = 16,
    max_pixels: MaxPixelsOption = None,
    min_pixels: MinPixelsOption = None,
    split: RowSplitOption = None,
    data_root: DataRootOption = None,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
    activations: ActivationsOption = "float",
    expand: ExpandOption = None,
    trust_remote_code: TrustOption = False,
    json_: JsonOption = False,
) -> None:
    """Embed texts and images with a model, packed or not, and measure a search with the vectors.

    Hit@k, MRR and nDCG@5 with 95 % intervals; with --reference also how far the vectors have moved.
    """
    quiet_libraries()
    from bivlm.cli.progress import Shown
    from bivlm.data.retrieval import read_retrieval
    from bivlm.eval.embedding.files import check_new, write_vectors
    from bivlm.eval.embedding.run import measure_embedding

    if out is not None:
        check_new(out)
    running = chosen_running(device, dtype, threads, activations, expand, expanded=True)
    rows = read_retrieval(data, split=split, limit=limit, seed=seed, system=system, data_root=data_root)
    if out is None and not rows.queries and reference is None:
        raise InputError("the data has no queries, so there is nothing to measure; give --out or --reference")
    how: dict[str, Any] = {"pooling": pooling.value, "prompt": prompt.value}
    with Shown() as events:
        result, vectors = measure_embedding(
            model,
            rows,
            reference=reference,
            batch_size=batch_size,
            running=running,
            max_pixels=max_pixels,
            min_pixels=min_pixels,
            trust_remote_code=trust_remote_code,
            events=events,
            **how,
        )
    if out is not None:
        write_vectors(out, vectors, rows, {**how, "system": system})
    if json_:
        print_json(result)
        return
    from bivlm.cli.tables import embedding_tables

    for table in embedding_tables(model, result):
        out_console.print(table)
    if out is not None:
        out_console.print(f"Vectors in [bold]{out}[/bold]", highlight=False)
