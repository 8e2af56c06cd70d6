"""The results of an evaluation on the card of a packed folder, in the hub's own schema (`model-index`): one
entry for each data set and metric; a new result takes the place of the old one.
"""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import EvalResult as CardResult
from huggingface_hub import ModelCard, ModelCardData

from bivlm.checkpoint.companions import CARD
from bivlm.checkpoint.durable import write_errors_explained, write_text
from bivlm.checkpoint.place import check_card
from bivlm.errors import InputError
from bivlm.eval.run import EvalResult

TASK, RESULTS = "visual-question-answering", "the results"


def put_results_on_card(folder: Path, result: EvalResult, data: str) -> Path:
    """Write the accuracy, and with a reference the divergence and agreement, into the card's data; `data`
    names the questions. Returns the card's path. Raises InputError as `check_card` does, and for a card
    whose data cannot be read.
    """
    check_card(folder, RESULTS)
    place = folder / CARD
    try:
        card = ModelCard.load(place)
    except Exception as error:  # whatever the YAML reader raises
        raise InputError(
            f"the data at the beginning of {place} cannot be read ({type(error).__name__}); correct them"
        ) from error
    front: ModelCardData = card.data  # pyright: ignore[reportAssignmentType] - it is, of a model's card
    new = _results(result, data)
    old = [one for one in front.eval_results or () if all(not _same(one, other) for other in new)]
    front.model_name = front.model_name or folder.resolve().name
    front.eval_results = [*old, *new]
    with write_errors_explained(folder):
        write_text(place, str(card))
    return place


def _results(result: EvalResult, data: str) -> list[CardResult]:
    name = Path(data).name or data
    low, high = result.interval
    numbers = {
        result.metric: (
            round(result.accuracy, 4),
            f"95 % interval {low:.4f} to {high:.4f}, {result.n} questions",
        ),
        "KL divergence from full precision": (result.kl, "nats per answer token"),
        "same answers as full precision": (result.greedy_agreement, "share of the questions"),
    }
    return [
        CardResult(
            task_type=TASK,
            dataset_type=name,
            dataset_name=name,
            metric_type=metric.lower().replace(" ", "_"),
            metric_name=metric,
            metric_value=float(f"{value:.4g}"),
            metric_args={"meaning": meaning},
        )
        for metric, (value, meaning) in numbers.items()
        if value is not None
    ]


def _same(one: CardResult, other: CardResult) -> bool:
    return (one.dataset_type, one.metric_type) == (other.dataset_type, other.metric_type)
