"""Commands about one model: quantize it, ask it, measure it, look into it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from bivlm.cli.shared import (
    DATA_HELP,
    PRUNE_HELP,
    BatchOption,
    JsonOption,
    ModelArgument,
    PruneOption,
    app,
    block_progress,
    chosen_pruning,
    counter,
    note,
    out_console,
    print_json,
    probe_progress,
    quiet_libraries,
)
from bivlm.job.presets import DEFAULT_PRESET


@app.command()
def quantize(
    model: ModelArgument,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="folder for the packed model", show_default=False)
    ],
    preset: Annotated[
        str,
        typer.Option(
            help=(
                "a preset's name (`bivlm presets` lists them), or a recipe file that ends in .toml; settings"
                " may follow: bivlm:bands=5"
            )
        ),
    ] = DEFAULT_PRESET,
    parts: Annotated[
        str, typer.Option(help="which parts to pack: any of vision,projector,language")
    ] = "vision,projector,language",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="change a setting of the preset's quantizers; may be repeated"
        ),
    ] = None,
    bits: Annotated[
        float | None,
        typer.Option(
            help=(
                "true bits per weight of everything packed together, dealt out by what it does to the"
                " answers; for the trellis presets"
            )
        ),
    ] = None,
    embeddings: Annotated[
        float | None,
        typer.Option(
            help=(
                "pack the token embedding and the language head too, in so many bits: 0.5 … 4, or 5, 6, 7, 8;"
                " else as the preset says"
            )
        ),
    ] = None,
    effort: Annotated[
        str | None,
        typer.Option(
            help=(
                "fast, normal (corrects for errors of the blocks before) or high (tunes each block as well);"
                " left out: as the preset says"
            )
        ),
    ] = None,
    data: Annotated[str | None, typer.Option(help=f"calibration {DATA_HELP}")] = None,
    samples: Annotated[
        int, typer.Option(min=1, help="how many calibration questions to draw from --data")
    ] = 32,
    seed: Annotated[int, typer.Option(help="seed of that draw")] = 0,
    prune: Annotated[
        str | None,
        typer.Option(
            "--prune", help=f"what the packed model drops by default: {PRUNE_HELP}", show_default=False
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace OUT if bivlm wrote it")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan and stop")] = False,
    json_: JsonOption = False,
) -> None:
    """Pack a full-precision model into a folder of two bits or less per weight.

    The plan is printed first. Every finished block is on the disk at once: interrupted, the same command
    continues where it was.
    """
    quiet_libraries()
    from bivlm.cli.tables import inspection_table, preflight_table
    from bivlm.data.samples import read_samples
    from bivlm.eval.inspection import inspect as inspect_folder
    from bivlm.job.preflight import purpose_warning
    from bivlm.job.recipe import effort_settings
    from bivlm.job.run import prepare, run
    from bivlm.settings import parse_settings

    numbers = {
        name: value for name, value in {"budget": bits, "embeddings": embeddings}.items() if value is not None
    }
    walk = {name: int(value) if value.is_integer() else value for name, value in numbers.items()}
    settings = {**effort_settings(effort), **parse_settings(set_ or []), **walk}
    prepared = prepare(
        model,
        recipe=preset,
        settings=settings,
        parts=[part.strip() for part in parts.split(",")],
        pruning=prune,
    )
    if not json_:
        out_console.print(preflight_table(prepared.expected, prepared.recipe))
    warning = purpose_warning(prepared.expected, prepared.recipe)
    if warning:
        note.print(f"note: {warning}", highlight=False, soft_wrap=True)
    if dry_run:
        if json_:
            print_json({**asdict(prepared.expected), "warning": warning})
        return
    chosen = (
        read_samples(data, split="train", limit=samples, seed=seed)
        if data and prepared.plan.needs_data
        else []
    )
    with probe_progress(prepared) as on_probe, block_progress(prepared) as on_block:
        run(prepared, out, chosen, overwrite=overwrite, on_block=on_block, on_probe=on_probe)
    inspection = inspect_folder(out)
    if json_:
        print_json(inspection)
    else:
        out_console.print(inspection_table(inspection, layers=False))
        out_console.print(
            f"Packed model in [bold]{out}[/bold]; ask it with: bivlm ask {out} --image IMAGE QUESTION"
        )


@app.command()
def ask(
    model: ModelArgument,
    question: Annotated[str, typer.Argument(help="what to ask", show_default=False)],
    image: Annotated[Path, typer.Option(help="the image to ask about", show_default=False)],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="longest answer, in tokens")] = 64,
    prune: PruneOption = None,
    json_: JsonOption = False,
) -> None:
    """Ask a model, packed or not, a question about an image."""
    quiet_libraries()
    from bivlm.eval.answer import answer
    from bivlm.loading import load

    loaded, processor = load(model, pruning=chosen_pruning(prune))
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
        str | None,
        typer.Option(
            metavar="MODEL",
            help="full-precision model: adds KL divergence and top-1 agreement of the answer tokens",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="draw this many questions instead of all")] = None,
    seed: Annotated[int, typer.Option(help="seed of that draw")] = 0,
    batch_size: BatchOption = 32,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="longest answer, in tokens")] = 16,
    prune: PruneOption = None,
    shuffle_images: Annotated[
        bool, typer.Option("--shuffle-images", help="control: ask every question about another image")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Measure a model on a visual question answering set: accuracy with its 95 % interval, and fidelity to a
    reference model.
    """
    quiet_libraries()
    from bivlm.cli.tables import result_table
    from bivlm.data.samples import read_samples
    from bivlm.data.samples import shuffle_images as shuffled
    from bivlm.eval.measure import measure

    chosen = read_samples(data, split="test", limit=limit, seed=seed, answers_required=True)
    if shuffle_images:
        chosen = shuffled(chosen, seed)
    with counter("questions", len(chosen)) as on_progress:
        result = measure(
            model,
            chosen,
            reference=reference,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            pruning=chosen_pruning(prune),
            on_progress=on_progress,
        )
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
    """Count the true bits of a packed model from the bytes in its files, by part and by layer; every checksum
    is checked.
    """
    from bivlm.cli.tables import inspection_table
    from bivlm.eval.inspection import inspect as inspect_folder

    inspection = inspect_folder(model)
    if json_:
        print_json(inspection)
    else:
        out_console.print(inspection_table(inspection, layers=layers))


