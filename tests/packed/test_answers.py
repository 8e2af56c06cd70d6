"""A packed model answers the same with the native library as without it."""

import pytest

from bivlm.data.samples import read_samples
from bivlm.eval.answer import answer_batch
from bivlm.families import family_of
from bivlm.job.run import quantize
from bivlm.loading import load
from bivlm.native import library as native
from bivlm.packed.linear import packed_linears
from bivlm.packed.module import prepared_bytes
from bivlm.zoo import embedded_model

QUESTIONS = 40
DIFFER = 0.05  # the share of answers that eight-bit inputs may change


@pytest.fixture(scope="module")
def samples():
    return read_samples("easy-vqa", split="test", limit=QUESTIONS, seed=2)


def answers(folder, samples, **options):
    """The answers, the kernels that gave them, and the memory that the kernels hold in addition."""
    model, processor = load(folder, **options)
    family = family_of(model.config)
    texts = [
        text
        for start in range(0, QUESTIONS, 10)
        for text in answer_batch(model, processor, family, samples[start : start + 10], max_new_tokens=4)
    ]
    return (
        texts,
        {linear.product().kernel for linear in packed_linears(model).values()},
        prepared_bytes(model),
    )


@pytest.mark.skipif(native.library() is None, reason=native.status().why)
@pytest.mark.parametrize("preset", ["bivlm-paper", "rtn-3"])
def test_same_answers(preset, samples, tmp_path, monkeypatch):
    folder = quantize(embedded_model(), tmp_path / "packed", recipe=preset)
    fast, kernels, added = answers(folder, samples)
    assert kernels == {"native"}
    rounded, _, _ = answers(folder, samples, activations="int8")
    monkeypatch.setattr(native, "_search", lambda: "absent for a test")
    slow, kernels, nothing = answers(folder, samples)
    assert kernels == {"reference"}
    assert fast == slow
    assert sum(one != other for one, other in zip(rounded, slow, strict=True)) <= DIFFER * QUESTIONS
    assert 0 == nothing <= added < 1.5 * sum(path.stat().st_size for path in folder.glob("*.safetensors"))
