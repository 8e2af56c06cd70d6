"""The distance from a reference: nothing from itself, the definition from another, and one model in memory at
a time.
"""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bivlm.errors import InputError
from bivlm.eval import fidelity as module
from bivlm.eval.answer import inference, prepare
from bivlm.eval.divergence import Fidelity
from bivlm.eval.fidelity import INDEX, ReferenceAnswers, collect_reference, judge
from bivlm.families import family_of
from tiny import each, tiny_model, tiny_processor, tiny_samples
from told import Told

TOKENS = 4


@cache
def member(kind: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    return tiny_model(kind, dtype), tiny_processor(kind)


@cache
def other(kind: str) -> Any:
    """The same architecture with its weights moved a little."""
    model = tiny_model(kind)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(
                0.05 * parameter.std() * torch.randn(parameter.shape, generator=generator)
                if parameter.numel() > 1
                else 0.0
            )
    return model


def collect(
    kind: str = "llava", count: int = 5, folder: Path | None = None, **options: Any
) -> ReferenceAnswers:
    options = {"batch_size": 2, "max_new_tokens": TOKENS, **options}
    return collect_reference(*member(kind), tiny_samples(count), folder, **options)


def distance(model: Any, processor: Any, reference: ReferenceAnswers, count: int = 5) -> Fidelity:
    samples, total, start = tiny_samples(count), Fidelity(), 0
    family = family_of(model.config)
    with inference(model):
        for index, size in enumerate(reference.sizes):
            inputs = prepare(model, processor, family, samples[start : start + size])
            total += judge(model, family, inputs, reference.batch(index)).total
            start += size
    return total


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", each())
def test_a_model_is_at_no_distance_from_itself(kind: str, dtype: torch.dtype):
    reference = collect_reference(*member(kind, dtype), tiny_samples(5), batch_size=2, max_new_tokens=TOKENS)
    assert reference.sizes == (2, 2, 1)
    found = distance(*member(kind, dtype), reference)
    assert found.kl < 1e-6
    assert found.top1_agreement == 1.0
    assert found.tokens == sum(int(reference.batch(index).mask.sum()) for index in range(3)) > 5
    assert found.non_finite == 0


@pytest.mark.parametrize("kind", ["llava", "qwen2_vl", "mllama", "idefics3"])
def test_the_distance_of_two_models_is_that_of_the_definition(kind: str):
    """The oracle: one sample at a time, all logits, numpy in float64."""
    reference, processor, family = collect(kind), member(kind)[1], family_of(member(kind)[0].config)
    samples, terms, agreed = tiny_samples(5), [], 0
    for number, sample in enumerate(samples):
        batch = reference.batch(number // 2)
        answer = batch.tokens[number % 2][batch.mask[number % 2]][None]
        inputs = family.inputs(processor, [sample], [sample.image])
        prompt = inputs["input_ids"].shape[1]
        grown = family.extend(inputs, answer, torch.ones_like(answer))
        with torch.inference_mode():
            first, second = (
                model(**grown).logits[0].double().numpy() for model in (member(kind)[0], other(kind))
            )
        for place in range(prompt - 1, prompt - 1 + answer.shape[1]):
            log_p, log_q = (
                row - np.log(np.exp(row - row.max()).sum()) - row.max()
                for row in (first[place], second[place])
            )
            terms.append(float((np.exp(log_p) * (log_p - log_q)).sum()))
            agreed += int(log_p.argmax() == log_q.argmax())
    found = distance(other(kind), processor, reference)
    assert found.kl == pytest.approx(np.mean(terms), rel=1e-3)
    assert found.kl > 1e-4
    assert (found.tokens, found.agreed) == (len(terms), agreed)


def test_the_reference_s_answers_are_greedy_ones_with_their_end():
    model, processor = tiny_model("llava"), member("llava")[1]
    free = collect_reference(model, processor, tiny_samples(2), max_new_tokens=TOKENS).batch(0).tokens
    model.generation_config.eos_token_id = int(free[0, 1])
    batch = collect_reference(model, processor, tiny_samples(2), max_new_tokens=TOKENS).batch(0)
    assert batch.tokens[0][batch.mask[0]].tolist() == free[0, :2].tolist()
    assert batch.logits.shape == (int(batch.mask.sum()), len(processor.tokenizer))
    assert torch.equal(batch.logits.argmax(1), batch.tokens[batch.mask]), "each kept row chose its token"


def test_broken_models_are_counted_and_not_left_out():
    reference = collect(count=4)
    model = tiny_model("llava")
    with torch.no_grad():
        model.lm_head.weight[7] = torch.nan
    found = distance(model, member("llava")[1], reference, 4)
    assert found.non_finite == found.tokens > 0
    assert (found.kl, found.top1_agreement) == (None, 0.0)


# ---- the folder


def test_a_folder_holds_what_memory_would(tmp_path: Path):
    kept, written = collect(), collect(folder=tmp_path / "new" / "reference")
    again = ReferenceAnswers.open(tmp_path / "new" / "reference")
    assert written.sizes == again.sizes == kept.sizes
    for index in range(len(kept.sizes)):
        for name, tensor in vars(kept.batch(index)).items():
            for place in (written, again):
                found = getattr(place.batch(index), name)
                assert found.dtype == tensor.dtype
                assert torch.equal(found, tensor), name
    assert sorted(path.name for path in (tmp_path / "new" / "reference").iterdir()) == [
        *(f"batch-0000{n}.safetensors" for n in range(3)),
        INDEX,
    ]


def test_logits_are_kept_in_the_model_s_own_type(tmp_path: Path):
    collect_reference(*member("llava", torch.bfloat16), tiny_samples(1), tmp_path, max_new_tokens=1)
    assert ReferenceAnswers.open(tmp_path).batch(0).logits.dtype == torch.bfloat16


def test_progress_is_told():
    told = Told()
    collect(events=told)
    assert told.steps == [("reference answers", done, 5) for done in (2, 4, 5)]


def test_an_interrupted_collection_leaves_nothing_that_looks_whole(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        collect(folder=tmp_path, events=Told(stop=lambda what, done: done == 4))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "batch-00000.safetensors",
        "batch-00001.safetensors",
    ]
    with pytest.raises(InputError, match="does not hold a whole set"):
        ReferenceAnswers.open(tmp_path)


def test_a_write_that_is_interrupted_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def half(_tensors: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "save_file", half)
    with pytest.raises(KeyboardInterrupt):
        collect(folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(_tensors: Any, _path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(
        InputError,
        match=r"batch-00000\.safetensors: the reference answers cannot be written \(.*No space left",
    ):
        collect(folder=tmp_path)


def test_a_folder_must_be_empty_and_a_folder(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty"):
        collect(folder=tmp_path)
    with pytest.raises(InputError, match="reference answers cannot be written there"):
        collect(folder=tmp_path / "mine.txt")


@pytest.mark.parametrize("damage", ["cut", "gone", "renamed"])
def test_a_damaged_batch_is_named(damage: str, tmp_path: Path):
    reference = collect(folder=tmp_path, count=2)
    file = tmp_path / "batch-00000.safetensors"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-9])
    elif damage == "gone":
        file.unlink()
    else:
        content = file.read_bytes()
        file.write_bytes(content.replace(b'"logits"', b'"legits"'))
    with pytest.raises(
        InputError, match=r"batch-00000\.safetensors: the reference answers are missing or damaged"
    ):
        reference.batch(0)


@pytest.mark.parametrize("index", ["", "{", json.dumps({"size": 1}), json.dumps([1])])
def test_a_damaged_index_is_named(index: str, tmp_path: Path):
    (tmp_path / INDEX).write_text(index)
    with pytest.raises(InputError, match="does not hold a whole set"):
        ReferenceAnswers.open(tmp_path)


# ---- what cannot be compared


def test_other_questions_are_refused():
    reference = collect(count=2)
    model, processor = member("llava")
    family = family_of(model.config)
    with pytest.raises(InputError, match="other questions, or has another tokenizer"), inference(model):
        judge(model, family, prepare(model, processor, family, tiny_samples(2)[::-1]), reference.batch(0))


def test_other_vocabularies_are_refused():
    model, processor = member("llava")
    family, batch = family_of(model.config), collect(count=2).batch(0)
    cut = replace(batch, logits=batch.logits[:, :-1])
    with pytest.raises(InputError, match="have 324 and 325 entries"), inference(model):
        judge(model, family, prepare(model, processor, family, tiny_samples(2)), cut)


def test_a_batch_size_of_nothing_is_refused():
    with pytest.raises(InputError, match="the batch size is 0"):
        collect(batch_size=0)
