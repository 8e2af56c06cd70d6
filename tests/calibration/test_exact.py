"""The full-precision model block by block: the gradients of everything, blocks and what lies between them,
are those of one graph of the whole model.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import torch
from torch import nn

from bivlm.calibration.exact import ExactPass
from calibration.toy_model import PATHS, Model, sample


def source_of(model):
    @contextmanager
    def present(path):
        yield model.get_submodule(path)

    return SimpleNamespace(model=model, surroundings=lambda _paths, head: nullcontext(), present=present)


def loss_of(one, logits):
    return nn.functional.cross_entropy(logits, one.labels, reduction="sum")


def gradients_of(model):
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    return found


def short(*ids, **more):
    """A sample whose targets are its last two tokens: the model makes one token of two."""
    one = sample(*ids, **more)
    mask = torch.tensor([False] * (len(ids) - 2) + [True] * 2)
    return type(one)(one.tensors, one.visual, mask)


def test_gradients_pass_through_shared_dictionaries_and_all_that_lies_between_blocks():
    model, samples = Model(), [short(1, 2, 3, 4, 5, 6), short(7, 8, 9, 1, 2, 3)]
    for one in samples:
        keep, rows = one.predicting()
        loss_of(one, model(**one.tensors, logits_to_keep=keep).logits[0][rows]).backward()
    expected = gradients_of(model)
    assert all(bool(value.abs().sum() > 0) for value in expected.values())

    watched = []
    ExactPass(source_of(model), PATHS, samples).differentiate(
        lambda number, logits: loss_of(samples[number], logits),
        lambda path, _module, number: nullcontext(watched.append((path, number))),
    )
    found = gradients_of(model)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)
    assert watched == [(path, number) for path in reversed(PATHS) for number in (0, 1)]


def test_predictions_are_the_models():
    model, samples, seen = Model(), [short(1, 2, 3, 4, 5, 6), short(7, 8, 9, 1)], {}
    ExactPass(source_of(model), PATHS, samples).predict(lambda number, logits: seen.update({number: logits}))
    for number, one in enumerate(samples):
        keep, rows = one.predicting()
        with torch.no_grad():
            assert torch.equal(seen[number], model(**one.tensors, logits_to_keep=keep).logits[0][rows])
