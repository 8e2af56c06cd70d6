"""What the commands share: the application, the consoles, options that several take, JSON, progress bars."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from bivlm.job.run import Prepared

app = typer.Typer(
    help=(
        "Vision-language models in two bits or less per weight, really on the disk: quantize, ask, measure,"
        " prune."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
PAGE = 160  # characters of a table that goes to a file or a pipe
out_console, note = Console(width=None if sys.stdout.isatty() else PAGE), Console(stderr=True)

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="model folder, or OWNER/NAME on the Hugging Face hub", show_default=False
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]
DATA_HELP = (
    "questions: a JSONL file (image, question, answer or answers), a folder with metadata.jsonl, a saved"
    " Hugging Face dataset, or easy-vqa"
)
PRESETS_HELP = (
    "presets or recipe files, separated by commas; may be repeated. Settings follow a colon:"
    " bivlm-paper,bivlm:bands=5,granularity=group (what looks like NAME=VALUE belongs to the preset"
    " before it)"
)
PRUNE_HELP = (
    "which visual tokens to drop: PRUNER:NAME=VALUE,…, for example attention:layer=2,keep=0.25; "
    "pruners are attention, diversity, grid, joined, random"
)
PruneOption = Annotated[
    str | None,
    typer.Option(
        "--prune", help=f"{PRUNE_HELP}; none for none; left out: what the checkpoint says", show_default=False
    ),
]
BatchOption = Annotated[int, typer.Option(min=1, help="questions answered at a time")]


def quiet_libraries() -> None:
    """transformers' own progress bars and advice stay out of the output; what is wrong is said by this
    package.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def chosen_pruning(text: str | None) -> str | None:
    """What --prune means for `bivlm.load`: left out, the checkpoint's own; "none", none."""
    from bivlm.loading import FROM_CHECKPOINT

    return FROM_CHECKPOINT if text is None else None if text == "none" else text


def print_json(content: Any) -> None:
    """One JSON document on standard output; dataclasses become objects."""

    def plain(value: Any) -> Any:
        if hasattr(value, "to_dict"):
            return value.to_dict()
        if is_dataclass(value) and not isinstance(value, type):
            return asdict(value)
        raise TypeError(f"{type(value).__name__} is no JSON")

    print(json.dumps(content, default=plain, indent=2, ensure_ascii=False))


@contextmanager
def block_progress(prepared: Prepared) -> Iterator[Any]:
    """A bar over the blocks on the terminal: seconds left, error and bits of the last block, resident memory;
    plain lines when it is no terminal.
    """
    import psutil
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    process = psutil.Process()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[last]}"),
    )
    with Progress(*columns, console=note, disable=not note.is_terminal) as progress:
        total = len(prepared.plan.shards)
        task = progress.add_task("blocks", total=total, last="")
        done = 0

        def on_block(report: Any) -> None:
            nonlocal done
            done += 1
            what = f"{report.bits_per_weight:.2f} bpw  error {report.error:.4f}" if report.linears else "kept"
            last = (
                f"{report.path}  {what}  {process.memory_info().rss / 1e9:.2f}"
                f" GB{'  (from the earlier run)' if report.resumed else ''}"
            )
            progress.update(task, advance=1, last=last)
            if not note.is_terminal:
                print(f"block {done}/{total}  {last}  {report.seconds:.1f} s", file=sys.stderr)

        yield on_block


@contextmanager
def probe_progress(prepared: Prepared) -> Iterator[Any]:
    """A bar over the blocks that are measured before a budget is dealt out; nothing where there is none."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("measuring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=note, disable=not note.is_terminal or prepared.recipe.budget is None, transient=True
    ) as progress:
        task = progress.add_task("", total=len(prepared.plan.blocks))

        def on_probe(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)
            if not note.is_terminal:
                print(f"measured {done}/{total} blocks", file=sys.stderr)
            if done == total:
                progress.stop()

        yield on_probe


@contextmanager
def counter(what: str, total: int) -> Iterator[Any]:
    """A bar that is told how many are done."""
    from rich.progress import Progress

    with Progress(console=note, disable=not note.is_terminal, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done, of: progress.update(task, completed=done, total=of)


@contextmanager
def stages() -> Iterator[Any]:
    """One bar that is told what is going on, how much of it is done, and of how much."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=note, disable=not note.is_terminal, transient=True) as progress:
        task = progress.add_task("reading the model", total=None)
        yield lambda what, done, total: progress.update(task, description=what, completed=done, total=total)
