"""The command line: parse, call, print. Heavy imports wait until a command runs, so that help and errors come at once."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from bivlm.errors import InputError

if TYPE_CHECKING:
    from bivlm.pipeline import Prepared

app = typer.Typer(
    help="Vision-language models in two bits or less per weight, really on the disk: quantize, ask, measure.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
PAGE = 160  # characters of a table that goes to a file or a pipe
INTERRUPTED = 130  # what typer exits with on Ctrl-C
out_console, note = Console(), Console(stderr=True)

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="model folder, or OWNER/NAME on the Hugging Face hub", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]
DATA_HELP = "questions: a JSONL file (image, question, answer or answers), a folder with metadata.jsonl, a saved Hugging Face dataset, or easy-vqa"
PRESETS_HELP = (
    "presets or recipe files, separated by commas; may be repeated. Settings follow a colon: bivlm-paper,bivlm:bands=5,granularity=group "
    "(what looks like NAME=VALUE belongs to the preset before it)"
)
BatchOption = Annotated[int, typer.Option(min=1, help="questions answered at a time")]


def main() -> None:
    """Run the command line. Exit code 0; 2 with one line for the user's mistakes; 130 for Ctrl-C."""
    try:
        app(standalone_mode=True)
    except InputError as error:
        print(f"bivlm: error: {error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            print("bivlm: interrupted; what is finished is kept, and the same command continues", file=sys.stderr)
        raise


def quiet_libraries() -> None:
    """transformers' own progress bars and advice stay out of the output; what is wrong is said by this package."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@app.command()
def quantize(
    model: ModelArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="folder for the packed model", show_default=False)],
    preset: Annotated[
        str,
        typer.Option(help="a preset's name (`bivlm presets` lists them), or a recipe file that ends in .toml; settings may follow: bivlm:bands=5"),
    ] = "bivlm",
    parts: Annotated[str, typer.Option(help="which parts to pack: any of vision,projector,language")] = "vision,projector,language",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="change a setting of the preset's quantizers; may be repeated")
    ] = None,
    data: Annotated[str | None, typer.Option(help=f"calibration {DATA_HELP}")] = None,
    samples: Annotated[int, typer.Option(min=1, help="how many calibration questions to draw from --data")] = 32,
    seed: Annotated[int, typer.Option(help="seed of that draw")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace OUT if bivlm wrote it")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan and stop")] = False,
    json_: JsonOption = False,
) -> None:
    """Pack a full-precision model into a folder of two bits or less per weight.

    The plan is printed first. Every finished block is on the disk at once: interrupted, the same command continues where it was.
    """
    quiet_libraries()
    from bivlm.data.samples import read_samples
    from bivlm.pipeline import prepare, run
    from bivlm.preflight import purpose_warning
    from bivlm.recipe import parse_settings
    from bivlm.report.inspect import inspect as inspect_folder
    from bivlm.report.tables import inspection_table, preflight_table

    prepared = prepare(model, recipe=preset, settings=parse_settings(set_ or []), parts=[part.strip() for part in parts.split(",")])
    if not json_:
        out_console.print(preflight_table(prepared.expected, prepared.recipe))
    warning = purpose_warning(prepared.expected, prepared.recipe)
    if warning:
        note.print(f"note: {warning}", highlight=False, soft_wrap=True)
    if dry_run:
        if json_:
            print_json({**asdict(prepared.expected), "warning": warning})
        return
    chosen = read_samples(data, split="train", limit=samples, seed=seed) if data and prepared.plan.needs_data else []
    with block_progress(prepared) as on_block:
        run(prepared, out, chosen, overwrite=overwrite, on_block=on_block)
    inspection = inspect_folder(out)
    if json_:
        print_json(inspection)
    else:
        out_console.print(inspection_table(inspection, layers=False))
        out_console.print(f"Packed model in [bold]{out}[/bold]; ask it with: bivlm ask {out} --image IMAGE QUESTION")


@app.command()
def ask(
    model: ModelArgument,
    question: Annotated[str, typer.Argument(help="what to ask", show_default=False)],
    image: Annotated[Path, typer.Option(help="the image to ask about", show_default=False)],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="longest answer, in tokens")] = 64,
    json_: JsonOption = False,
) -> None:
    """Ask a model, packed or not, a question about an image."""
    quiet_libraries()
    from bivlm.eval.answer import answer
    from bivlm.loading import load

    loaded, processor = load(model)
    text = answer(loaded, processor, image, question, max_new_tokens=max_new_tokens)
    if json_:
        print_json({"question": question, "image": str(image), "answer": text})
    else:
        print(text)


@app.command("eval")
def evaluate_command(
    model: ModelArgument,
    data: Annotated[str, typer.Option(help=DATA_HELP, show_default=False)],
    reference: Annotated[
        str | None, typer.Option(metavar="MODEL", help="full-precision model: adds KL divergence and top-1 agreement of the answer tokens")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="draw this many questions instead of all")] = None,
    seed: Annotated[int, typer.Option(help="seed of that draw")] = 0,
    batch_size: BatchOption = 32,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="longest answer, in tokens")] = 16,
    shuffle_images: Annotated[bool, typer.Option("--shuffle-images", help="control: ask every question about another image")] = False,
    json_: JsonOption = False,
) -> None:
    """Measure a model on a visual question answering set: accuracy with its 95 % interval, and fidelity to a reference model."""
    quiet_libraries()
    from bivlm.data.samples import read_samples
    from bivlm.data.samples import shuffle_images as shuffled
    from bivlm.report.measure import measure
    from bivlm.report.tables import result_table

    chosen = read_samples(data, split="test", limit=limit, seed=seed, answers_required=True)
    if shuffle_images:
        chosen = shuffled(chosen, seed)
    with counter("questions", len(chosen)) as on_progress:
        result = measure(model, chosen, reference=reference, batch_size=batch_size, max_new_tokens=max_new_tokens, on_progress=on_progress)
    if json_:
        print_json(result)
    else:
        out_console.print(result_table({model: result}))


@app.command("inspect")
def inspect_command(
    model: ModelArgument,
    layers: Annotated[bool, typer.Option("--layers", help="a row for every block as well")] = False,
    json_: JsonOption = False,
) -> None:
    """Count the true bits of a packed model from the bytes in its files, by part and by layer; every checksum is checked."""
    from bivlm.report.inspect import inspect as inspect_folder
    from bivlm.report.tables import inspection_table

    inspection = inspect_folder(model)
    if json_:
        print_json(inspection)
    else:
        out_console.print(inspection_table(inspection, layers=layers))


@app.command()
def presets(json_: JsonOption = False) -> None:
    """List the presets and what they do."""
    from bivlm.recipe import load_recipe, preset_names
    from bivlm.report.tables import presets_table

    recipes = [load_recipe(name) for name in preset_names()]
    if json_:
        print_json(
            [
                {"name": recipe.name, "true_bits": recipe.true_bits, "needs_data": recipe.needs_data, "description": recipe.description}
                for recipe in recipes
            ]
        )
    else:
        out_console.print(presets_table(recipes))


@app.command()
def demo(
    out: Annotated[Path | None, typer.Option(help="keep the packed models in this folder; left out: a temporary one")] = None,
    questions: Annotated[int, typer.Option(min=10, help="how many of the 9 673 test questions to answer with each model")] = 300,
    json_: JsonOption = False,
) -> None:
    """Run the whole job on the embedded small model: pack it with 1, 2 and 5 bands, load, answer, measure, one table."""
    note.print("bivlm demo: packing the embedded small model and measuring it on easy-VQA; first result in a few seconds")
    quiet_libraries()
    from bivlm.report.demo import run_demo
    from bivlm.report.tables import demo_table

    rows = run_demo(out, questions, say=note.print)
    if json_:
        print_json({"questions": questions, "rows": rows})
    else:
        out_console.print(demo_table(rows, questions))


@app.command()
def compare(
    model: ModelArgument,
    data: Annotated[str, typer.Option(help=f"{DATA_HELP}; its split test is asked, its split train calibrates", show_default=False)],
    out: Annotated[Path, typer.Option(help="folder for runs, table and picture; the same command continues in it", show_default=False)],
    presets: Annotated[list[str] | None, typer.Option(metavar="A,B,…", help=PRESETS_HELP, show_default=False)] = None,
    parts: Annotated[str, typer.Option(help="which parts to pack: any of vision,projector,language")] = "vision,projector,language",
    parts_study: Annotated[bool, typer.Option("--parts-study", help="pack every combination of parts instead, and make one table of them")] = False,
    calibration: Annotated[int, typer.Option(min=1, help="how many calibration questions to draw, for presets that need data")] = 32,
    limit: Annotated[int | None, typer.Option(min=1, help="draw this many test questions instead of all")] = None,
    seed: Annotated[int, typer.Option(help="seed of both draws")] = 0,
    batch_size: BatchOption = 32,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="longest answer, in tokens")] = 16,
    keep_models: Annotated[bool, typer.Option("--keep-models", help="keep the packed models in OUT/models")] = False,
    json_: JsonOption = False,
) -> None:
    """Pack a model with several presets, ask every packed model the same questions, and set accuracy against true bits: table, JSON, picture.

    Every finished run is in OUT/runs at once: interrupted, the same command continues, and a longer list of presets runs only the new ones.
    """
    quiet_libraries()
    from bivlm.data.samples import read_samples
    from bivlm.recipe import load_recipe, split_presets
    from bivlm.report.compare import compare_presets
    from bivlm.report.comparison_tables import comparison_table, remarks
    from bivlm.report.plots import require_matplotlib

    if not parts_study:
        require_matplotlib()
    recipes = [load_recipe(preset) for preset in split_presets(presets or [])]
    samples = read_samples(data, split="test", limit=limit, seed=seed, answers_required=True)
    drawn = read_samples(data, split="train", limit=calibration, seed=seed) if any(recipe.needs_data for recipe in recipes) else []
    with stages() as on_progress:
        found = compare_presets(
            model, recipes, out, samples=samples, calibration=drawn, parts=[part.strip() for part in parts.split(",")], parts_study=parts_study,
            batch_size=batch_size, max_new_tokens=max_new_tokens, keep_models=keep_models, command=shlex.join(["bivlm", *sys.argv[1:]]),
            say=lambda line: note.print(line, highlight=False, soft_wrap=True), on_progress=on_progress,
        )  # fmt: skip
    if json_:
        print_json(found)
    else:
        wide = out_console if out_console.is_terminal else Console(width=PAGE)
        wide.print(comparison_table(found, wide.width))
        for remark in remarks(found):
            out_console.print(remark, highlight=False, soft_wrap=True)
        out_console.print(f"Results in [bold]{out}[/bold]: comparison.md, comparison.json{'' if parts_study else ', comparison.png'}")
    if found.failed:
        raise InputError(f"{len(found.failed)} of {len(found.rows) - 1} runs failed; the table names the reasons, and the others are measured")


@app.command()
def doctor(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="also say what its packed linears run on", show_default=False)] = None,
    json_: JsonOption = False,
) -> None:
    """Say which kernels this installation runs packed models on and why, and what else it found: instruction set, threads, versions, memory."""
    from bivlm.report.doctor import diagnose
    from bivlm.report.tables import doctor_tables

    found = diagnose(model)
    if json_:
        print_json(found)
    else:
        out_console.print(*doctor_tables(found), sep="\n")


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
    """A bar over the blocks on the terminal: seconds left, error and bits of the last block, resident memory; plain lines when it is no terminal."""
    import psutil
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    process = psutil.Process()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[last]}"))
    with Progress(*columns, console=note, disable=not note.is_terminal) as progress:
        total = len(prepared.plan.blocks)
        task = progress.add_task("blocks", total=total, last="")
        done = 0

        def on_block(report: Any) -> None:
            nonlocal done
            done += 1
            what = f"{report.bits_per_weight:.2f} bpw  error {report.error:.4f}" if report.linears else "kept"
            last = f"{report.path}  {what}  {process.memory_info().rss / 1e9:.2f} GB{'  (from the earlier run)' if report.resumed else ''}"
            progress.update(task, advance=1, last=last)
            if not note.is_terminal:
                print(f"block {done}/{total}  {last}  {report.seconds:.1f} s", file=sys.stderr)

        yield on_block


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


if __name__ == "__main__":
    main()
