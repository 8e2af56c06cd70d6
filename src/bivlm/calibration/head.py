"""What reaches the language head, all stacks having run: the second moment that its weight is quantized with.

    the packed blocks' last output ─► final norm ─► what reaches the head ─► its second moment

The head decides every answer, and what reaches it is far from even: with the second moment of the text tokens
it loses much less of what counts. Visual tokens do not count, since nothing reads what the model would say
after them. A head that shares the embedding's weight is packed with it, for the head: an embedding's rows are
read one by one, and their errors hardly show. Where a recipe propagates errors, the head corrects what it can
of what all blocks together have lost.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bivlm.calibration.stream import Entrance, FinishedStack
from bivlm.types import LinearStats


def head_stats(entrance: Entrance, finished: Sequence[FinishedStack], propagated: bool) -> LinearStats:
    """What reaches the language head from the text tokens of the samples, after all stacks.

    `propagated`: the full-precision model ran as well, and how far the two are apart is wanted too.
    """
    head = entrance.model.get_output_embeddings()
    assert isinstance(head, nn.Linear)
    moment, residual, tokens = *torch.zeros(2, head.in_features, head.in_features), 0

    def text_of(number: int, exact: bool) -> Tensor:
        """What reaches the head at a sample's text tokens, (t, d) float32."""
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
