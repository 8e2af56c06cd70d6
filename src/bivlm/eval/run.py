"""The evaluation of one model on one list of samples: answers, their scores with what these are worth, how
sure the model was, and the distance from a reference.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

from bivlm.data.digests import Digests
from bivlm.errors import InputError, cut
from bivlm.eval.answer import Answers, generate, inference, prepare, texts
from bivlm.eval.confidence import Calibration, answer_confidences, calibration
from bivlm.eval.divergence import Fidelity
from bivlm.eval.fidelity import Judgement, ReferenceAnswers, judge
from bivlm.eval.groups import GroupScore, group_scores
from bivlm.eval.records import Record, clusters_of
from bivlm.eval.scoring import BY_REFERENCES, METRICS_VERSION, scorer_named
from bivlm.eval.scoring.base import Scorer
from bivlm.eval.statistics.intervals import mean_interval
from bivlm.eval.statistics.means import geometric_mean, standard_error, trimmed_mean
from bivlm.events import SILENT, Events
from bivlm.families import Family, family_of
from bivlm.notebook import html_table
from bivlm.pruning.apply import check_prunable, describe
from bivlm.types import Sample

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvalResult:
    """What an evaluation found.

    `accuracy` is the mean score by `metric`, `interval` its 95 % interval, with questions taken as
    independent, and `standard_error` its standard error with the images as clusters, None for one image.
    `aggregates` is what the scorer says of all questions and of their groups. `calibration` is what the
    model's confidence says about its scores, None where no confidence is finite. `groups` has the mean score
    of every group of questions, the lowest first; it is empty where no question has a group.

    `kl` (nats) and `top1_agreement` are per answer token of the reference, None without one.
    `kl_standard_error` is that of `kl`, with the images as clusters; `kl_geometric` and `kl_trimmed` are
    means over questions, of the mean divergence of each: the geometric one, and the one without the 5 %
    largest and smallest. `greedy_agreement` is the share of the questions to which the model's own answer is
    the reference's, word for word; None if the reference was allowed other lengths.

    `non_finite` counts the answer tokens with a NaN or an infinity among their logits, in the model's own
    answers and in the reference's. `seconds` is the time of answering, images included, without the
    comparison with a reference; `pruning` is the model's pruning in words.
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
    standard_error: float | None
    kl_standard_error: float | None
    kl_geometric: float | None
    kl_trimmed: float | None
    greedy_agreement: float | None
    calibration: Calibration | None
    aggregates: Mapping[str, float]
    groups: tuple[GroupScore, ...]

    def to_dict(self, *, with_records: bool = False) -> dict[str, Any]:
        """Ready for JSON; the records only when asked for."""
        fields = {**asdict(self), "interval": list(self.interval)}
        if self.calibration is not None:
            fields["calibration"]["bins"] = list(fields["calibration"]["bins"])
        fields["groups"] = [{**group, "interval": list(group["interval"])} for group in fields["groups"]]
        records = fields.pop("records")
        return {**fields, "records": records} if with_records else fields

    def _repr_html_(self) -> str:
        """For notebooks: the numbers of all questions."""
        low, high = self.interval
        numbers = {
            "questions": str(self.n),
            self.metric: f"{self.accuracy:.2%} ({low:.1%} to {high:.1%})",
            "KL (nats)": "" if self.kl is None else f"{self.kl:.4g}",
            "geometric KL": "" if self.kl_geometric is None else f"{self.kl_geometric:.4g}",
            "top-1 agreement": "" if self.top1_agreement is None else f"{self.top1_agreement:.1%}",
            "same answers": "" if self.greedy_agreement is None else f"{self.greedy_agreement:.1%}",
        }
        return html_table(("", ""), ((head, text) for head, text in numbers.items() if text))


