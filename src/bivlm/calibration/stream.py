"""Hidden states on their way through the blocks of a stack, sample by sample, and the recorded outputs.

enter ─► Stream ─ advance, block by block ─► FinishedStack ─► replayed for the next stack
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import transformers
from torch import Tensor, nn

from bivlm.calibration.capture import BlockCall, Captured, capture
from bivlm.calibration.inputs import CalibrationInput


class Stream:
    """The calls of every block of a stack, and the hidden states (…, t, d) that enter the next block."""

    def __init__(self, entries: Sequence[Captured]) -> None:
        self._entries = entries
        self.hidden: list[Tensor] = [entry.hidden for entry in entries]

    def calls(self, index: int) -> list[BlockCall]:
        """How the model calls block `index`, for every sample."""
        return [entry.calls[index] for entry in self._entries]

    @torch.inference_mode()
    def advance(self, index: int, block: nn.Module) -> None:
        """Run block `index`, which is `block` now, on all samples."""
        pairs = zip(self.calls(index), self.hidden, strict=True)
        self.hidden = [call.run(block, states) for call, states in pairs]


class FinishedStack:
    """A stack whose blocks have run: for every sample, the outputs that the model reads later, by block
    index.

    `packed` are those of the packed blocks, `exact` those of the full-precision blocks; both are the same if
    only one ran.
    """

    def __init__(self, blocks: Sequence[nn.Module], samples: int) -> None:
        self.blocks = blocks
        self.packed: list[dict[int, Tensor]] = [{} for _ in range(samples)]
        self.exact: list[dict[int, Tensor]] = [{} for _ in range(samples)]

    def record(self, index: int, packed: Stream, exact: Stream | None) -> None:
        """Keep the outputs of block `index`."""
        full = packed if exact is None else exact
        for number, (mine, whole) in enumerate(zip(packed.hidden, full.hidden, strict=True)):
            self.packed[number][index] = mine
            self.exact[number][index] = whole


@dataclass(frozen=True)
class Entrance:
    """A model whose stacks are entered one after the other, with the samples that run through them."""

    model: transformers.PreTrainedModel
    samples: Sequence[CalibrationInput]

    def capture(
        self,
        number: int,
        blocks: Sequence[nn.Module],
        finished: Sequence[FinishedStack],
        *,
        exact: bool = False,
    ) -> Captured:
        """The inputs of `blocks` for one sample, while the finished stacks replay their outputs."""
        played = [(stack.blocks, (stack.exact if exact else stack.packed)[number]) for stack in finished]
        with torch.inference_mode():
            return capture(self.model, self.samples[number].tensors, blocks, played)

    def enter(
        self, blocks: Sequence[nn.Module], finished: Sequence[FinishedStack], *, exact: bool = False
    ) -> Stream:
        """The stream at the entrance of a stack. `exact`: the stream of the full-precision model."""
        return Stream(
            [self.capture(number, blocks, finished, exact=exact) for number in range(len(self.samples))]
        )
