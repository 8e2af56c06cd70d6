"""bivlm eval: accuracy on a question set, and fidelity to a reference model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bivlm.cli.shared import (
    MAIN,
    MORE,
    AdapterOption,
    BatchOption,
    DataOption,
    DataRootOption,
    JsonOption,
    LimitOption,
    MaxPixelsOption,
    MinPixelsOption,
    ModelArgument,
    PruneOption,
    SeedOption,
    TokensOption,
    chosen_pruning,
    command,
    out_console,
    print_json,
    quiet_libraries,
)

if TYPE_CHECKING:
    from bivlm.eval.run import EvalResult

ReferenceOption = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="full-precision model: adds KL divergence and top-1 agreement of the answer tokens",
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(help="new folder that keeps every question, answer, score and confidence, and the result"),
]
ConfidenceOption = Annotated[
    bool,
    typer.Option(
        "--confidence",
        help="how well the model's confidence predicts its scores; with --out also as a picture",
    ),
]
ScorerOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=(
            "how answers are scored, by the rule of a benchmark (mme, mmmu, pope, anls, …); left out: VQA"
            " accuracy where several people answered, else exact match"
        ),
        show_default=False,
        rich_help_panel=MORE,
    ),
]
ShuffleOption = Annotated[
    bool,
    typer.Option(
        "--shuffle-images", help="control: ask every question about another image", rich_help_panel=MORE
    ),
]


@command(
    "eval",
    MAIN,
    "bivlm eval out --data vqa.jsonl --reference path/to/model",
    "bivlm eval out --data easy-vqa --limit 500 --prune none",
    "bivlm eval out --data vqa.jsonl --reference path/to/model --out results --confidence",
)
def evaluate(
    model: ModelArgument,
    data: DataOption,
    reference: ReferenceOption = None,
    out: OutOption = None,
    confidence: ConfidenceOption = False,
    limit: LimitOption = None,
    seed: SeedOption = 0,
    batch_size: BatchOption = 32,
    max_new_tokens: TokensOption = 16,
    prune: PruneOption = None,
    adapter: AdapterOption = None,
    max_pixels: MaxPixelsOption = None,
    min_pixels: MinPixelsOption = None,
    scorer: ScorerOption = None,
    shuffle_images: ShuffleOption = False,
    data_root: DataRootOption = None,
    json_: JsonOption = False,
) -> None:
    """Measure a model on visual questions: accuracy with its 95 % interval, and fidelity to a reference."""
    quiet_libraries()
    from bivlm.cli.progress import Shown
    from bivlm.data.samples import read_samples
    from bivlm.data.samples import shuffle_images as shuffled
    from bivlm.eval.measure import measure
    from bivlm.eval.scoring import BY_REFERENCES, scorer_named

    used = scorer_named(scorer or BY_REFERENCES).name
    _check_out(out, confidence)
    chosen = read_samples(
        data, split="test", limit=limit, seed=seed, answers_required=True, data_root=data_root
    )
    if shuffle_images:
        chosen = shuffled(chosen, seed)
    with Shown() as events:
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
            scorer=used,
            events=events,
        )
    name = model if adapter is None else f"{model} + {adapter}"
    if out is not None:
        asked = {"model": model, "adapter": adapter, "reference": reference, "data": data, "limit": limit}
        asked |= {"seed": seed, "scorer": used, "prune": prune, "shuffle_images": shuffle_images}
        asked |= {"max_pixels": max_pixels, "min_pixels": min_pixels}
        _keep(out, name, result, asked, confidence)
    _show(name, result, out, confidence, json_)


def _check_out(out: Path | None, confidence: bool) -> None:
    """InputError, before anything long, where the results could not be kept."""
    from bivlm.eval.folder import check_free
    from bivlm.studies.picture import require_matplotlib

    if out is not None:
        check_free(out)
        if confidence:
            require_matplotlib()


def _keep(out: Path, name: str, result: EvalResult, asked: dict[str, Any], confidence: bool) -> None:
    """Write the folder, and with `confidence` the reliability diagram."""
    from bivlm.eval.folder import write_evaluation
    from bivlm.studies.reliability import reliability_plot

    write_evaluation(out, result, asked)
    if confidence and result.calibration is not None:
        reliability_plot({name: result.calibration}, out / "reliability.png")


def _show(name: str, result: EvalResult, out: Path | None, confidence: bool, json_: bool) -> None:
    from bivlm.cli.tables import result_tables

    if json_:
        print_json(result)
        return
    for table in result_tables(name, result, confidence=confidence):
        out_console.print(table)
    if out is not None:
        out_console.print(f"Results in [bold]{out}[/bold]: records.jsonl, result.json")
