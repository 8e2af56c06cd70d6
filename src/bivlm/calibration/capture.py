"""The inputs of the blocks of a stack, found by running the model around them: hooks only, no tracing.

While a stack is captured, each of its blocks only records its arguments and returns its input unchanged. The
blocks need no weights for this: masks, rotary embeddings and window lengths depend on the model's inputs, not
on the blocks' results. A finished stack replays its recorded outputs, so the model around it (poolers,
mergers, the next stack) runs on the outputs of the packed blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

HIDDEN = "hidden_states"


@dataclass(frozen=True)
class BlockCall:
    """How the model calls one block for one sample, without the hidden states themselves."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    by_keyword: bool  # whether the hidden states are passed by keyword

    def run(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """The block's output for these hidden states."""
        output = (
            block(*self.args, **{HIDDEN: hidden}, **self.kwargs)
            if self.by_keyword
            else block(hidden, *self.args, **self.kwargs)
        )
        return output[0] if isinstance(output, tuple) else output


@dataclass(frozen=True)
class Captured:
    """One sample at the entry of a stack: the input of its first block, and the call of every block."""

    hidden: Tensor
    calls: tuple[BlockCall, ...]


class _StackReached(Exception):
    """Ends the forward pass after the last block of the stack that is captured."""


@contextmanager
def _patched(block: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Replace a block's `forward` for a while; its attributes and hooks stay."""
    block.forward = forward
    try:
        yield
    finally:
        del block.forward


def _split(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, BlockCall]:
    if args:
        return args[0], BlockCall(args[1:], kwargs, by_keyword=False)
    rest = {key: value for key, value in kwargs.items() if key != HIDDEN}
    return kwargs[HIDDEN], BlockCall((), rest, by_keyword=True)


Finished = Sequence[tuple[Sequence[nn.Module], Mapping[int, Tensor]]]


def capture(
    model: nn.Module, inputs: Mapping[str, Tensor], blocks: Sequence[nn.Module], finished: Finished = ()
) -> Captured:
    """Run `model` on one sample up to the last of `blocks` and record their inputs.

    `finished` holds the earlier stacks: their blocks, and, by block index, the recorded outputs that the
    model reads. Raises RuntimeError if the model never reaches the blocks, or changes the hidden states
    between two of them.
    """
    calls: list[BlockCall] = []
    first: list[Tensor] = []

    def record(index: int) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Tensor:
            hidden, call = _split(args, kwargs)
            if index != len(calls) or (first and hidden is not first[0]):
                raise RuntimeError(
                    f"block {index} of {type(blocks[0]).__name__} does not follow on the block before it; its"
                    " family's stack is declared wrongly"
                )
            if not first:
                first.append(hidden)
            calls.append(call)
            if index == len(blocks) - 1:
                raise _StackReached
            return hidden

        return forward

    with _playing(finished) as patches:
        for index, block in enumerate(blocks):
            patches.enter_context(_patched(block, record(index)))
        try:
            model(**inputs, use_cache=False)
        except _StackReached:
            return Captured(first[0], tuple(calls))
    raise RuntimeError(
        f"the model never reached {type(blocks[0]).__name__}: no image in the sample, or its family's stack"
        " is declared wrongly"
    )


def replay(model: nn.Module, inputs: Mapping[str, Tensor], finished: Finished, keep: int) -> Tensor:
    """The logits (keep, vocabulary) of one sample's last `keep` positions, with all stacks finished."""
    with _playing(finished):
        return model(**inputs, use_cache=False, logits_to_keep=keep).logits[0]


@contextmanager
def _playing(finished: Finished) -> Iterator[ExitStack]:
    """Within this context the blocks of finished stacks return their recorded outputs."""

    def play(index: int, outputs: Mapping[int, Tensor]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Tensor:
            return outputs[index] if index in outputs else _split(args, kwargs)[0]

        return forward

    with ExitStack() as patches:
        for stack, outputs in finished:
            for index, block in enumerate(stack):
                patches.enter_context(_patched(block, play(index, outputs)))
        yield patches
