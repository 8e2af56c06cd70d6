"""The evaluation of one model on one list of samples: answers, their score with its interval, and the
distance from a reference.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

from bivlm.errors import InputError, cut
from bivlm.eval.answer import generate, inference, prepare, texts
from bivlm.eval.divergence import Fidelity
from bivlm.eval.fidelity import ReferenceAnswers, judge
from bivlm.eval.metrics import METRICS_VERSION, has_answer, mean_interval, metric_of, score
from bivlm.events import SILENT, Events
from bivlm.families import family_of
from bivlm.pruning.apply import describe
from bivlm.types import Sample

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """One question of an evaluation."""

    origin: str
    question: str
    answer: str
    references: tuple[str, ...]
    score: float


@dataclass(frozen=True)
class EvalResult:
    """What an evaluation found.

    `accuracy` is the mean score by `metric` and `interval` its 95 % interval. `kl` (nats) and
    `top1_agreement` are per answer token of the reference, None without one. `non_finite` counts the answer
    tokens with a NaN or an infinity among their logits, in the model's own answers and in the reference's.
    `seconds` is the time of answering, images included, without the comparison with a reference; `pruning` is
    the model's pruning in words.
    """

    n: int
    accuracy: float
    interval: tuple[float, float]
    metric: str
    kl: float | None
    top1_agreement: float | None
    non_finite: int
    seconds: float
    batch_size: int
    max_new_tokens: int
    metrics_version: str
    pruning: str | None
    records: tuple[Record, ...]

    def to_dict(self, *, with_records: bool = False) -> dict[str, Any]:
        """Ready for JSON; the records only when asked for."""
        fields = {**asdict(self), "interval": list(self.interval)}
        records = fields.pop("records")
        return {**fields, "records": records} if with_records else fields


def evaluate(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    *,
    batch_size: int = 16,
    max_new_tokens: int = 16,
    reference: ReferenceAnswers | None = None,
    events: Events = SILENT,
) -> EvalResult:
    """Ask the model all samples and score its answers; with `reference` (from `collect_reference` on the same
    samples), measure the distance too.

    The batches are the reference's if there is one, else of `batch_size`. `events` receives the progress of
    the "questions". The model is not changed. Before any long work it raises InputError for no samples,
    samples without answers, or a reference of other samples; later for images and questions that cannot be
    read.
    """
    batches = list(in_batches(samples, batch_size, reference))
    family = family_of(model.config)
    records: list[Record] = []
    fidelity, non_finite, seconds = Fidelity(), 0, 0.0
    with inference(model):
        for index, batch in enumerate(batches):
            start = time.perf_counter()
            inputs = prepare(model, processor, family, batch)
            answers = generate(model, processor, family, inputs, max_new_tokens)
            records += map(_record, batch, texts(model, processor, answers))
            seconds += time.perf_counter() - start
            non_finite += answers.non_finite
            if reference is not None:
                fidelity += judge(model, family, inputs, reference.batch(index))
            events.progress("questions", len(records), len(samples))
    scores = [record.score for record in records]
    result = EvalResult(
        n=len(records),
        accuracy=sum(scores) / len(scores),
        interval=mean_interval(scores),
        metric="+".join(sorted({metric_of(sample.answers) for sample in samples})),
        kl=fidelity.kl,
        top1_agreement=fidelity.top1_agreement,
        non_finite=non_finite + fidelity.non_finite,
        seconds=seconds,
        batch_size=max(map(len, batches)),
        max_new_tokens=max_new_tokens,
        metrics_version=METRICS_VERSION,
        pruning=describe(model),
        records=tuple(records),
    )
    if result.non_finite:
        logger.warning(
            "%d answer tokens had a NaN or an infinity among their logits: the model is broken there",
            result.non_finite,
        )
    logger.info("%d samples: %s %.4f in %.1f s", result.n, result.metric, result.accuracy, result.seconds)
    return result


def in_batches(
    samples: Sequence[Sample], batch_size: int, reference: ReferenceAnswers | None
) -> Iterator[Sequence[Sample]]:
    """The samples in batches: the reference's batches if there is one, else batches of `batch_size`.

    Raises InputError for no samples, samples without answers, or a reference of other samples.
    """
    if not samples:
        raise InputError("there are no samples to evaluate on")
    if batch_size < 1:
        raise InputError(f"the batch size is {batch_size}; give 1 or more")
    check_answers(samples)
    sizes = [batch_size] * -(-len(samples) // batch_size) if reference is None else reference.sizes
    if reference is not None and sum(sizes) != len(samples):
        raise InputError(
            f"the reference answered {sum(sizes)} samples and the model is asked {len(samples)}; collect the"
            " reference on the same ones"
        )
    return (samples[end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True))


def check_answers(samples: Sequence[Sample]) -> None:
    """Raises InputError, naming the first, for samples that no answer could be right for: they have none, or
    nothing is left of theirs once they are normalised.
    """
    unanswered = [sample for sample in samples if not has_answer(sample.answers)]
    if not unanswered:
        return
    first, more = unanswered[0], len(unanswered) - 1
    left = "".join(
        f"; nothing is left of {cut(repr(answer))} without punctuation and articles"
        for answer in first.answers[:1]
    )
    raise InputError(
        f"{first.origin or 'a sample'} has no answer to compare with"
        + (f", and {more} more have none" if more else "")
        + left
        + "; accuracy needs one each"
    )


def _record(sample: Sample, answer: str) -> Record:
    return Record(sample.origin, sample.question, answer, sample.answers, score(answer, sample.answers))