def evaluate(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    *,
    batch_size: int = 16,
    max_new_tokens: int = 16,
    reference: ReferenceAnswers | None = None,
    scorer: str = BY_REFERENCES,
    events: Events = SILENT,
) -> EvalResult:
    """Ask the model all samples and score its answers; with `reference` (from `collect_reference` on the same
    samples), measure the distance too.

    The batches are the reference's if there is one, else of `batch_size`. `scorer` names how answers are
    scored (eval/scoring). `events` receives the progress of the "questions". The model is not changed. Before
    any long work it raises InputError for no samples, samples that the scorer cannot use, or a reference of
    other samples; later for images and questions that cannot be read.
    """
    chosen = scorer_named(scorer)
    check_prunable(model, samples)
    batches = list(in_batches(samples, batch_size, reference, scorer))
    asking = _Asking(model, processor, family_of(model.config), chosen, max_new_tokens, Digests())
    records: list[Record] = []
    fidelity, non_finite, seconds = Fidelity(), 0, 0.0
    with inference(model):
        for index, batch in enumerate(batches):
            start = time.perf_counter()
            inputs, answers, words = asking.ask(batch)
            seconds += time.perf_counter() - start
            non_finite += answers.non_finite
            judged = None
            if reference is not None:
                judged = asking.distance(inputs, words, reference, index)
                fidelity += judged.judgement.total
            records += asking.records(batch, answers, words, judged)
            events.progress("questions", len(records), len(samples))
    result = _result(
        records,
        fidelity,
        chosen,
        samples,
        non_finite=non_finite + fidelity.non_finite,
        seconds=seconds,
        batch_size=max(map(len, batches)),
        max_new_tokens=max_new_tokens,
        pruning=describe(model),
    )
    if result.non_finite:
        logger.warning(
            "%d answer tokens had a NaN or an infinity among their logits: the model is broken there",
            result.non_finite,
        )
    logger.info("%d samples: %s %.4f in %.1f s", result.n, result.metric, result.accuracy, result.seconds)
    return result


@dataclass(frozen=True)
class _Judged:
    """A batch's distance from the reference, and which answers are the same, None where that cannot be
    said.
    """

    judgement: Judgement
    greedy: tuple[bool | None, ...]


@dataclass(frozen=True)
class _Asking:
    """A model that is asked, and how."""

    model: Any
    processor: Any
    family: Family
    scorer: Scorer
    max_new_tokens: int
    digests: Digests

    def ask(self, batch: Sequence[Sample]) -> tuple[dict[str, Any], Answers, list[str]]:
        """The inputs of a batch, and the model's answers as tokens and in words."""
        inputs = prepare(self.model, self.processor, self.family, batch)
        answers = generate(self.model, self.processor, self.family, inputs, self.max_new_tokens)
        return inputs, answers, texts(self.model, self.processor, answers)

    def distance(
        self, inputs: Mapping[str, Any], words: Sequence[str], reference: ReferenceAnswers, index: int
    ) -> _Judged:
        """The distance of a batch from the reference, token by token and as whole answers."""
        kept = reference.batch(index)
        judgement = judge(self.model, self.family, inputs, kept)
        if reference.max_new_tokens != self.max_new_tokens:
            return _Judged(judgement, (None,) * len(words))
        others = texts(self.model, self.processor, Answers(kept.tokens, kept.mask, 0))
        return _Judged(judgement, tuple(map(str.__eq__, words, others)))

    def records(
        self, batch: Sequence[Sample], answers: Answers, words: Sequence[str], judged: _Judged | None
    ) -> Iterator[Record]:
        """What is kept of every question of a batch."""
        assert answers.log_probabilities is not None
        confidences = answer_confidences(answers.log_probabilities, answers.mask)
        for number, (sample, answer, sure) in enumerate(zip(batch, words, confidences, strict=True)):
            distance = None if judged is None else judged.judgement.questions[number]
            yield Record(
                origin=sample.origin,
                question=sample.question,
                answer=answer,
                references=sample.answers,
                score=self.scorer.score(answer, sample),
                group=sample.group,
                image=self._image(sample),
                confidence=None if sure is None else sure.whole,
                mean_confidence=None if sure is None else sure.mean,
                first_confidence=None if sure is None else sure.first,
                kl=None if distance is None else distance.kl,
                tokens=None if distance is None else distance.tokens - distance.non_finite,
                agreement=None if distance is None else distance.top1_agreement,
                greedy=None if judged is None else judged.greedy[number],
            )

    def _image(self, sample: Sample) -> str:
        return self.digests.of_images(sample) if self.family.reads_images else ""


