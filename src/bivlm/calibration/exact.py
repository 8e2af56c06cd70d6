"""The full-precision model on a few samples, block by block, forward and backward: the weights of one block
are in memory at a time.

    forward     the input of every block is kept ─► the logits that predict the samples' targets
    backward    from the last block to the first: a block runs again on its kept input, with gradients; what
                is between two stacks (mergers, poolers) passes the gradients on to the earlier stack

(Recomputation instead of kept activations: Chen, Xu, Zhang, Guestrin, arXiv 1604.06174.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from bivlm.calibration.capture import BlockCall, Captured, capture, replay
from bivlm.calibration.inputs import CalibrationInput
from bivlm.checkpoint.source import SourceModel

KEPT_BYTES = 1 << 29  # of kept inputs, about, at a time


@dataclass(frozen=True)
class ExactBlock:
    """A block as the full-precision model runs it: its path, and whether the model reads its output later."""

    path: str
    is_output: bool


Stacks = Sequence[Sequence[ExactBlock]]
Watch = Callable[[ExactBlock, nn.Module, int], AbstractContextManager[None]]  # block, module, sample


@dataclass
class _Stack:
    """A stack during one pass: for every sample its entry, the inputs of its blocks, and the outputs that the
    model reads, by block index.
    """

    blocks: Sequence[ExactBlock]
    modules: list[nn.Module]
    entries: list[Captured] = field(default_factory=list)
    inputs: list[list[Tensor]] = field(default_factory=list)  # [block][sample]
    outputs: list[dict[int, Tensor]] = field(default_factory=list)  # [sample]
    gradients: list[dict[int, Tensor]] = field(default_factory=list)  # [sample]: of the outputs


class ExactPass:
    """One pass over some samples. `forward` first; then `logits` of every sample, `backward` if gradients are
    wanted.
    """

    def __init__(self, source: SourceModel, stacks: Stacks, samples: Sequence[CalibrationInput]) -> None:
        self.source, self.samples = source, samples
        self.paths = [block.path for stack in stacks for block in stack]
        self.stacks = [
            _Stack(stack, [source.model.get_submodule(block.path) for block in stack]) for stack in stacks
        ]

    @torch.no_grad()
    def forward(self, *, keep: bool = True) -> None:
        """Run all blocks on all samples, and keep the inputs of the blocks, which `backward` needs."""
        for number, stack in enumerate(self.stacks):
            with self.source.surroundings(self.paths):
                stack.entries = [self._enter(number, sample) for sample in range(len(self.samples))]
            hidden = [entry.hidden for entry in stack.entries]
            stack.outputs = [{} for _ in self.samples]
            stack.gradients = [{} for _ in self.samples]
            for index, block in enumerate(stack.blocks):
                if keep:
                    stack.inputs.append(hidden)
                with self.source.present(block.path) as module:
                    calls = [entry.calls[index] for entry in stack.entries]
                    hidden = [call.run(module, x) for call, x in zip(calls, hidden, strict=True)]
                if block.is_output:
                    for outputs, states in zip(stack.outputs, hidden, strict=True):
                        outputs[index] = states

    def each_logits(self) -> Iterator[tuple[int, Tensor]]:
        """The number of every sample with the logits (targets, vocabulary) that predict its targets; in
        torch's graph, where gradients are enabled.
        """
        with self.source.surroundings(self.paths, head=True):
            for number in range(len(self.samples)):
                yield number, self._logits(number)

    def backward(self, loss: Callable[[int, Tensor], Tensor], watch: Watch) -> None:
        """Gradients of loss(sample, logits) through all blocks. While a block runs on a sample, within the
        context `watch` of both, it may hook whatever it wants to see.
        """
        with torch.enable_grad():
            for number, logits in self.each_logits():
                loss(number, logits).backward()
                self._take_gradients(number, len(self.stacks))
            for number in reversed(range(len(self.stacks))):
                self._stack_backward(number, watch)

    def _logits(self, number: int) -> Tensor:
        keep, rows = self.samples[number].predicting()
        finished = self._played(number, len(self.stacks))
        return replay(self.source.model, self.samples[number].tensors, finished, keep)[rows]

    def _played(self, number: int, count: int) -> list[tuple[Sequence[nn.Module], Mapping[int, Tensor]]]:
        """The first `count` stacks as finished ones; with gradients, their outputs are leaves of the
        graph.
        """
        if torch.is_grad_enabled():
            for stack in self.stacks[:count]:
                stack.outputs[number] = {
                    index: output.detach().requires_grad_() for index, output in stack.outputs[number].items()
                }
        return [(stack.modules, stack.outputs[number]) for stack in self.stacks[:count]]

    def _enter(self, number: int, sample: int) -> Captured:
        stack = self.stacks[number]
        return capture(
            self.source.model, self.samples[sample].tensors, stack.modules, self._played(sample, number)
        )

    def _take_gradients(self, number: int, count: int) -> None:
        """Move the gradients of the first `count` stacks' outputs into their sums, for one sample."""
        for stack in self.stacks[:count]:
            for index, output in stack.outputs[number].items():
                if output.grad is not None:
                    _add(stack.gradients[number], index, output.grad)
                    output.grad = None

    def _stack_backward(self, number: int, watch: Watch) -> None:
        stack = self.stacks[number]
        with self.source.surroundings(self.paths):
            entries = [self._enter(number, sample) for sample in range(len(self.samples))]
        split = [_Leaves(entry) for entry in entries]
        gradients: list[Tensor | None] = [None] * len(self.samples)  # of each block's output
        for index in reversed(range(len(stack.blocks))):
            block, inputs = stack.blocks[index], stack.inputs.pop()
            with self.source.present(block.path) as module:
                for sample, states in enumerate(inputs):
                    above = _sum(gradients[sample], stack.gradients[sample].pop(index, None))
                    hidden = states.detach().requires_grad_()
                    with watch(block, module, sample):
                        output = split[sample].calls[index].run(module, hidden)
                        # an output that nothing reads has gradients of zero
                        output.backward(torch.zeros_like(output) if above is None else above)
                    gradients[sample] = hidden.grad
        for sample, leaves in enumerate(split):
            leaves.pass_on(gradients[sample])
            self._take_gradients(sample, number)


