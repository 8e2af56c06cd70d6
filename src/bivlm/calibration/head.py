"""The second moment of the language head's inputs, after all blocks have run. The head's weight is quantized
with it.

    the packed blocks' last output ─► final norm ─► the head's input ─► its second moment

The head decides every answer, and its inputs are very uneven, so the second moment of the text tokens lowers
the error of the answers much. Visual tokens do not count, since nothing reads the model's prediction after
them. A head that shares the embedding's weight is packed together with it, with the settings for a head: an
embedding's rows are read one by one, and their errors matter little. If a recipe propagates errors, the head
corrects part of the accumulated error of all blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bivlm.calibration.inputs import CalibrationInput
from bivlm.calibration.paused import BlockCall
from bivlm.crew import ALONE, Crew
from bivlm.types import LinearStats


def head_stats(
    width: int,
    samples: Sequence[CalibrationInput],
    packed: Mapping[int, BlockCall],
    exact: Mapping[int, BlockCall] | None,
    numbers: Sequence[int],
    crew: Crew = ALONE,
) -> LinearStats | None:
    """Statistics of the inputs, `width` wide, of the language head at the text tokens of some samples, whose
    `numbers` ascend. `packed` has the head's calls in this process, by the samples' numbers; `exact` those in
    the full-precision model, if it ran as well, and then the residual between both is accumulated too. The
    first rank of a `crew` has them, the others None.
    """
    moment, residual = torch.zeros(2, width, width, dtype=torch.float32, device="cpu")
    tokens = 0

    def text_of(number: int, call: BlockCall) -> Tensor:
        """The head's input at a sample's text tokens, (t, d)."""
        return call.hidden[0, ~samples[number].visual]

    for together in crew.neighbours(numbers):
        own = [
            text_of(number, calls[number])
            for number in filter(crew.owns, together)
            for calls in (packed, exact)
            if calls is not None
        ]
        for text, *target in crew.each(own, [crew.owner(number) for number in together]):
            if not crew.is_first:
                continue
            text = text.float()
            moment.addmm_(text.T, text)
            tokens += len(text)
            if target:
                residual.addmm_((target[0].float() - text).T, text)
    if not crew.is_first:
        return None
    return LinearStats(
        {"text": moment / tokens}, {"text": tokens}, None if exact is None else {"text": residual / tokens}
    )
