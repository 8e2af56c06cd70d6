"""Training an adapter: it helps on questions it has not seen, ends with the same bytes however often it was
interrupted, and tells what is wrong.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import bivlm
from bivlm.adapters import store
from bivlm.adapters.lora import loras
from bivlm.adapting.run import adapt
from bivlm.adapting.settings import AdaptSettings
from bivlm.data.samples import read_samples
from bivlm.errors import InputError
from bivlm.eval.fidelity import collect_reference
from bivlm.eval.inspection import inspect
from bivlm.eval.run import evaluate
from bivlm.job.run import quantize
from folders import assert_same_files
from tiny import tiny_checkpoint
from tiny.language import tiny_language_model
from told import Told


@pytest.fixture(scope="module")
def whole(full, base, samples, tmp_path_factory):
    """An adapter that was trained without an interruption, and its result."""
    out = tmp_path_factory.mktemp("whole") / "adapter"
    settings = AdaptSettings(rank=4, epochs=6, rate=3e-2, batch_size=4, max_new_tokens=4)
    return out, adapt(base, out, samples, teacher=full, settings=settings)


def test_it_comes_closer_to_the_teacher_on_questions_it_has_not_seen(whole, full, base):
    out, result = whole
    unseen = [bivlm.Sample(None, f"What color is number {number}?", ("red",)) for number in range(30, 50)]
    teacher = collect_reference(*bivlm.load(full), unseen, max_new_tokens=4)
    before = evaluate(*bivlm.load(base), unseen, reference=teacher, max_new_tokens=4).kl
    after = evaluate(*bivlm.load(base, adapter=out), unseen, reference=teacher, max_new_tokens=4).kl
    assert after < 0.8 * before
    assert min(result.losses[1:]) < 0.8 * result.losses[0]


def test_the_bits_are_those_of_the_files(whole, base):
    out, result = whole
    total = inspect(base).total
    stored = 0
    for tensor in loras(bivlm.load(base, adapter=out)[0]).values():
        rank, columns = tensor.a.shape
        stored += 8 * rank * (columns + len(tensor.b)) + 32 * rank
    assert result.adapter_bits == stored / total.weights
    assert result.bits == total.bits_per_weight + result.adapter_bits
    record = json.loads((out / "bivlm_adapter.json").read_text())
    assert record["result"]["bits"] == result.bits
    assert record["training"]["settings"]["rank"] == 4


def test_interrupted_anywhere_it_ends_with_the_same_bytes(
    whole, full, base, samples, settings, tmp_path, monkeypatch
):
    monkeypatch.setattr("bivlm.adapting.train.SAVED_SECONDS", 0.0)
    out, stops = (
        tmp_path / "adapter",
        [("lessons", 7), ("held-out samples", 3), ("training", 8), ("training", 20)],
    )
    for what, done in stops:
        with pytest.raises(KeyboardInterrupt):
            adapt(
                base,
                out,
                samples,
                teacher=full,
                settings=settings,
                events=Told(stop=lambda *step, wanted=(what, done): step == wanted),
            )
        assert [path.name for path in out.iterdir()] == [".bivlm-job"]
    told = Told()
    adapt(base, out, samples, teacher=full, settings=settings, events=told)
    assert any(line.startswith("the training goes on after step 19 of 30") for line in told.lines)
    assert_same_files(out, whole[0])


WRITES = ("write_shard", "write_text", "sync_folder", "write_text", "sync_folder")  # of the result, in order


def die_at(place, late, patched):
    """Interrupt the writing of the result before, or `late` after, one of its calls; returns the calls
    made.
    """
    made = []

    def dying(name, call):
        def instead(*given):
            made.append(name)
            here = len(made) == place + 1
            if late or not here:
                call(*given)
            if here:
                raise KeyboardInterrupt

        return instead

    for name in set(WRITES):
        patched.setattr(store, name, dying(name, getattr(store, name)))
    return made


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_it_dies_at_any_file_of_the_result(late, whole, full, base, samples, settings, tmp_path, monkeypatch):
    """What is there is no adapter until all of it is, and the same command finishes it."""
    out = tmp_path / "adapter"
    for place in range(len(WRITES)):
        with monkeypatch.context() as patched:
            made = die_at(place, late, patched)
            with pytest.raises(KeyboardInterrupt):
                adapt(base, out, samples, teacher=full, settings=settings)
        assert tuple(made) == WRITES[: place + 1]
        if place + late > 3:
            assert loras(bivlm.load(base, adapter=out)[0])
            break
        with pytest.raises(InputError, match="unfinished work; run its `bivlm adapt` command again"):
            bivlm.load(base, adapter=out)
    adapt(base, out, samples, teacher=full, settings=settings)
    assert_same_files(out, whole[0])


def test_a_damaged_state_and_lesson_are_made_again(whole, full, base, samples, settings, tmp_path):
    out = tmp_path / "adapter"
    with pytest.raises(KeyboardInterrupt):
        adapt(
            base,
            out,
            samples,
            teacher=full,
            settings=settings,
            events=Told(stop=lambda what, done: (what, done) == ("training", 17)),
        )
    for pattern in ("lesson-00003-*", "state.safetensors"):
        for path in (out / ".bivlm-job").glob(pattern):
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content)
    told = Told()
    adapt(base, out, samples, teacher=full, settings=settings, events=told)
    assert any("is damaged; the training begins again" in line for line in told.lines)
    assert_same_files(out, whole[0])


def test_the_same_command_again_has_nothing_to_do(whole, full, base, samples, settings):
    out, result = whole
    told = Told()
    assert adapt(base, out, samples, teacher=full, settings=settings, events=told) == result
    assert told.lines == [f"{out} holds this adapter already, complete and undamaged: nothing to do"]
    with pytest.raises(InputError, match="holds another adapter"):
        adapt(base, out, samples, teacher=full, settings=replace(settings, rank=3))


def test_unfinished_work_of_another_training_is_kept(full, base, samples, settings, tmp_path):
    out = tmp_path / "adapter"
    with pytest.raises(KeyboardInterrupt):
        adapt(base, out, samples, settings=settings, events=Told(stop=lambda what, done: what == "lessons"))
    with pytest.raises(InputError, match=r"unfinished work of another training \(its settings differ\)"):
        adapt(base, out, samples, settings=replace(settings, seed=1))
    with pytest.raises(InputError, match=r"\(its samples differ\)"):
        adapt(base, out, samples[::-1], settings=settings)


def test_given_answers_are_learned_without_a_teacher(base, samples, settings, tmp_path):
    result = adapt(base, tmp_path / "adapter", samples, settings=settings)
    assert min(result.losses[1:]) < 0.8 * result.losses[0]


def test_no_gain_writes_nothing_and_says_so(base, samples, settings, tmp_path):
    """Steps so small that nothing is left of them in eight bits."""
    result = adapt(base, tmp_path / "adapter", samples, settings=replace(settings, rate=1e-30, epochs=1))
    assert result.folder is None
    assert result.adapter_bits == 0
    assert not (tmp_path / "adapter").exists()
    assert not list(tmp_path.iterdir())


def test_a_budget_is_kept(base, samples, settings, tmp_path):
    settings = replace(settings, rank=None, budget_bits=0.6, linears="*mlp*")
    result = adapt(base, tmp_path / "adapter", samples, settings=settings)
    assert 0.5 < result.adapter_bits <= 0.6
    assert all("mlp" in name for name in result.ranks)


def test_parts_that_nothing_reaches(tmp_path):
    """A LLaVA that reads the last block but one of its tower, whose last block therefore has no gradients."""
    full = tiny_checkpoint("llava", tmp_path / "full", torch.bfloat16)
    base = quantize(full, tmp_path / "base", recipe="rtn-2")
    data = read_samples("easy-vqa", split="train", limit=8)
    settings = AdaptSettings(rank=2, epochs=2, batch_size=2, rate=1e-2, max_new_tokens=2)
    result = adapt(base, tmp_path / "adapter", data, teacher=full, settings=settings)
    assert result.folder is not None
    towers = {name for name in result.ranks if ".layers.2." in name and "vision" in name}
    assert not towers
    assert any("vision" in name for name in result.ranks)
    model, processor = bivlm.load(base, adapter=tmp_path / "adapter")
    assert len(loras(model)) == len(result.ranks)
    assert isinstance(bivlm.answer(model, processor, data[0].image, "what is it?", max_new_tokens=2), str)


def no_answers(samples):
    return [replace(sample, answers=()) for sample in samples]


MISTAKES = {
    "not packed": ("full", {}, "is not packed by bivlm"),
    "too few": ("base", {"data": 3}, "there are 3 samples, of which every 4th is held out"),
    "no answers": ("base", {"data": no_answers}, "has no answer to compare with"),
    "no such linears": (
        "base",
        {"linears": "*vision*"},
        r"names none of the 7 packed linears, for example model",
    ),
    "two sizes": ("base", {"rank": 2, "budget_bits": 0.1}, "give one of them"),
    "a budget too small": ("base", {"rank": None, "budget_bits": 1e-6}, "give more bits"),
    "four bits": ("base", {"bits": 4}, "bits is 4"),
    "no epoch": ("base", {"epochs": 0}, "epochs is 0; give 1 or more"),
    "a rate that is no number": ("base", {"rate": float("nan")}, "rate is nan; give a positive number"),
    "given answers without a teacher": ("base", {"given_answers": True}, "leave one of the two out"),
}


@pytest.mark.parametrize(("model", "changes", "says"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_told_and_nothing_is_written(model, changes, says, full, base, samples, tmp_path):
    changes = dict(changes)
    wanted = changes.pop("data", None)
    data = samples[:wanted] if isinstance(wanted, int) else wanted(samples) if wanted else samples
    with pytest.raises(InputError, match=says):
        adapt(
            {"full": full, "base": base}[model],
            tmp_path / "out",
            data,
            settings=AdaptSettings(**changes),
        )
    assert not (tmp_path / "out" / "adapter_config.json").exists()


def test_places_that_hold_other_things(base, full, samples, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file; OUT is a folder for the adapter"):
        adapt(base, tmp_path / "file", samples)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("")
    with pytest.raises(InputError, match="is not empty; choose another folder"):
        adapt(base, tmp_path / "folder", samples)
    assert (tmp_path / "folder" / "mine.txt").exists()
    with pytest.raises(InputError, match="OUT is the model's own folder"):
        adapt(base, base, samples)


def test_a_teacher_with_another_tokenizer(base, samples, full, tmp_path):
    teacher = Path(shutil.copytree(full, tmp_path / "teacher"))
    tokenizer = json.loads((teacher / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = []
    (teacher / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(InputError, match="the teacher has another tokenizer or processor"):
        adapt(base, tmp_path / "out", samples, teacher=teacher)


def test_logits_that_are_not_finite(samples, full, tmp_path):
    """A norm so large that the head's sums overflow."""
    broken = Path(shutil.copytree(full, tmp_path / "full"))
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"].fill_(3e38)
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    base = quantize(broken, tmp_path / "base", recipe="rtn-2")
    with pytest.raises(InputError, match="the loss of the packed model is not finite"):
        adapt(base, tmp_path / "out", samples)


def test_every_expert_of_a_mixture_learns(samples, settings, tmp_path):
    full = tiny_language_model("qwen3_moe", tmp_path / "full", torch.float32, layers=1)
    base, out = quantize(full, tmp_path / "base", recipe="rtn-2"), tmp_path / "adapter"
    adapt(base, out, samples, teacher=full, settings=replace(settings, epochs=2))
    fitted = loras(bivlm.load(base, adapter=out)[0])
    experts = {path for path in fitted if ".experts." in path}
    assert len(experts) == 2 * 8  # gate and up are one linear
    assert any(float(fitted[path].b.abs().sum()) > 0 for path in experts)
