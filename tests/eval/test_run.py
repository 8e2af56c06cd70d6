"""The whole evaluation on a tiny model whose answers are known."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from bivlm.errors import InputError
from bivlm.eval.answer import answer_batch
from bivlm.eval.fidelity import ReferenceAnswers, collect_reference
from bivlm.eval.metrics import METRICS_VERSION, mean_interval
from bivlm.eval.run import EvalResult, Record, evaluate
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
    assert result.records[3] == Record(
        "tiny:4", samples()[3].question, known_answers()[3], ("something else",), 0.0
    )


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
            samples(0),
            {"reference": ReferenceAnswers((4, 1), ())},
            "the reference answered 5 samples and the model is asked 6",
        ),
    ],
    ids=["none", "unanswered", "several", "nothing left", "batch", "reference"],
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