def _result(
    records: Sequence[Record],
    fidelity: Fidelity,
    scorer: Scorer,
    samples: Sequence[Sample],
    **measured: Any,
) -> EvalResult:
    """The result of all records; `measured` are the fields that they do not hold."""
    scores = [record.score for record in records]
    clusters = clusters_of(records)
    sure = [(record.confidence, record.score) for record in records if record.confidence is not None]
    judged = [
        (record.kl, record.tokens, cluster)
        for record, cluster in zip(records, clusters, strict=True)
        if record.kl is not None
    ]
    kls, tokens, places = zip(*judged, strict=True) if judged else ((), (), ())
    greedy = [record.greedy for record in records if record.greedy is not None]
    return EvalResult(
        n=len(records),
        accuracy=sum(scores) / len(scores),
        interval=mean_interval(scores),
        metric=scorer.metric(samples),
        kl=fidelity.kl,
        top1_agreement=fidelity.top1_agreement,
        metrics_version=METRICS_VERSION,
        records=tuple(records),
        standard_error=standard_error(scores, clusters),
        kl_standard_error=standard_error(kls, places, tokens) if judged else None,
        kl_geometric=geometric_mean(kls) if judged else None,
        kl_trimmed=trimmed_mean(kls) if judged else None,
        greedy_agreement=sum(greedy) / len(greedy) if greedy else None,
        calibration=calibration(*zip(*sure, strict=True)) if sure else None,
        aggregates=scorer.aggregate(records),
        groups=group_scores(records),
        **measured,
    )


def in_batches(
    samples: Sequence[Sample],
    batch_size: int,
    reference: ReferenceAnswers | None,
    scorer: str = BY_REFERENCES,
) -> Iterator[Sequence[Sample]]:
    """The samples in batches: the reference's batches if there is one, else batches of `batch_size`.

    Raises InputError for no samples, samples that the scorer cannot use, or a reference of other samples.
    """
    if not samples:
        raise InputError("there are no samples to evaluate on")
    if batch_size < 1:
        raise InputError(f"the batch size is {batch_size}; give 1 or more")
    check_answers(samples, scorer)
    sizes = [batch_size] * -(-len(samples) // batch_size) if reference is None else reference.sizes
    if reference is not None and sum(sizes) != len(samples):
        raise InputError(
            f"the reference answered {sum(sizes)} samples and the model is asked {len(samples)}; collect the"
            " reference on the same ones"
        )
    return (samples[end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True))


def check_answers(samples: Sequence[Sample], scorer: str = BY_REFERENCES) -> None:
    """Raises InputError, naming the first, for samples that no answer could be right for: they have none, or
    none that the scorer can compare with; and for a scorer that there is not.
    """
    chosen = scorer_named(scorer)
    unusable = [sample for sample in samples if not chosen.usable(sample)]
    if not unusable:
        return
    first, more = unusable[0], len(unusable) - 1
    given = first.answers[:1]
    left = "".join(
        f"; nothing is left of {cut(repr(answer))} without punctuation and articles"
        if "punctuation" in chosen.needs
        else f"; {chosen.name} needs {chosen.needs}, and the answer is {cut(repr(answer))}"
        for answer in given
    )
    raise InputError(
        f"{first.origin or 'a sample'} has no answer to compare with"
        + (f", and {more} more have none" if more else "")
        + left
        + "; accuracy needs one each"
    )
