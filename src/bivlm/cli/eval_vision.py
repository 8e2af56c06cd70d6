"""bivlm eval of a vision-only model: masks or features instead of answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bivlm.cli.running import chosen_running
from bivlm.cli.shared import columns_of, out_console, print_json, split_of
from bivlm.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from bivlm.eval.vision import Mean, VisionResult
    from bivlm.families import Family

ASKING = {  # what an evaluation may be told, and only answers have a use for
    "task": "--task",
    "scorer": "--scorer",
    "prune": "--prune",
    "adapter": "--adapter",
    "out": "--out",
    "card": "--card",
    "confidence": "--confidence",
    "shuffle_images": "--shuffle-images",
    "max_pixels": "--max-pixels",
    "min_pixels": "--min-pixels",
    "max_new_tokens": "--max-new-tokens",
}


def check_options(family: Family, given: Mapping[str, Any]) -> None:
    """InputError for an option of the evaluation of answers."""
    wrong = [option for name, option in ASKING.items() if given.get(name)]
    if wrong:
        gives = "masks" if family.draws_masks else "features"
        raise InputError(
            f"a {family.model_type} model gives {gives} and no answers; leave {' and '.join(wrong)} out"
        )


def evaluate_vision(family: Family, given: Mapping[str, Any]) -> None:
    """Measure and print. `given` are the arguments and options of `bivlm eval` by their names. Raises
    InputError for options that only answers have a use for.
    """
    from bivlm.cli.progress import Shown
    from bivlm.data.samples import read_samples
    from bivlm.eval.seen import unseen
    from bivlm.eval.vision import measure_vision

    check_options(family, given)
    how = (given[name] for name in ("device", "dtype", "threads", "activations", "expand"))
    running, model = chosen_running(*how, expanded=True), given["model"]
    shown = Shown()
    chosen = read_samples(
        given["data"],
        split=split_of(given["split"], "test"),
        limit=given["limit"],
        seed=given["seed"],
        image_required=True,
        data_root=given["data_root"],
        columns=columns_of(given["columns"]),
        events=shown,
    )
    if not given["keep_seen"]:
        chosen = unseen(model, chosen, shown)
    with shown as events:
        result = measure_vision(
            model,
            chosen,
            reference=given["reference"],
            trust_remote_code=given["trust_remote_code"],
            running=running,
            events=events,
        )
    if given["json_"]:
        print_json(result)
        return
    out_console.print(vision_table(model, result))


def vision_table(name: str, result: VisionResult) -> Table:
    """A row of the numbers that there are; columns without a number are left out."""
    from bivlm.studies.cells import rich_table

    def told(mean: Mean | None) -> str:
        return "" if mean is None else "{:.4f} ({:.4f} to {:.4f})".format(mean.mean, *mean.interval)

    cells = {
        "model": name,
        " IoU with the reference": told(result.iou),
        " IoU with the truth": told(result.true_iou),
        " the reference's": told(result.reference_true_iou),
        " score drift": "" if result.score_drift is None else f"{result.score_drift:.4f}",
        " cosine": told(result.cosine),
        " pooled cosine": told(result.pooled_cosine),
    }
    shown = {head: text for head, text in cells.items() if text}
    objects = f", {result.objects} masks" if result.kind == "masks" else ""
    table = rich_table("", shown, f"{result.n} images{objects}, {result.seconds:.1f} s")
    table.add_row(*shown.values())
    return table