@app.command()
def presets(json_: JsonOption = False) -> None:
    """List the presets and what they do."""
    from bivlm.cli.tables import presets_table
    from bivlm.job.recipe import load_recipe, preset_names

    recipes = [load_recipe(name) for name in preset_names()]
    if json_:
        print_json(
            [
                {
                    "name": recipe.name,
                    "true_bits": recipe.true_bits,
                    "needs_data": recipe.needs_data,
                    "description": recipe.description,
                }
                for recipe in recipes
            ]
        )
    else:
        out_console.print(presets_table(recipes))


@app.command()
def doctor(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="also say what its packed linears run on", show_default=False),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Say which kernels this installation runs packed models on and why, and what else it found: instruction
    set, threads, versions, memory.
    """
    from bivlm.cli.tables import doctor_tables
    from bivlm.doctor import diagnose

    found = diagnose(model)
    if json_:
        print_json(found)
    else:
        out_console.print(*doctor_tables(found), sep="\n")


@app.command()
def demo(
    out: Annotated[
        Path | None, typer.Option(help="keep the packed models in this folder; left out: a temporary one")
    ] = None,
    questions: Annotated[
        int, typer.Option(min=10, help="how many of the 9 673 test questions to answer with each model")
    ] = 300,
    json_: JsonOption = False,
) -> None:
    """Run the whole job on the embedded small model: pack it by the trellis and by Bi-VLM, load, answer,
    measure, one table.
    """
    note.print(
        "bivlm demo: packing the embedded small model and measuring it on easy-VQA; first result in a few"
        " seconds"
    )
    quiet_libraries()
    from bivlm.cli.tables import demo_table
    from bivlm.studies.demo import run_demo

    rows = run_demo(out, questions, say=note.print)
    if json_:
        print_json({"questions": questions, "rows": rows})
    else:
        out_console.print(demo_table(rows, questions))
