"""The embedded model does what its card says: it answers easy-VQA, and it looks at the image."""

import pytest

from bivlm.data.samples import read_samples, shuffle_images
from bivlm.eval.run import evaluate
from bivlm.loading import load
from bivlm.zoo import embedded_model

LANGUAGE_ONLY = 0.67  # the share of test questions that the most frequent answer to each question gets right
WEIGHT_LIMIT = 16_000_000


@pytest.fixture(scope="module")
def embedded():
    return load(embedded_model())


def test_it_answers_and_looks_at_the_image(embedded):
    samples = read_samples("easy-vqa", split="test", limit=300, seed=1)
    right = evaluate(*embedded, samples, batch_size=50, max_new_tokens=4)
    shuffled = evaluate(*embedded, shuffle_images(samples, seed=1), batch_size=50, max_new_tokens=4)
    assert right.accuracy >= 0.95
    assert shuffled.accuracy <= LANGUAGE_ONLY + 0.08


@pytest.mark.slow
def test_all_test_questions(embedded):
    samples = read_samples("easy-vqa", split="test")
    assert len(samples) == 9673
    assert evaluate(*embedded, samples, batch_size=100, max_new_tokens=4).accuracy >= 0.97
    assert (
        evaluate(*embedded, shuffle_images(samples), batch_size=100, max_new_tokens=4).accuracy
        <= LANGUAGE_ONLY + 0.02
    )


def test_it_is_small_and_complete():
    folder = embedded_model()
    assert (folder / "model.safetensors").stat().st_size <= WEIGHT_LIMIT
    for name in (
        "config.json",
        "tokenizer.json",
        "processor_config.json",
        "chat_template.jinja",
        "README.md",
    ):
        assert (folder / name).exists(), name
