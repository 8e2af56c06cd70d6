"""Requests that ask for a share of the visual tokens get the answers of a model that is pruned so."""

from __future__ import annotations

import openai
import pytest
import torch

import bivlm
from bivlm.eval.answer import answer_batch
from bivlm.families import family_of
from bivlm.pruning.apply import active_pruning, prune
from bivlm.serving.asked import Ended, Request
from bivlm.serving.engine import Engine
from bivlm.serving.visual import VisualTokens
from bivlm.types import Sample
from served import Client, Server
from tiny import tiny_checkpoint
from tiny.language import tiny_language_model

SHARES = (None, 0.3, 0.3, None, 0.6, 0.3)


@pytest.fixture
def engine(loaded):
    engine = Engine(*loaded, most_rows=4, most_waiting=8)
    yield engine
    if engine.is_alive:
        engine.stop()


def alone(model, processor, sample, share, pruner):
    prune(model, None if share is None else f"{str(pruner).replace('keep=0.5', f'keep={share}')}")
    try:
        return answer_batch(model, processor, family_of(model.config), [sample], max_new_tokens=8)[0]
    finally:
        prune(model, None)


@pytest.mark.parametrize("joins", [True, False])
def test_requests_of_several_shares_get_the_answers_that_they_get_alone(engine, loaded, picture, joins):
    engine.joins = joins
    image, _ = picture
    samples = [Sample(image, f"What is {'very ' * number}big?") for number in range(len(SHARES))]
    pruner = engine.visual.pruner
    expected = [alone(*loaded, sample, share, pruner) for sample, share in zip(samples, SHARES, strict=True)]
    clients = [Client() for _ in SHARES]
    for sample, client, share in zip(samples, clients, SHARES, strict=True):
        engine.submit(Request(sample, client, 8, visual_tokens=share))
    engine.start()
    assert all(isinstance(client.wait(), Ended) for client in clients)
    assert [client.text.strip() for client in clients] == expected
    engine.stop()
    assert active_pruning(loaded[0]) is None


def test_shares_change_answers(engine, loaded, picture):
    """Or the test above compares nothing."""
    sample = Sample(picture[0], "What is it?")
    found = {alone(*loaded, sample, share, engine.visual.pruner) for share in (None, 0.1, 0.3, 0.6)}
    assert len(found) > 1


def test_clients_ask_by_a_field_of_the_body(server, loaded, picture):
    def ask(**extra):
        content = [picture[1], {"type": "text", "text": "What is it?"}]
        return server.client().chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": content}], max_tokens=8, extra_body=extra
        )

    expected = alone(*loaded, Sample(picture[0], "What is it?"), 0.3, server.engine.visual.pruner)
    assert ask(visual_tokens=0.3).choices[0].message.content == expected
    assert ask(visual_tokens=1).choices[0].message.content == ask().choices[0].message.content
    for wrong in (0, -1, 1.5):
        with pytest.raises(openai.BadRequestError, match="visual_tokens is"):
            ask(visual_tokens=wrong)
    with pytest.raises(openai.BadRequestError, match="visual_tokens: "):
        ask(visual_tokens="half")


def test_a_model_of_language_alone_has_none(tmp_path):
    model, processor = bivlm.load(tiny_language_model("llama", tmp_path / "model", torch.float32))
    server = Server(model, processor)
    try:
        assert server.engine.visual.pruner is None
        with pytest.raises(openai.BadRequestError, match="cannot drop visual tokens"):
            server.client().chat.completions.create(
                model="tiny",
                messages=[{"role": "user", "content": "What?"}],
                extra_body={"visual_tokens": 0.5},
            )
    finally:
        server.stop()


def test_a_model_that_drops_tokens_by_itself_is_asked_for_its_own_pruner(tmp_path):
    folder = tiny_checkpoint("llava", tmp_path / "model", torch.float32)
    model, _ = bivlm.load(folder, pruning="grid:layer=1,keep=0.25")
    visual = VisualTokens(model, family_of(model.config))
    assert (visual.own, str(visual.pruner)) == (0.25, "grid:layer=1,keep=0.25")
    assert visual.asked(0.25) is None
    with visual.kept(visual.asked(1.0)):
        assert active_pruning(model).pruning.keep == 1.0
    assert active_pruning(model).pruning.keep == 0.25