class _Leaves:
    """The calls of a captured sample, whose tensors with a graph are replaced by leaves: a block's backward
    pass ends at them. `pass_on` then continues below them.
    """

    def __init__(self, entry: Captured) -> None:
        self.hidden = entry.hidden
        self._leaves: dict[int, tuple[Tensor, Tensor]] = {}
        self.calls = [self._cut(call) for call in entry.calls]

    def _cut(self, call: BlockCall) -> BlockCall:
        return replace(
            call, args=tree_map(self._leaf, call.args), kwargs=tree_map(self._leaf, dict(call.kwargs))
        )

    def _leaf(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.requires_grad:
            return value
        return self._leaves.setdefault(id(value), (value, value.detach().requires_grad_()))[1]

    def pass_on(self, gradient: Tensor | None) -> None:
        """Continue the backward pass below the stack's entry; `gradient` is that of its hidden states."""
        pairs = [(value, leaf.grad) for value, leaf in self._leaves.values() if leaf.grad is not None]
        if gradient is not None and self.hidden.requires_grad:
            pairs.append((self.hidden, gradient))
        if pairs:
            torch.autograd.backward([value for value, _ in pairs], [grad for _, grad in pairs])


def chunks(
    source: SourceModel, stacks: Stacks, samples: Sequence[CalibrationInput]
) -> list[list[CalibrationInput]]:
    """The samples in runs whose kept inputs take about KEPT_BYTES."""
    hidden = max(source.config.get_text_config().hidden_size, 1) * source.dtype.itemsize
    blocks = sum(len(stack) for stack in stacks)
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


def _add(sums: dict[int, Tensor], index: int, gradient: Tensor) -> None:
    sums[index] = sums[index] + gradient if index in sums else gradient


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return one if other is None else other
    return one + other
