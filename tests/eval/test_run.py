"""The whole evaluation on a tiny model whose answers are known."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from bivlm.errors import InputError
from bivlm.eval.answer import answer_batch, generate, inference
from bivlm.eval.confidence import calibration
from bivlm.eval.fidelity import ReferenceAnswers, answer_logits, collect_reference
from bivlm.eval.records import Record
from bivlm.eval.run import EvalResult, evaluate
from bivlm.eval.scoring import METRICS_VERSION
from bivlm.eval.statistics.intervals import mean_interval
from bivlm.eval.statistics.means import SMALLEST
from bivlm.families import family_of
from bivlm.types import Sample
from tiny import tiny_model, tiny_processor, tiny_samples
from told import Told

TOKENS = 4


@cache
def member() -> tuple[Any, Any]:
    return tiny_model("llava"), tiny_processor("llava")


@cache
def known_answers() -> tuple[str, ...]:
    model, processor = member()
    return tuple(
        answer_batch(model, processor, family_of(model.config), tiny_samples(6), max_new_tokens=TOKENS)
    )


def samples(*right: int) -> list[Sample]:
    """Six samples, of which these have the model's own answer as their reference."""
    return [
        replace(s, answers=(known_answers()[n] if n in right else "something else",))
        for n, s in enumerate(tiny_samples(6))
    ]


def run(chosen: list[Sample], **options: Any) -> EvalResult:
    return evaluate(*member(), chosen, **{"batch_size": 4, "max_new_tokens": TOKENS, **options})


def test_accuracy_interval_and_records():
    result = run(samples(0, 1, 4))
    assert (result.n, result.accuracy, result.metric, result.metrics_version) == (
        6,
        0.5,
        "exact_match",
        METRICS_VERSION,
    )
    assert result.interval == mean_interval([1, 1, 0, 0, 1, 0])
    assert (result.kl, result.top1_agreement, result.non_finite) == (None, None, 0)
    assert (result.batch_size, result.max_new_tokens) == (4, TOKENS)
    assert result.seconds > 0
    assert [record.score for record in result.records] == [1, 1, 0, 0, 1, 0]
    assert [record.answer for record in result.records] == list(known_answers())
    record = result.records[3]
    assert record == Record(
        "tiny:4",
        samples()[3].question,
        known_answers()[3],
        ("something else",),
        0.0,
        image=record.image,
        confidence=record.confidence,
        mean_confidence=record.mean_confidence,
        first_confidence=record.first_confidence,
    )
    assert Record.from_dict(json.loads(json.dumps(asdict(record)))) == record


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_batches_do_not_change_the_answers(batch_size: int):
    result = run(samples(2), batch_size=batch_size)
    assert [record.answer for record in result.records] == list(known_answers())
    assert result.accuracy == pytest.approx(1 / 6)


def test_many_references_are_votes():
    votes = [
        replace(sample, answers=(known_answers()[n],) * 2 + ("other",) * 8)
        for n, sample in enumerate(tiny_samples(3))
    ]
    result = run(votes)
    assert (result.metric, result.accuracy) == ("vqa_accuracy", pytest.approx(0.6))
    mixed = run(votes + samples(3)[3:4])
    assert (mixed.metric, mixed.accuracy) == ("exact_match+vqa_accuracy", pytest.approx((3 * 0.6 + 1) / 4))


