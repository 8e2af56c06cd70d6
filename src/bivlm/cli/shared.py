"""Common code of the commands: the application, the declaration of commands, the consoles, shared options,
parsing of lists, JSON.
"""

from __future__ import annotations

import ast
import inspect
import json
import logging
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from bivlm.errors import InputError, printable

Number = TypeVar("Number", int, float)
MAIN, MORE = "Main", "More"  # panels of the help: of commands, and of the options of those that have many

app = typer.Typer(
    help=(
        "Vision-language models in two bits or less per weight, really on the disk: quantize, ask, measure,"
        " prune."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
PAGE = 160  # characters of a table that goes to a file or a pipe
on_terminal = sys.stdout is not None and sys.stdout.isatty()
out_console, note = Console(width=None if on_terminal else PAGE), Console(stderr=True)
json_printed = Event()  # whether the result is on standard output


LOUDNESS = {
    "quiet": Annotated[
        bool,
        typer.Option(
            "--quiet", "-q", help="no progress and no notes; errors are still told", rich_help_panel=MORE
        ),
    ],
    "verbose": Annotated[
        bool, typer.Option("--verbose", "-v", help="also what is decided on the way", rich_help_panel=MORE)
    ],
}


def command(name: str, panel: str, *examples: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a command, which also has --quiet and --verbose. Its help is the docstring, a line for
    each paragraph, followed by example commands.
    """

    def declare(function: Callable[..., None]) -> Callable[..., None]:
        paragraphs = re.split(r"\n\s*\n", inspect.getdoc(function) or "")
        help_ = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        epilog = "\n\n".join(["[bold]For example:[/bold]", *(escape(example) for example in examples)])
        app.command(name, help=help_, epilog=epilog, rich_help_panel=panel)(with_loudness(function))
        return function

    return declare


def with_loudness(function: Callable[..., None]) -> Callable[..., None]:
    """The function with two more arguments, `quiet` and `verbose`, which hold while it runs."""

    @wraps(function)
    def run(*, quiet: bool = False, verbose: bool = False, **given: Any) -> None:
        with loudness(quiet, verbose):
            function(**given)

    signature = inspect.signature(function, eval_str=True)
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for name, annotation in LOUDNESS.items()
    ]
    parameters = [*signature.parameters.values(), *options]
    run.__signature__ = signature.replace(parameters=parameters)  # pyright: ignore[reportAttributeAccessIssue]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


@contextmanager
def loudness(quiet: bool, verbose: bool) -> Iterator[None]:
    """What is said on the standard error: nothing but errors, or also what this package logs. Raises
    InputError for both.
    """
    if quiet and verbose:
        raise InputError("--quiet and --verbose contradict each other; give one of them")
    logger, handler = logging.getLogger("bivlm"), RichHandler(console=note, show_path=False, show_time=False)
    before, note.quiet = (logger.level, note.quiet), quiet
    if quiet:
        logger.setLevel(logging.ERROR)
    if verbose:
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        note.quiet = before[1]


def pruner_names() -> list[str]:
    """The names in the table PRUNERS, read from its source file: importing it would import torch."""
    spec = find_spec("bivlm.pruning")
    assert spec is not None
    assert spec.origin is not None
    for statement in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == "PRUNERS":
            assert isinstance(statement.value, ast.Dict)
            return sorted(ast.literal_eval(key) for key in statement.value.keys if key is not None)
    raise LookupError(f"{spec.origin} has no table PRUNERS")


DATA_HELP = (
    "questions: a file (JSON, JSONL, CSV, TSV, parquet), a folder (images, data files, a clone from the hub,"
    " a saved Hugging Face data set), OWNER/NAME of the hub, or easy-vqa; `bivlm data` shows what would be"
    " read"
)
PRESETS_HELP = (
    "presets or recipe files, separated by commas; may be repeated. Settings follow a colon:"
    " gptq-2,bivlm:bands=5,alpha=1.2 (what looks like NAME=VALUE belongs to the preset before it)"
)
PRUNE_HELP = (
    "which visual tokens to drop: PRUNER:NAME=VALUE,…, for example attention:layer=2,keep=0.25; "
    f"pruners are {', '.join(pruner_names())}"
)

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="model folder, or OWNER/NAME on the Hugging Face hub", show_default=False
    ),
]
DataOption = Annotated[str, typer.Option(help=DATA_HELP, show_default=False)]
PartsOption = Annotated[str, typer.Option(help="which parts to pack: any of vision,projector,language")]
DataRootOption = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        metavar="FOLDER",
        help="refuse image paths of the data that lead out of this folder",
        show_default=False,
        rich_help_panel=MORE,
    ),
]
ColumnsOption = Annotated[
    str | None,
    typer.Option(
        "--columns",
        metavar="FIELD=COLUMN,…",
        help="the data's own names of fields: question=query,answer=label",
        show_default=False,
        rich_help_panel=MORE,
    ),
]
SplitOption = Annotated[
    str | None,
    typer.Option(
        "--split",
        metavar="NAME",
        help=(
            "which split of the data to read, or all; left out: test to ask, train to calibrate and to learn"
            " from. Data without splits is divided, a quarter of its images against the others"
        ),
        show_default=False,
        rich_help_panel=MORE,
    ),
]
LimitOption = Annotated[int | None, typer.Option(min=1, help="draw this many test questions instead of all")]
SeedOption = Annotated[int, typer.Option(help="seed of that draw", rich_help_panel=MORE)]
BatchOption = Annotated[int, typer.Option(min=1, help="questions answered at a time", rich_help_panel=MORE)]
TokensOption = Annotated[int, typer.Option(min=1, help="longest answer, in tokens", rich_help_panel=MORE)]
TaskTokensOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="longest answer, in tokens; left out: the task's, or 16",
        show_default=False,
        rich_help_panel=MORE,
    ),
]
TaskOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=(
            "a benchmark, with its prompts, its scorer and its split: mme, mmmu, scienceqa, vizwiz, pope,"
            " mmstar, textvqa, vqav2, docvqa, chartqa, ocrbench; --data is where it lies"
        ),
        show_default=False,
    ),
]
PruneOption = Annotated[
    str | None,
    typer.Option(
        "--prune", help=f"{PRUNE_HELP}; none for none; left out: what the checkpoint says", show_default=False
    ),
]
AdapterOption = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER", help="adapter that `bivlm adapt` trained for this packed model", show_default=False
    ),
]
MaxPixelsOption = Annotated[
    int | None,
    typer.Option(
        "--max-pixels",
        metavar="N",
        help="the most pixels of an image that the model reads; left out: what the checkpoint says",
        show_default=False,
        rich_help_panel=MORE,
    ),
]
MinPixelsOption = Annotated[
    int | None,
    typer.Option(
        "--min-pixels",
        metavar="N",
        help="the least; for processors that count pixels (Qwen-VL, GLM-V, PaddleOCR-VL)",
        show_default=False,
        rich_help_panel=MORE,
    ),
]
MaxFramesOption = Annotated[
    int,
    typer.Option(
        "--max-frames",
        metavar="N",
        min=1,
        help="the most frames of a video that are read, evenly spaced, the first and the last among them",
        rich_help_panel=MORE,
    ),
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help=(
            "run the code of the model's folder, where the model or its processor needs it; without it no"
            " code of a folder is ever run"
        ),
        rich_help_panel=MORE,
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="print JSON instead of a table", rich_help_panel=MORE)
]
ALL_PARTS = "vision,projector,language"


def words(text: str) -> list[str]:
    """ "vision, language" as its words; "" as one empty word, which is no valid name."""
    return [word.strip() for word in text.split(",")]


def numbers(text: str, kind: type[Number], option: str, like: str) -> list[Number]:
    """ "2,5" as [2, 5]. Raises InputError that says how it is written."""
    try:
        return [kind(word) for word in words(text)]
    except ValueError as error:
        raise InputError(f"{option} is {text!r}; give {like}") from error


def columns_of(text: str | None) -> dict[str, str]:
    """ "question=query,answer=label" as a dictionary. Raises InputError that says how it is written."""
    pairs = [word.partition("=") for word in words(text)] if text is not None else []
    if not all(field.strip() and column.strip() for field, _, column in pairs):
        raise InputError(f"--columns is {text!r}; give FIELD=COLUMN,…: question=query,answer=label")
    return {field.strip(): column.strip() for field, _, column in pairs}


def split_of(text: str | None, purpose: str) -> str | None:
    """The argument of `read_samples` for --split: `purpose` if it is left out, None for "all"."""
    return purpose if text is None else None if text == "all" else text


def command_line() -> str:
    """The command as it was typed, for the pages that it makes."""
    return shlex.join(["bivlm", *sys.argv[1:]])


def quiet_libraries() -> None:
    """Suppress the libraries' own progress bars and advice; this package reports errors itself. Downloads
    from the hub keep their bar.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # of a process that has gone
    import transformers
    from huggingface_hub.constants import HF_HUB_DISABLE_PROGRESS_BARS
    from huggingface_hub.utils import enable_progress_bars

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()  # the hub's too
    if not HF_HUB_DISABLE_PROGRESS_BARS and not note.quiet:
        enable_progress_bars()


def chosen_pruning(text: str | None) -> str | None:
    """The argument of `bivlm.load` for --prune: if it is left out, the checkpoint's own pruning; for "none",
    no pruning.
    """
    from bivlm.loading import FROM_CHECKPOINT

    return FROM_CHECKPOINT if text is None else None if text == "none" else text


def shown(text: str) -> str:
    """A text as a terminal may show it: codes that a stranger's model could write (to move the cursor, to set
    the title) are escaped. In a file or a pipe it stays as it is.
    """
    if not on_terminal:
        return text
    return "".join(sign if sign in "\n\t" else printable(sign) for sign in text)


def print_json(content: Any) -> None:
    """One JSON document on standard output; dataclasses become objects. What is not ASCII is escaped unless
    the output is UTF-8.
    """

    def plain(value: Any) -> Any:
        if hasattr(value, "to_dict"):
            return value.to_dict()
        if is_dataclass(value) and not isinstance(value, type):
            return asdict(value)
        raise TypeError(f"{type(value).__name__} is no JSON")

    escaped = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") != "utf8"
    text = json.dumps(content, default=plain, indent=2, ensure_ascii=escaped)
    json_printed.set()
    print(text)
