"""Samples run, each in the process that it belongs to, and what the linears receive is added to statistics in
the order of the samples, as if one process ran them all.

    a round of neighbouring samples, one for each rank:
        every rank runs its sample and keeps what the linears receive
        ─► sample by sample it goes to all ranks ─► each adds it to its pieces of the sums (shares.py)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from torch import Tensor

from bivlm.calibration.stats import Inputs, Seen, StatsCollector
from bivlm.crew import ALONE, Crew
from bivlm.profile import part

FORWARD = "forward passes"
Run = Callable[[int], object]


def observe(
    collectors: Sequence[StatsCollector],
    numbers: Sequence[int],
    visual: Callable[[int], Tensor | None],
    run: Run,
    exact: Run | None = None,
    crew: Crew = ALONE,
) -> None:
    """Run the samples with these `numbers`, of all ranks, ascending, and let all `collectors`, which watch
    the same linears, see their inputs.

    `run` runs one sample of this rank in the packed model, `exact` in the full-precision model; `visual` (t,)
    marks its visual tokens, None means all.
    """
    first = collectors[0]

    def received(number: int) -> Inputs | None:
        if exact is None:
            return None
        with first.inputs() as inputs, part(FORWARD):
            exact(number)
        return inputs

    if crew.size == 1:
        for number in numbers:
            beside = received(number)
            with ExitStack() as watched, part(FORWARD):
                for collector in collectors:
                    watched.enter_context(collector.watching(visual(number), beside, number))
                run(number)
        return
    for together in crew.neighbours(numbers):
        own: Seen | None = None
        for number in filter(crew.owns, together):
            beside = received(number)
            with first.recording(beside) as seen, part(FORWARD):
                run(number)
            own = seen
        order = [crew.owner(number) for number in together]
        for number, found in zip(together, crew.each(own, order), strict=True):
            assert found is not None
            for collector in collectors:
                collector.add(found, visual(number), number)
