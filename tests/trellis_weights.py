"""Random weights in `trellis`."""

from __future__ import annotations

import torch

from bivlm.formats.trellis import RUN, TrellisWeight, pack_symbols, strips
from weights import Draw


def trellis_weight(rows, columns, bits=(2,), window=8, rotated=True, fitted=False, blocks=1):
    """Random symbols; the runs have `bits` in turn."""
    draw = Draw(rows, columns, window)
    run_bits = torch.tensor([bits[run % len(bits)] for run in range(-(-columns // RUN))], dtype=torch.uint8)
    symbols = draw.codes(16, columns, sum(strips(rows)))
    symbols &= ((1 << run_bits.repeat_interleave(RUN)[:columns]) - 1)[:, None]
    table = (
        draw.codes(256, 4, 1 << window).view(torch.int8) if fitted else torch.zeros(0, 0, dtype=torch.int8)
    )
    scale = (draw.uniform(rows) + 0.5).half()
    return TrellisWeight(
        pack_symbols(symbols, run_bits),
        columns,
        run_bits,
        scale,
        table,
        window,
        rotated,
        seed=5,
        exponent=-3,
        blocks=blocks,
    )
