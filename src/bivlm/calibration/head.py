"""The second moment of the language head's inputs, after all stacks have run. The head's weight is quantized
with it.

    the packed blocks' last output ─► final norm ─► the head's input ─► its second moment

The head decides every answer, and its inputs are very uneven, so the second moment of the text tokens lowers
the error of the answers much. Visual tokens do not count, since nothing reads the model's prediction after
them. A head that shares the embedding's weight is packed together with it, with the settings for a head: an
embedding's rows are read one by one, and their errors matter little. If a recipe propagates errors, the head
corrects part of the accumulated error of all blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bivlm.calibration.stream import Entrance, FinishedStack
from bivlm.families.linears import is_linear
from bivlm.types import LinearStats


def head_stats(entrance: Entrance, finished: Sequence[FinishedStack], propagated: bool) -> LinearStats:
    """Statistics of the language head's inputs at the text tokens of the samples, after all stacks.

    `propagated`: the full-precision model ran as well, and the residual between both is accumulated too.
    """
    head = entrance.model.get_output_embeddings()
    assert is_linear(head)
    moment, residual, tokens = (
        *torch.zeros(2, head.in_features, head.in_features, dtype=torch.float32, device="cpu"),
        0,
    )

    def text_of(number: int, exact: bool) -> Tensor:
        """The head's input at a sample's text tokens, (t, d) float32."""
        hidden = entrance.capture(number, [head], finished, exact=exact).hidden
        return hidden[0, ~entrance.samples[number].visual].float()

    for number in range(len(entrance.samples)):
        text = text_of(number, exact=False)
        moment.addmm_(text.T, text)
        tokens += len(text)
        if propagated:
            residual.addmm_((text_of(number, exact=True) - text).T, text)
    return LinearStats(
        {"text": moment / tokens}, {"text": tokens}, {"text": residual / tokens} if propagated else None
    )
