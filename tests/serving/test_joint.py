"""A row of a batch that others join and leave gets the answer that it gets alone: for every kind of model."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

import bivlm
from bivlm.eval.answer import answer_batch, inference
from bivlm.families import family_of
from bivlm.serving.asked import Ended, Piece, Request
from bivlm.serving.joint import JointBatch, NotJoinable
from bivlm.types import Sample
from pictures import noise
from tiny import KINDS, tiny_checkpoint

# states of linear attention and of convolutions, and cross-attention to an image
NOT_JOINABLE = ("qwen3_5", "qwen3_5_moe", "minicpmv4_6", "lfm2_vl", "mllama")
LONGEST = 9


class Client:
    """What one client is told."""

    def __init__(self) -> None:
        self.text, self.ended = "", None

    def __call__(self, event: object) -> None:
        assert self.ended is None, "told after the end"
        if isinstance(event, Piece):
            self.text += event.text
        else:
            self.ended = event


def samples() -> list[Sample]:
    """Prompts of unlike lengths about images of unlike shapes."""
    shapes = ((40, 30), (24, 60), (50, 50), (64, 20))
    images = [
        noise(*shape, seed=number) if number else Image.new("RGB", shape, "red")
        for number, shape in enumerate(shapes)
    ]
    words = ("What?", "What is it that stands at the left, and why is it there?", "Is it red?", "How many?")
    return [Sample(image, text) for image, text in zip(images, words, strict=True)]


def run(batch: JointBatch, asked: list[Sample], lengths: tuple[int, ...] = (LONGEST,) * 4) -> list[Client]:
    """Two prompts together, a third after two steps, a fourth after another; then to the end."""
    clients = [Client() for _ in asked]
    requests = [
        Request(sample, client, most) for sample, client, most in zip(asked, clients, lengths, strict=True)
    ]
    with inference(batch.model):
        for first, last, steps in ((0, 2, 2), (2, 3, 1), (3, 4, LONGEST)):
            batch.join(requests[first:last])
            for _ in range(steps):
                if not batch.is_empty:
                    batch.step()
    assert batch.is_empty
    return clients


QUICK = ("llava", "gemma3", "mllama")  # the others are slow


@pytest.mark.parametrize(
    "kind", [*QUICK, *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind not in QUICK)]
)
def test_rows_that_join_get_the_answers_that_they_get_alone(kind, tmp_path):
    model, processor = bivlm.load(tiny_checkpoint(kind, tmp_path / "model", torch.float32))
    family = family_of(model.config)
    asked, lengths = samples(), (LONGEST, 3, LONGEST, 5)
    alone = [
        answer_batch(model, processor, family, [sample], max_new_tokens=most)[0]
        for sample, most in zip(asked, lengths, strict=True)
    ]
    batch = JointBatch(model, processor, family)
    if kind in NOT_JOINABLE:
        with pytest.raises(NotJoinable):
            run(batch, asked, lengths)
        return
    clients = run(batch, asked, lengths)
    assert [client.text.strip() for client in clients] == alone
    assert all(isinstance(client.ended, Ended) for client in clients)
