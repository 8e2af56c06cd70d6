"""The full-precision model on a few samples, block by block, forward and backward: the weights of one block
are in memory at a time.

    forward     the call of every block is kept ─► the logits that predict the samples' targets
    backward    from the block that ran last to the first: a block runs again on its kept arguments, with
                gradients; what the model does between its blocks passes the gradients on to earlier blocks

(Recomputation instead of kept activations: Chen, Xu, Zhang, Guestrin, arXiv 1604.06174.)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bivlm.calibration.inputs import CalibrationInput
from bivlm.calibration.paused import BlockCall
from bivlm.calibration.streams import Streams
from bivlm.checkpoint.source import SourceModel
from bivlm.families.final_states import states_of
from bivlm.families.last_logits import last_logits
from bivlm.pooling import Pooling, pool
from bivlm.trees import Place, change_in_place, mapped, same, tensors

KEPT_BYTES = 1 << 29  # of kept inputs, about, at a time

Watch = Callable[[str, nn.Module, int], AbstractContextManager[None]]  # path of a block, module, sample


@dataclass(frozen=True)
class _Visit:
    """A block that has run on a sample: its call as the model made it, with the graph between the blocks; and
    what came of it, as leaves of that graph: tensors that it returned, and that it put into its arguments.
    """

    call: BlockCall
    returned: dict[Place, Tensor]
    put: dict[Place, Tensor]


class ExactPass:
    """One pass of the full-precision model over some samples. `paths` are its blocks, in their order. With
    `pooling` its results are the vectors (1, d) of the samples, and not logits.
    """

    def __init__(
        self,
        source: SourceModel,
        paths: Sequence[str],
        samples: Sequence[CalibrationInput],
        pooling: Pooling | None = None,
    ) -> None:
        self.source, self.paths, self.samples = source, paths, samples
        self.pooling: Pooling | None = pooling
        self._visits: list[tuple[str, dict[int, _Visit]]] = []

    def predict(self, take: Callable[[int, Tensor], None]) -> None:
        """Run all blocks on all samples. `take` receives the number of every sample with the logits (targets,
        vocabulary) that predict its targets.
        """
        with torch.no_grad():
            self._forward(take, gradients=False)

    def differentiate(
        self, loss: Callable[[int, Tensor], Tensor], watch: Watch, until: Collection[str] | None = None
    ) -> None:
        """Gradients of loss(sample, logits) through all blocks, or back to the first of those in `until`.
        While a block runs on a sample, for the first time in its pass, within the context `watch`, it may be
        hooked for whatever there is to see.
        """
        wanted = set(self.paths if until is None else until)
        with torch.enable_grad():
            self._forward(lambda number, logits: loss(number, logits).backward(), gradients=True)
            while any(path in wanted for path, _ in self._visits):
                path, visits = self._visits.pop()
                before = {number for other, earlier in self._visits if other == path for number in earlier}
                with self.source.present(path) as module:
                    for number, visit in visits.items():
                        with nullcontext() if number in before else watch(path, module, number):
                            _backward(module, visit)
        self._visits.clear()

    def _forward(self, take: Callable[[int, Tensor], None], *, gradients: bool) -> None:
        embedding = self.pooling is not None
        predicting = [] if embedding else [sample.predicting() for sample in self.samples]

        def resume(number: int, output: Any) -> None:
            result = streams.resume(number, output)
            if result is None:
                return
            if self.pooling is not None:
                mask = self.samples[number].tensors["attention_mask"]
                take(number, pool(states_of(self.source.model, result, mask), mask, self.pooling))
            else:
                keep, rows = predicting[number]
                take(number, last_logits(result, keep)[0, rows])

        how: dict[str, Any] = {"gradients": gradients, "headless": embedding}
        how["keep"] = None if embedding else [count for count, _ in predicting]
        with (
            self.source.surroundings(self.paths, head=not embedding),
            Streams(self.source.model, self.samples, self.paths, **how) as streams,
        ):
            for number in range(len(self.samples)):
                resume(number, None)
            while (path := streams.next_block()) is not None:
                calls, visits = streams.calls(path), dict[int, _Visit]()
                with self.source.present(path) as module:
                    for number, call in calls.items():
                        output, visit = _visit(module, call) if gradients else (call.run(module), None)
                        if visit is not None:
                            visits[number] = visit
                        resume(number, output)
                self._visits.append((path, visits))


def _visit(module: nn.Module, call: BlockCall) -> tuple[Any, _Visit]:
    """Run a block without gradients. Returns its output, whose tensors are leaves of the graph from here on,
    and the visit.
    """
    before = call.mapped(same)
    known = {id(value) for _, value in tensors((call.args, dict(call.kwargs)))}
    with torch.no_grad():
        output = call.run(module)
    arguments = (call.args, dict(call.kwargs))

    def leaf(value: Tensor) -> Tensor:
        new = id(value) not in known and value.is_floating_point()
        return value.detach().requires_grad_() if new else value

    change_in_place(arguments, leaf)
    put = {place: value for place, value in tensors(arguments) if id(value) not in known}
    output = mapped(output, leaf)
    returned = {place: value for place, value in tensors(output) if id(value) not in known}
    return output, _Visit(before, returned, put)


def _backward(module: nn.Module, visit: _Visit) -> None:
    """Run the block again, with the gradients of what came of it, and pass them on to what it was called
    with.
    """
    leaves: dict[int, tuple[Tensor, Tensor]] = {}
    hidden = id(visit.call.hidden)

    def cut(value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value
        if value.requires_grad or id(value) == hidden:  # without a leaf a first block has no graph
            return leaves.setdefault(id(value), (value, value.detach().requires_grad_()))[1]
        return value

    call = visit.call.mapped(cut)
    returned = dict(tensors(call.run(module)))
    filled = dict(tensors((call.args, dict(call.kwargs))))
    pairs = [(returned[place], leaf) for place, leaf in visit.returned.items()]
    pairs += [(filled[place], leaf) for place, leaf in visit.put.items()]
    # an output that nothing reads has gradients of zero
    found = [
        (output, torch.zeros_like(output) if leaf.grad is None else leaf.grad)
        for output, leaf in pairs
        if output.requires_grad
    ]
    if found:
        torch.autograd.backward([output for output, _ in found], [gradient for _, gradient in found])
    passed = [
        (value, own.grad) for value, own in leaves.values() if own.grad is not None and value.requires_grad
    ]
    if passed:  # several blocks may hang on the same part of the graph
        torch.autograd.backward(
            [value for value, _ in passed], [gradient for _, gradient in passed], retain_graph=True
        )


def chunks(
    source: SourceModel, blocks: int, samples: Sequence[CalibrationInput]
) -> list[list[CalibrationInput]]:
    """The samples in runs whose kept inputs of that many blocks take about KEPT_BYTES."""
    hidden = max(source.config.get_text_config().hidden_size, 1) * source.dtype.itemsize
    parts: list[list[CalibrationInput]] = [[]]
    size = 0
    for sample in samples:
        own = blocks * hidden * sample.visual.numel()
        if parts[-1] and size + own > KEPT_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(sample)
        size += own
    return parts
