"""All samples on their way through the model, block by block: for every sample a paused forward pass.

    start ─► next_block ─► calls ─ the caller runs the block ─► go_on ─► next_block …

Samples need not take the same way: one without an image meets no block of the vision part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor

from bivlm.calibration.inputs import CalibrationInput
from bivlm.calibration.paused import BlockCall, PausedForward, stopping
from bivlm.families.last_logits import keeping


class Streams:
    """The forward passes of `model` on all samples, each paused at the next of the modules at `paths`, which
    are listed in the order in which the model runs them, as far as it is known.

    `keep` are the last positions of every sample whose logits are wanted, all by default. `gradients`: what
    the model does between its blocks is in torch's graph; otherwise it runs in inference mode. A context: at
    its end the passes are ended. The modules outside `paths` need their weights while the passes run.
    """

    def __init__(
        self,
        model: transformers.PreTrainedModel,
        samples: Sequence[CalibrationInput],
        paths: Sequence[str],
        *,
        keep: Sequence[int] | None = None,
        gradients: bool = False,
    ) -> None:
        self.model, self.gradients = model, gradients
        self._order = {path: number for number, path in enumerate(paths)}
        inputs = [dict(sample.tensors) for sample in samples]
        if keep is not None:
            inputs = [own | keeping(model, count) for own, count in zip(inputs, keep, strict=True)]
        self._passes = [PausedForward(partial(model, **own, use_cache=False)) for own in inputs]

    def __enter__(self) -> Streams:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._passes:
            one.close()

    def start(self) -> None:
        """Run every sample up to its first block."""
        with self._going():
            for one in self._passes:
                one.resume()

    def next_block(self) -> str | None:
        """The path of the block that is to run next: the first of those that samples wait at. None if all
        have ended. A block that a model runs several times, for one image after the other, is named as often.
        """
        waiting = {one.call.path for one in self._passes if one.call is not None}
        return min(waiting, key=self._order.__getitem__, default=None)

    def calls(self, path: str) -> dict[int, BlockCall]:
        """How the model calls a block, by the number of every sample that waits at it."""
        return {
            number: one.call
            for number, one in enumerate(self._passes)
            if one.call is not None and one.call.path == path
        }

    def resume(self, number: int, output: Any = None) -> Any:
        """Start one sample, or go on with it with what its block has returned; returns the result of its pass
        if it has ended.
        """
        with self._going():
            self._passes[number].resume(output)
        return self._passes[number].result

    def go_on(self, outputs: Mapping[int, Any]) -> None:
        """Go on with what a block has returned, by the numbers of the samples."""
        with self._going():
            for number, output in outputs.items():
                self._passes[number].resume(output)

    @contextmanager
    def _going(self) -> Iterator[None]:
        """While passes run between blocks."""
        modules = {path: self.model.get_submodule(path) for path in self._order}
        with stopping(modules), torch.inference_mode(not self.gradients):
            yield


@torch.inference_mode()
def replayed_logits(model: Any, tensors: Mapping[str, Tensor], paths: Sequence[str]) -> Tensor:
    """The logits (batch, t, vocabulary) of a pass that is paused at every block, where each block runs twice:
    as many times as while it is observed. They are those of the model itself, bit for bit, unless a block
    keeps something from one run to the next.
    """
    modules = {path: model.get_submodule(path) for path in paths}
    one = PausedForward(partial(model, **tensors, use_cache=False))
    output = None
    while not one.has_ended:
        with stopping(modules):
            one.resume(output)
        if one.call is not None:
            one.call.try_run(modules[one.call.path])
            output = one.call.run(modules[one.call.path])
    return one.result.logits
