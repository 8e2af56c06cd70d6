"""All samples on their way through the model, block by block: for every sample a paused forward pass.

    start ─► next_block ─► calls ─ the caller runs the block ─► go_on ─► next_block …

Samples need not take the same way: one without an image meets no block of the vision part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from bivlm.calibration.inputs import CalibrationInput
from bivlm.calibration.paused import BlockCall, PausedForward, stopping
from bivlm.crew import ALONE, Crew
from bivlm.errors import InputError
from bivlm.families.last_logits import keeping
from bivlm.profile import part


class Streams:
    """The forward passes of `model` on all samples, each paused at the next of the modules at `paths`, which
    are listed in the order in which the model runs them, as far as it is known.

    In a `crew` these are the samples of this rank; their numbers are those among all `samples`.

    `keep` are the last positions of every sample whose logits are wanted, all by default (a model that has no
    such argument computes them all the same); `headless` passes end before the language head, with hidden
    states. `gradients`: what
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
        headless: bool = False,
        crew: Crew = ALONE,
    ) -> None:
        self.model, self.gradients, self.crew = model, gradients, crew
        runs = model.base_model if headless else model
        self._order = {path: number for number, path in enumerate(paths)}
        inputs = [dict(sample.tensors) for sample in samples]
        if keep is not None:
            inputs = [own | keeping(model, count) for own, count in zip(inputs, keep, strict=True)]
        self._passes = {
            number: PausedForward(partial(runs, **own, use_cache=False))
            for number, own in enumerate(inputs)
            if crew.owns(number)
        }
        self._waiting: dict[int, str] = {}

    def __enter__(self) -> Streams:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._passes.values():
            one.close()

    def start(self) -> None:
        """Run every sample up to its first block."""
        with self._going():
            for one in self._passes.values():
                one.resume()

    def next_block(self) -> str | None:
        """The path of the block that is to run next: the first of those that samples wait at, of any rank.
        None if all have ended. A block that a model runs several times, for one image after the other, is
        named as often.
        """
        own = {number: one.call.path for number, one in self._passes.items() if one.call is not None}
        every = self.crew.gather(own)
        self._waiting = {number: path for waiting in every for number, path in waiting.items()}
        return min(set(self._waiting.values()), key=self._order.__getitem__, default=None)

    def waiting(self, path: str) -> list[int]:
        """The numbers of the samples of all ranks that wait at a block since `next_block`, ascending."""
        return sorted(number for number, at in self._waiting.items() if at == path)

    def calls(self, path: str) -> dict[int, BlockCall]:
        """How the model calls a block, by the number of every sample that waits at it."""
        return {
            number: one.call
            for number, one in self._passes.items()
            if one.call is not None and one.call.path == path
        }

    def resume(self, number: int, output: Any = None) -> Any:
        """Start one sample, or go on with it with what its block has returned; returns the result of its pass
        if it has ended, which is not kept: logits of long samples are larger than most models.
        """
        one = self._passes[number]
        with self._going():
            one.resume(output)
        found, one.result = one.result, None
        return found

    def go_on(self, outputs: Mapping[int, Any]) -> None:
        """Go on with what a block has returned, by the numbers of the samples. What passes end with is
        dropped.
        """
        with self._going():
            for number, output in outputs.items():
                self._passes[number].resume(output)
                self._passes[number].result = None

    @contextmanager
    def _going(self) -> Iterator[None]:
        """While passes run between blocks."""
        modules = {path: self.model.get_submodule(path) for path in self._order}
        with part("between blocks"), stopping(modules), torch.inference_mode(not self.gradients):
            yield


def unreached(path: str) -> InputError:
    """The error for a block that no sample meets, though it needs them."""
    return InputError(
        f"no calibration sample reaches {path}; give samples that use it (with images, if it is of the vision"
        " part), or leave its part out with --parts"
    )


@torch.inference_mode()
def replay(forward: Callable[[], Any], modules: Mapping[str, nn.Module]) -> tuple[Any, list[str]]:
    """What a forward pass returns that is paused at some modules, by their paths; and the paths in the order
    in which they ran. Each module runs twice, as while it is observed.

    The result is what the pass returns without pauses, bit for bit, unless a module keeps something from one
    run to the next.
    """
    one, output, ran = PausedForward(forward), None, list[str]()
    while not one.has_ended:
        with stopping(modules):
            one.resume(output)
        if one.call is not None:
            ran.append(one.call.path)
            one.call.try_run(modules[one.call.path])
            output = one.call.run(modules[one.call.path])
    return one.result, ran


def replayed_logits(model: Any, tensors: Mapping[str, Tensor], paths: Sequence[str]) -> Tensor:
    """The logits (batch, t, vocabulary) of a model's replay at the modules at `paths`."""
    modules = {path: model.get_submodule(path) for path in paths}
    output, _ = replay(partial(model, **tensors, use_cache=False), modules)
    return output.logits
