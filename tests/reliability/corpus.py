"""One small packed weight for every format and kind of setting: what the mutants begin with."""

from __future__ import annotations

from functools import cache

import torch

from bivlm.formats import LowrankWeight, PackedTensor, QuantizedWeight, TrellisWeight, trellis
from made_weights import made_planes
from weights import CONTAINERS, NATIVE, Draw, factors, levels, raw, rows_of, uniform

LEVELS_ALPHABETS = range(2, 17)
UNIFORM_ALPHABETS = (*range(2, 17), 32, 64, 128, 256)
ZEROS = ("middle", "code", "free")


def trellis_weight(rows, columns, *, window=8, rotated=True, fitted=False, widths=(2, 0, 1, 4, 3), blocks=1):
    """`widths` are the bits of the runs of 16 columns, in turn."""
    draw, count = Draw(rows, columns, window), -(-columns // trellis.RUN)
    run_bits = torch.tensor([widths[i % len(widths)] for i in range(count)], dtype=torch.uint8)
    symbols = draw.codes(16, columns, sum(trellis.strips(rows)))
    symbols &= ((1 << trellis.column_bits(run_bits, columns)) - 1).to(torch.uint8)[:, None]
    table = torch.zeros(0, 0, dtype=torch.int8)
    return TrellisWeight(
        codes=trellis.pack_symbols(symbols, run_bits),
        columns=columns,
        bits=run_bits,
        row_scale=draw.normal(rows).half(),
        table=(draw.codes(255, 4, 1 << window).int() - 127).to(torch.int8) if fitted else table,
        window=window,
        rotated=rotated,
        seed=12345,
        exponent=-3,
        blocks=blocks,
    )


def _all_levels() -> dict[str, QuantizedWeight]:
    made = {}
    for alphabet in LEVELS_ALPHABETS:
        for tail in (0.0, 0.03):
            group_size, by_row = (None, 32, 7)[alphabet % 3], alphabet % 4 > 0
            made[f"levels of {alphabet}, tail {tail}"] = levels(
                9, 70, alphabet=alphabet, group_size=group_size, by_row=by_row, tail=tail
            )
            if alphabet % 2 == 0:
                made[f"levels of {alphabet}, symmetric, tail {tail}"] = levels(
                    9, 70, alphabet=alphabet, symmetric=True, by_row=by_row, tail=tail
                )
        made[f"levels of {alphabet}, tail of values"] = levels(
            9, 70, alphabet=alphabet, group_size=group_size, by_row=by_row, tail=0.03, values=True
        )
    return made


def _all_uniform() -> dict[str, QuantizedWeight]:
    return {
        f"uniform of {alphabet}, {zero}": uniform(
            9,
            61,
            alphabet=alphabet,
            group_size=(None, 16, 9)[alphabet % 3],
            bits=(8, 16, 32)[place % 3],
            zero=zero,
            column_scale=(alphabet + place) % 2 == 0,
            exponent=alphabet % 5 - 2,
        )
        for place, alphabet in enumerate(UNIFORM_ALPHABETS)
        for zero in ZEROS
    }


def _all_planes() -> dict[str, QuantizedWeight]:
    salient = (1, 4, 17, 30)
    return {
        "planes, parts": made_planes(8, 40, 16, parts=2),
        "planes, parts and means": made_planes(8, 40, 16, parts=2, means=True, bits=8),
        "planes, salient": made_planes(8, 41, 41, salient_parts=1, salient=salient, means=True, bits=32),
        "planes, salient in two parts": made_planes(
            8, 41, 9, parts=2, salient_parts=2, salient=salient, bits=8, column_scales=True, exponent=3
        ),
        "planes, salient parts alone": made_planes(6, 40, 16, salient_parts=2, salient=salient),
        "planes, column scales": made_planes(6, 40, 16, parts=2, column_scales=True, exponent=-2),
        "planes, tail": made_planes(8, 40, 40, tail=(0, 3, 77, 78, 300), means=True),
        "planes, long tail": made_planes(8, 40, 8, tail=range(0, 320, 3), bits=8, column_scales=True),
    }


def _all_trellis() -> dict[str, QuantizedWeight]:
    made: dict[str, QuantizedWeight] = {
        f"trellis {rows} x {columns}, window {window}, rotated {rotated}": trellis_weight(
            rows, columns, window=window, rotated=rotated
        )
        for rows, columns in ((3, 18), (70, 50), (64, 16), (129, 33), (1, 1), (16, 97))
        for window in (8, 12)
        for rotated in (False, True)
    }
    made["trellis, window 16"] = trellis_weight(20, 48, window=16)
    made["trellis, fitted"] = trellis_weight(33, 40, fitted=True)
    made["trellis, blocks"] = trellis_weight(70, 96, blocks=3)
    made["trellis, a slice"] = trellis_weight(70, 96, window=16, blocks=6).slice_columns(32, 80)
    made["trellis, no bits"] = trellis_weight(20, 48, widths=(0,))
    return made


def _all_containers() -> dict[str, QuantizedWeight]:
    return {
        "raw": raw(5, 9),
        "raw, bfloat16": raw(4, 7, torch.bfloat16),
        "lowrank, trellis": LowrankWeight(trellis_weight(20, 17), trellis_weight(17, 48, rotated=False)),
        "lowrank, raw": LowrankWeight(raw(5, 3), raw(3, 9, torch.bfloat16)),
        "lowrank, signs": LowrankWeight(factors(5, 9, 4), made_planes(9, 32, 32, parts=2)),
        "rows, one class": rows_of(5, lambda rows: uniform(rows, 19)),
        "rows, many classes": rows_of(
            30,
            lambda rows: uniform(rows, 32, alphabet=3, zero="code"),
            lambda rows: levels(rows, 32, alphabet=6, values=True, tail=0.1),
            lambda rows: raw(rows, 32, torch.bfloat16),
            lambda rows: factors(rows, 32, 5),
            None,
            lambda rows: trellis_weight(rows, 32, rotated=False),
            lambda rows: made_planes(rows, 32, 32, parts=2, means=True, bits=8),
        ),
    }


@cache
def corpus() -> dict[str, PackedTensor]:
    """The packed weights by their names."""
    small = {name: weight for name, weight in (NATIVE | CONTAINERS).items() if weight.shape[1] < 1000}
    made = small | _all_levels() | _all_uniform() | _all_planes() | _all_trellis() | _all_containers()
    return {name: weight.encode() for name, weight in made.items()}