def test_the_standard_error_has_the_images_as_clusters():
    """Six questions about three images, by the formula written out."""
    pictures = [sample.image for sample in tiny_samples(3)]
    chosen = [replace(sample, image=pictures[n // 2]) for n, sample in enumerate(samples())]
    own = [record.answer for record in run(chosen).records]
    chosen = [replace(s, answers=(own[n] if n in (0, 1, 4) else "no",)) for n, s in enumerate(chosen)]
    result = run(chosen)
    assert [record.score for record in result.records] == [1, 1, 0, 0, 1, 0]
    assert len({record.image for record in result.records}) == 3
    assert all(len(record.image) == 16 for record in result.records)
    d = [0.5, 0.5, -0.5, -0.5, 0.5, -0.5]
    together = 2 * (d[0] * d[1] + d[2] * d[3] + d[4] * d[5])
    assert result.standard_error == pytest.approx(math.sqrt(6 * 0.25 / (6 * 5) + together / 36))
    alone = run([replace(sample, image=pictures[0]) for sample in chosen[:2]])
    assert alone.standard_error is None


def test_a_scorer_reads_answers_its_own_way():
    chosen = [replace(sample, answers=("yes",), group="count") for sample in tiny_samples(2)]
    result = run(chosen, scorer="pope")
    assert (result.metric, result.accuracy) == ("pope", 1.0), "an answer that does not deny is a yes"
    assert result.aggregates["count f1"] == result.aggregates["f1"] == 1.0
    assert run(chosen).aggregates == {"count": 0.0}


def test_confidences_are_the_model_s_probabilities_of_its_answers():
    """The oracle: the whole sequence once more, all logits, the visual token left out."""
    model, processor = member()
    family = family_of(model.config)
    result = run(samples(0, 3))
    for record, sample in zip(result.records, tiny_samples(6), strict=True):
        inputs = family.inputs(processor, [sample], [sample.image])
        with inference(model):
            answers = generate(model, processor, family, inputs, TOKENS)
            logits = answer_logits(model, family, inputs, answers)
            logits[:, family.image_token_id(model.config)] = -torch.inf
        each = logits.double().softmax(-1).gather(1, answers.tokens[answers.mask][:, None])
        assert record.confidence == pytest.approx(each.prod().item(), rel=1e-4)
        assert record.mean_confidence == pytest.approx(each.mean().item(), rel=1e-4)
        assert record.first_confidence == pytest.approx(each[0].item(), rel=1e-4)
    assert result.calibration == calibration(
        [record.confidence for record in result.records], [record.score for record in result.records]
    )


def test_the_result_is_ready_for_json():
    result = run(samples(0))
    fields = result.to_dict()
    assert json.loads(json.dumps(fields)) == fields
    assert "records" not in fields
    assert fields["interval"] == list(result.interval)
    full = result.to_dict(with_records=True)
    assert json.loads(json.dumps(full))["records"][0]["answer"] == known_answers()[0]
    assert {name: full[name] for name in fields} == fields


def test_progress_is_told():
    told = Told()
    run(samples(0), events=told)
    assert told.steps == [("questions", 4, 6), ("questions", 6, 6)]


@pytest.mark.parametrize("stored", [False, True])
def test_against_itself_as_reference(stored: bool, tmp_path: Path):
    reference = collect_reference(
        *member(), samples(), tmp_path if stored else None, batch_size=3, max_new_tokens=2
    )
    if stored:
        reference = ReferenceAnswers.open(tmp_path)
    result = run(samples(0), reference=reference)
    assert (result.kl, result.top1_agreement, result.non_finite) == (0.0, 1.0, 0)
    assert result.kl_geometric == pytest.approx(SMALLEST)
    assert (result.kl_trimmed, result.kl_standard_error) == (0.0, 0.0)
    assert result.greedy_agreement is None, (
        "the reference's answers could be of two tokens, the model's of four"
    )
    assert result.batch_size == 3, "the batches are the reference's"
    assert [record.answer for record in result.records] == list(known_answers()), (
        "the model's own answers have their own length"
    )


def test_against_another_model_it_is_at_a_distance():
    far = tiny_model("llava")
    with torch.no_grad():
        far.lm_head.weight.mul_(-1)
    reference = collect_reference(far, member()[1], samples(), max_new_tokens=2)
    result = run(samples(0), reference=reference)
    assert result.kl > 0.5
    assert result.top1_agreement < 0.5


def test_questions_add_up_to_the_whole():
    """Every question's divergence is that of the reference made of it alone; tokens weigh them."""
    far = tiny_model("llava")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        far.lm_head.weight.add_(0.3 * torch.randn(far.lm_head.weight.shape, generator=generator))
    reference = collect_reference(far, member()[1], samples(), batch_size=4, max_new_tokens=TOKENS)
    result = run(samples(0), reference=reference)
    kls, tokens = ([getattr(record, name) for record in result.records] for name in ("kl", "tokens"))
    assert result.kl == pytest.approx(sum(kl * t for kl, t in zip(kls, tokens, strict=True)) / sum(tokens))
    assert result.kl_geometric == pytest.approx(math.exp(sum(map(math.log, kls)) / 6))
    shares = [record.agreement * record.tokens for record in result.records]
    assert result.top1_agreement == pytest.approx(sum(shares) / sum(tokens))
    for number in (0, 5):
        one = samples(0)[number : number + 1]
        alone = run(one, reference=collect_reference(far, member()[1], one, max_new_tokens=TOKENS))
        assert alone.kl == pytest.approx(kls[number], rel=1e-4)
        assert alone.records[0].tokens == tokens[number]
    answers = answer_batch(far, member()[1], family_of(far.config), tiny_samples(6), max_new_tokens=TOKENS)
    same = [mine == other for mine, other in zip(known_answers(), answers, strict=True)]
    assert [record.greedy for record in result.records] == same
    assert result.greedy_agreement == sum(same) / 6 < 1
    itself = collect_reference(*member(), samples(), batch_size=4, max_new_tokens=TOKENS)
    assert run(samples(0), reference=itself).greedy_agreement == 1.0


def test_broken_logits_are_reported(caplog: pytest.LogCaptureFixture):
    broken = tiny_model("llava")
    reference = collect_reference(broken, member()[1], samples(), max_new_tokens=2)
    judged = sum(int(reference.batch(index).mask.sum()) for index in range(len(reference.sizes)))
    with torch.no_grad():
        broken.lm_head.weight[9] = torch.nan
    with caplog.at_level(logging.WARNING, logger="bivlm"):
        result = evaluate(broken, member()[1], samples(0), max_new_tokens=3, reference=reference)
    assert result.non_finite == 6 * 3 + judged
    assert result.kl is None
    assert {record.kl for record in result.records} == {None}
    assert {record.confidence for record in result.records} == {None}
    assert (result.calibration, result.kl_geometric, result.kl_trimmed, result.kl_standard_error) == (
        None,
    ) * 4
    assert f"{result.non_finite} answer tokens had a NaN" in caplog.text
    json.dumps(result.to_dict(), allow_nan=False)


def test_the_model_is_left_as_it_was():
    model = tiny_model("llava").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluate(model, member()[1], samples(0), max_new_tokens=1)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_nothing_is_printed(capsys: pytest.CaptureFixture[str]):
    run(samples(0))
    assert capsys.readouterr() == ("", "")


# ---- refusals, before anything is asked


@pytest.mark.parametrize(
    ("chosen", "options", "message"),
    [
        ([], {}, "there are no samples"),
        (
            [*samples(0), replace(tiny_samples(1)[0], answers=())],
            {},
            "tiny:1 has no answer to compare with; accuracy",
        ),
        (
            [Sample(Image.new("RGB", (9, 9)), "?")] * 3,
            {},
            "a sample has no answer to compare with, and 2 more have none; accuracy",
        ),
        (
            [replace(tiny_samples(1)[0], answers=("The.", " "))],
            {},
            (
                "tiny:1 has no answer to compare with; nothing is left of 'The.' without punctuation and"
                " articles; accuracy"
            ),
        ),
        (samples(0), {"batch_size": 0}, "the batch size is 0"),
        (
            samples(),
            {"scorer": "mme"},
            (
                "tiny:1 has no answer to compare with, and 5 more have none; mme needs yes or no, and the"
                " answer is 'something else'; accuracy"
            ),
        ),
        (samples(0), {"scorer": "bleu"}, "there is no scorer 'bleu'"),
        (
            samples(0),
            {"reference": ReferenceAnswers((4, 1), ())},
            "the reference answered 5 samples and the model is asked 6",
        ),
    ],
    ids=["none", "unanswered", "several", "nothing left", "batch", "scorer", "no scorer", "reference"],
)
def test_what_cannot_be_evaluated_is_refused_at_once(
    chosen: list[Sample], options: dict[str, Any], message: str
):
    told = Told()
    with pytest.raises(InputError) as caught:
        run(chosen, events=told, **options)
    assert not told.steps, "it started"
    assert message in str(caught.value)


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path):
    (tmp_path / "cat.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"vqa\.jsonl:12: the image .*cat\.png cannot be read"):
        run([Sample(tmp_path / "cat.png", "Is it red?", ("yes",), "vqa.jsonl:12")])
