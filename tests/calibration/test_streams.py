"""Paused passes: the model's own code runs between the blocks, whatever it does there; gradients pass through
it; what cannot be paused is refused, by its name.
"""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn

from bivlm.calibration.paused import PausedForward, stopping
from bivlm.calibration.streams import Streams, replayed_logits
from calibration.toy_model import PATHS, Model, sample


def walked(model, samples, run=lambda number, call, block: call.run(block), gradients=False, paths=PATHS):
    """The order of the blocks, and the logits of every sample."""
    order, results = [], {}
    with Streams(model, samples, paths, gradients=gradients) as streams:
        streams.start()
        while (path := streams.next_block()) is not None:
            order.append((path, sorted(streams.calls(path))))
            block = model.get_submodule(path)
            for number, call in streams.calls(path).items():
                results[number] = streams.resume(number, run(number, call, block))
    return order, [results[number].logits for number in range(len(samples))]


def test_whatever_the_model_does_between_its_blocks_is_its_own_code():
    model, inputs = Model(), {"input_ids": torch.tensor([[1, 2, 3, 4]])}
    assert torch.equal(replayed_logits(model, inputs, PATHS), model(**inputs).logits)
    assert torch.equal(replayed_logits(model, inputs, [*PATHS, "between"]), model(**inputs).logits)
    assert all("forward" not in module.__dict__ for module in model.modules())


@torch.inference_mode()
def test_samples_are_walked_together_and_each_computes_what_it_does_alone():
    model, samples = Model(), [sample(1, 2, 3, 4), sample(5, 6)]
    order, results = walked(model, samples)
    assert order == [(path, [0, 1]) for path in PATHS]
    for one, found in zip(samples, results, strict=True):
        assert torch.equal(found, model(**one.tensors).logits)


@torch.inference_mode()
def test_a_sample_may_pass_a_block_by():
    """The others catch up before it goes on."""
    model = Model()
    samples = [sample(1, 2, skip=torch.ones(1)), sample(3, 4)]
    order, _ = walked(model, [samples[1], samples[0]], paths=PATHS)
    assert order == [(PATHS[0], [0, 1]), (PATHS[1], [0]), (PATHS[2], [0, 1]), (PATHS[3], [0, 1])]


@torch.inference_mode()
def test_what_a_try_leaves_in_the_arguments_is_gone():
    seen = []

    def run(number, call, block):
        before = dict(call.kwargs["shared"])
        tried = call.try_run(block)
        assert call.kwargs["shared"] == before
        output = call.run(block)
        seen.append(torch.equal(tried, output[0]))
        return output

    walked(Model(), [sample(1, 2, 3, 4)], run)
    assert seen == [True] * 4


@torch.inference_mode()
def test_a_block_that_runs_twice_is_named_twice():
    model, one = Model(twice=True), sample(1, 2, 3, 4)
    order, results = walked(model, [one])
    assert [path for path, _ in order] == PATHS * 2
    assert torch.equal(results[0], model(**one.tensors).logits)


def test_a_block_under_autocast_is_refused_by_its_name():
    with pytest.raises(RuntimeError, match=r"calls blocks\.0 under autocast"):
        walked(Model(autocast=True), [sample(1, 2)])
    assert not torch.is_autocast_enabled("cpu")


def test_an_error_in_the_model_reaches_the_caller():
    with pytest.raises(IndexError, match="out of range"):
        walked(Model(), [sample(99, 1)])


def test_passes_end_with_their_context_and_modes_stay_the_callers():
    left = []

    def forward():
        try:
            with torch.no_grad():
                module(torch.ones(1, 2))
        finally:
            left.append(True)

    module = nn.Linear(2, 2)
    one = PausedForward(forward)
    with stopping({"linear": module}):
        one.resume()
    assert torch.is_grad_enabled()
    assert one.call.path == "linear"
    one.close()
    assert left == [True]
    assert one.has_ended
    assert torch.is_grad_enabled()


@torch.inference_mode()
def test_what_passes_end_with_is_not_kept():
    """The logits of all samples together would take more memory than anything else."""
    model, ended = Model(), []
    model.register_forward_hook(lambda _module, _args, output: ended.append(weakref.ref(output.logits)))
    with Streams(model, [sample(1, 2, 3, 4), sample(5, 6)], PATHS) as streams:
        streams.start()
        while (path := streams.next_block()) is not None:
            block = model.get_submodule(path)
            streams.go_on({number: call.run(block) for number, call in streams.calls(path).items()})
        assert [reference() for reference in ended] == [None, None]


def test_only_the_positions_that_are_wanted_have_logits():
    one = sample(1, 2, 3, 4)
    with Streams(Model(), [one], [], keep=[1]) as streams:
        assert streams.resume(0).logits.shape == (1, 1, 16)
