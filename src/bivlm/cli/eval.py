"""bivlm eval: accuracy on a question set, and fidelity to a reference model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    AdapterOption,
    BatchOption,
    ColumnsOption,
    DataOption,
    DataRootOption,
    JsonOption,
    LimitOption,
    MaxFramesOption,
    MaxPixelsOption,
    MinPixelsOption,
    ModelArgument,
    PruneOption,
    SeedOption,
    SplitOption,
    TaskOption,
    TaskTokensOption,
    TrustOption,
    chosen_pruning,
    columns_of,
    command,
    out_console,
    print_json,
    quiet_libraries,
    split_of,
)
from bivlm.errors import InputError
from bivlm.types import MOST_FRAMES

MAX_NEW_TOKENS = 16  # of an answer, unless a task says otherwise

if TYPE_CHECKING:
    from bivlm.eval.run import EvalResult
    from bivlm.types import Sample

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
CardOption = Annotated[
    bool,
    typer.Option("--card", help="also put the results on the model card of MODEL, a packed folder"),
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
    "bivlm eval out --data vqa.jsonl --reference path/to/model --out results --confidence",
    "bivlm eval out --task mme --data MME_Benchmark",
    "bivlm eval packed-sam --data boxes.jsonl --reference path/to/sam",
)
def evaluate(
    model: ModelArgument,
    data: DataOption,
    reference: ReferenceOption = None,
    out: OutOption = None,
    confidence: ConfidenceOption = False,
    card: CardOption = False,
    limit: LimitOption = None,
    seed: SeedOption = 0,
    batch_size: BatchOption = 32,
    task: TaskOption = None,
    max_new_tokens: TaskTokensOption = None,
    prune: PruneOption = None,
    adapter: AdapterOption = None,
    max_pixels: MaxPixelsOption = None,
    min_pixels: MinPixelsOption = None,
    scorer: ScorerOption = None,
    shuffle_images: ShuffleOption = False,
    keep_seen: KeepSeenOption = False,
    split: SplitOption = None,
    columns: ColumnsOption = None,
    data_root: DataRootOption = None,
    max_frames: MaxFramesOption = MOST_FRAMES,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
    activations: ActivationsOption = "float",
    expand: ExpandOption = None,
    trust_remote_code: TrustOption = False,
    json_: JsonOption = False,
) -> None:
    """Measure a model on visual questions: accuracy with its 95 % interval, and fidelity to a reference. Of a
    model that draws masks: their IoU; of a vision tower alone: its features' cosine.

    Packed weights are decoded once, unless --packed or --activations int8 asks for the kernels.
    """
    given = dict(locals())
    quiet_libraries()
    from bivlm.checkpoint.place import check_card
    from bivlm.cli.eval_vision import evaluate_vision
    from bivlm.cli.progress import Shown
    from bivlm.data.samples import read_samples
    from bivlm.data.samples import shuffle_images as shuffled
    from bivlm.eval.card import RESULTS, put_results_on_card
    from bivlm.eval.measure import measure
    from bivlm.eval.scoring import BY_REFERENCES, scorer_named
    from bivlm.eval.seen import unseen
    from bivlm.eval.tasks import samples_of_task, task_named
    from bivlm.eval.vision import vision_family

    seeing = vision_family(model, trust_remote_code)
    if seeing is not None:
        evaluate_vision(seeing, given)
        return
    benchmark = None if task is None else task_named(task)
    if benchmark is not None and scorer is not None:
        raise InputError(f"--task {task} has a scorer of its own, {benchmark.scorer}; leave --scorer out")
    used = scorer_named(scorer or (benchmark.scorer if benchmark else BY_REFERENCES)).name
    _check_out(out, confidence)
    if card:
        check_card(Path(model), RESULTS)
    running = chosen_running(device, dtype, threads, activations, expand, expanded=True)
    shown = Shown()
    reading: dict[str, Any] = {"limit": limit, "seed": seed, "data_root": data_root, "events": shown}
    reading["columns"] = columns_of(columns)
    if benchmark is None:
        reading |= {"answers_required": True, "max_frames": max_frames}
        chosen = read_samples(data, split=split_of(split, "test"), **reading)
    else:
        chosen = samples_of_task(benchmark, data, split=split_of(split, benchmark.split), **reading)
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
            max_new_tokens=max_new_tokens or (benchmark.max_new_tokens if benchmark else MAX_NEW_TOKENS),
            pruning=chosen_pruning(prune),
            adapter=adapter,
            max_pixels=max_pixels,
            min_pixels=min_pixels,
            trust_remote_code=trust_remote_code,
            running=running,
            scorer=used,
            events=events,
        )
    name = model if adapter is None else f"{model} + {adapter}"
    if out is not None:
        asked = {"model": model, "adapter": adapter, "reference": reference, "data": data, "task": task}
        asked |= {"limit": limit, "seed": seed, "scorer": used, "prune": prune}
        asked |= {"max_pixels": max_pixels, "min_pixels": min_pixels, "shuffle_images": shuffle_images}
        asked |= {"device": device, "dtype": dtype, "activations": activations, "expand": running["expand"]}
        asked |= {"max_frames": max_frames} if any(sample.videos for sample in chosen) else {}
        _keep(out, name, result, asked, chosen, confidence, trust_remote_code)
    if card:
        put_results_on_card(Path(model), result, task or data)
    _show(name, result, out, confidence, json_)


def _check_out(out: Path | None, confidence: bool) -> None:
    """InputError, before anything long, where the results could not be kept."""
    from bivlm.eval.folder import check_free
    from bivlm.studies.picture import require_matplotlib

    if out is not None:
        check_free(out)
        if confidence:
            require_matplotlib()


def _keep(
    out: Path,
    name: str,
    result: EvalResult,
    asked: dict[str, Any],
    samples: Sequence[Sample],
    confidence: bool,
    trust_remote_code: bool,
) -> None:
    """Write the folder, and with `confidence` the reliability diagram."""
    from bivlm.eval.folder import model_size, write_evaluation
    from bivlm.studies.reliability import reliability_plot

    size = model_size(asked["model"], trust_remote_code=trust_remote_code)
    write_evaluation(out, result, asked, samples, size)
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
        out_console.print(f"Results in [bold]{out}[/bold]: records.jsonl, result.json, pictures")
