"""Random weights of every format, of any shape and with any of the format's settings."""

from __future__ import annotations

import torch

from bivlm.formats import (
    FactorsWeight,
    LevelsWeight,
    LowrankWeight,
    PlanesWeight,
    RawWeight,
    RowsWeight,
    UniformWeight,
)
from bivlm.formats.encoding.numbers import Numbers
from made_weights import made_planes

NOTHING = torch.zeros(0, dtype=torch.float16)


class Draw:
    """Numbers from one seeded generator."""

    def __init__(self, *seed: int) -> None:
        self.generator = torch.Generator().manual_seed(hash(seed) % 2**31)

    def normal(self, *shape):
        return torch.randn(*shape, generator=self.generator)

    def uniform(self, *shape):
        return torch.rand(*shape, generator=self.generator)

    def codes(self, alphabet, *shape):
        return torch.randint(0, alphabet, shape, generator=self.generator, dtype=torch.uint8)


def levels(
    rows, columns, *, alphabet=4, symmetric=False, group_size=None, by_row=True, tail=0.0, values=False
):
    """`tail` is the share of the weights that lie in the tail, with `values` of their own; by_row gives every
    row its own tables.
    """
    draw, group_size = Draw(rows, columns, alphabet), group_size or columns
    count = round(tail * rows * columns)
    positions = torch.randperm(rows * columns, generator=draw.generator)[:count].sort().values
    codes = draw.codes(alphabet, rows, columns)
    codes.view(-1)[positions] = 0
    table = draw.normal(
        rows if by_row else 1, -(-columns // group_size), alphabet // 2 if symmetric else alphabet
    )
    return LevelsWeight(
        codes=codes,
        levels=(table.abs() if symmetric else table).sort(-1).values.half(),
        scale=torch.tensor(0.03),
        alphabet=alphabet,
        symmetric=symmetric,
        group_size=group_size,
        tail_positions=positions,
        tail_codes=draw.codes(4, 0 if values else count),
        tail_levels=(
            torch.tensor([-5.0, -3.0, 3.0, 5.0]).half() if count and not values else torch.zeros(4).half()
        ),
        tail_scale=(draw.uniform(rows) + 0.5).half() if count and not values else NOTHING,
        tail_values=(5 * draw.normal(count)).half() if values else NOTHING,
    )


def uniform(
    rows, columns, *, alphabet=4, group_size=None, bits=16, zero="middle", column_scale=False, exponent=0
):
    draw, group_size = Draw(rows, columns, alphabet, bits), group_size or columns
    groups = -(-columns // group_size)
    points = {
        "middle": NOTHING,
        "code": draw.codes(alphabet, rows, groups),
        "free": (draw.normal(rows, groups) + (alphabet - 1) / 2).half(),
    }
    return UniformWeight(
        codes=draw.codes(alphabet, rows, columns),
        alphabet=alphabet,
        scales=Numbers.of(draw.uniform(rows, groups, 1) + 0.1, bits),
        zero_points=points[zero],
        column_scale=(draw.uniform(columns) + 0.5).half() if column_scale else NOTHING,
        group_size=group_size,
        exponent=exponent,
    )


def planes(rows, columns, *, group_size=None, bits=16, signed=False, exponent=0, tail=0, parts=1):
    """Signs and scales, `tail` entries, a second part."""
    draw, group_size = Draw(rows, columns, bits), group_size or columns
    positions = torch.arange(0, rows * columns, 3)[:tail]
    signs = draw.normal(rows, columns) > 0
    signs.view(-1)[positions] = False
    scales = draw.normal(rows, -(-columns // group_size), parts)
    return PlanesWeight(
        signs=signs,
        parts=parts,
        salient_parts=0,
        partition=(draw.normal(rows, columns) > 0) & (parts == 2),
        salient=torch.zeros(columns, dtype=torch.bool),
        second_signs=torch.zeros(rows, columns, dtype=torch.bool),
        scales=Numbers.of(scales if signed else scales.abs(), bits, signed=signed),
        means=None,
        column_scales=torch.zeros(0, 0).half(),
        tail_positions=positions,
        tail_codes=draw.codes(4, len(positions)),
        tail_scale=draw.normal(rows if tail else 0).half(),
        tail_zero=draw.normal(rows if tail else 0).half(),
        group_size=group_size,
        exponent=exponent,
    )


def factors(rows, columns, rank, *, exponent=0):
    draw = Draw(rows, columns, rank)
    return FactorsWeight(
        left_signs=draw.normal(rows, rank) > 0,
        right_signs=draw.normal(rank, columns) > 0,
        row_scale=draw.normal(rows).half(),
        middle_scale=draw.normal(rank).half(),
        column_scale=draw.normal(columns).half(),
        exponent=exponent,
    )


def raw(rows, columns, dtype=torch.float16):
    return RawWeight(Draw(rows, columns).normal(rows, columns).to(dtype))


def rows_of(rows, *kinds, seed=0):
    """Rows in classes at random, each of them at least once; a kind makes the weight of so many rows, or is
    None.
    """
    draw = Draw(rows, len(kinds), seed)
    classes = torch.cat([torch.arange(len(kinds)), draw.codes(len(kinds), rows - len(kinds))]).byte()
    classes = classes[torch.randperm(rows, generator=draw.generator)]
    parts = (
        None if kind is None else kind(int((classes == place).sum())) for place, kind in enumerate(kinds)
    )
    return RowsWeight(classes, tuple(parts))


# What the native library must know: every width, every kind of number, groups that divide nothing, rows that
# end inside a byte.
NATIVE = {
    "levels 1 bit": levels(7, 130, alphabet=2, symmetric=True),
    "levels 1 bit, tail": levels(9, 200, alphabet=2, symmetric=True, tail=0.03),
    "levels of 3, groups": levels(6, 100, alphabet=3, group_size=33),
    "levels of 3, tail": levels(6, 100, alphabet=3, tail=0.05),
    "levels 2 bits": levels(12, 256, alphabet=4, symmetric=True),
    "levels 2 bits, one table": levels(12, 131, by_row=False),
    "levels 2 bits, groups of 128, tail": levels(17, 384, group_size=128, tail=0.01),
    "levels of 6, tail": levels(8, 150, alphabet=6, symmetric=True, group_size=32, tail=0.02),
    "levels of 7": levels(5, 77, alphabet=7),
    "levels 3 bits, groups": levels(11, 197, alphabet=8, symmetric=True, group_size=64, tail=0.01),
    "levels of 12": levels(4, 64, alphabet=12, symmetric=True),
    "levels of 13, groups of 1": levels(3, 9, alphabet=13, group_size=1),
    "levels 4 bits, tail": levels(10, 320, alphabet=16, group_size=128, tail=0.01),
    "levels, wide tail": levels(2, 17000, tail=0.001),
    "levels 1 bit, tail of values": levels(9, 200, alphabet=2, tail=0.03, values=True),
    "levels of 3, tail of values": levels(6, 100, alphabet=3, tail=0.05, values=True),
    "levels 2 bits, tail of values": levels(9, 300, tail=0.01, values=True),
    "levels 3 bits, groups, tail of values": levels(
        11, 197, alphabet=8, group_size=64, tail=0.02, values=True
    ),
    "levels, wide tail of values": levels(2, 17000, tail=0.001, values=True),
    "levels 1 x 1": levels(1, 1, alphabet=2),
    "uniform 1 bit": uniform(5, 70, alphabet=2),
    "uniform of 3": uniform(6, 90, alphabet=3, bits=32, group_size=40),
    "uniform 2 bits, groups of 128": uniform(12, 384, group_size=128, zero="code"),
    "uniform 2 bits, column scale": uniform(
        9, 111, group_size=16, bits=8, zero="free", column_scale=True, exponent=-7
    ),
    "uniform of 5": uniform(6, 65, alphabet=5, zero="code"),
    "uniform 3 bits": uniform(8, 192, alphabet=8, group_size=64, zero="code", column_scale=True),
    "uniform 4 bits": uniform(8, 259, alphabet=16, group_size=128, zero="free"),
    "uniform 5 bits": uniform(4, 61, alphabet=32, bits=8, exponent=3),
    "uniform 6 bits": uniform(4, 100, alphabet=64, group_size=7, zero="code"),
    "uniform 7 bits": uniform(4, 130, alphabet=128),
    "uniform 8 bits": uniform(4, 140, alphabet=256, bits=32, zero="code", group_size=64),
    "uniform 1 x 1": uniform(1, 1, alphabet=256, bits=32, zero="code"),
    "planes, blocks of 128": planes(13, 384, group_size=128),
    "planes, blocks of 8": planes(5, 72, group_size=8),
    "planes, ragged": planes(7, 133, group_size=50),
    "planes, signed bytes": planes(6, 96, group_size=32, bits=8, signed=True, exponent=-7),
    "planes, float32": planes(6, 65, bits=32, signed=True),
    "planes, tail": planes(8, 21, group_size=8, tail=30),
    "planes, two parts": planes(6, 40, group_size=16, parts=2),
    "planes, means": made_planes(5, 70, 70, bits=32, means=True),
    "planes, as BiLLM's": made_planes(
        9, 320, 128, parts=2, salient_parts=1, salient=range(3, 320, 11), bits=8, means=True
    ),
    "planes, as ARB-LLM's": made_planes(
        7, 200, 64, parts=2, salient_parts=2, salient=range(0, 200, 7), column_scales=True, exponent=-3
    ),
    "planes, as PB-LLM's": made_planes(8, 384, 128, means=True, tail=range(5, 3072, 9)),
    "planes, everything in ragged groups": made_planes(
        6, 133, 50, parts=2, salient_parts=2, salient=(0, 49, 50, 132), bits=8, means=True, column_scales=True
    ),
    "factors": factors(21, 140, 33),
    "factors, exponent": factors(6, 17, 40, exponent=-7),
    "factors 1 x 1": factors(1, 1, 1),
}
# … and weights of weights
CONTAINERS = {
    "lowrank": LowrankWeight(uniform(13, 24, alphabet=16), uniform(24, 70, zero="free")),
    "lowrank, a wide rank": LowrankWeight(raw(5, 19), levels(19, 40, alphabet=6, tail=0.05)),
    "rows, four classes": rows_of(
        23,
        None,
        lambda rows: uniform(rows, 70, zero="middle"),
        lambda rows: uniform(rows, 70, alphabet=16, zero="free"),
        lambda rows: uniform(rows, 70, alphabet=256, column_scale=True),
    ),
    "rows, two formats": rows_of(
        9, lambda rows: levels(rows, 64, tail=0.03), lambda rows: factors(rows, 64, 33)
    ),
    "rows, one with two parts": rows_of(
        7, lambda rows: planes(rows, 40, group_size=40, parts=2), lambda rows: uniform(rows, 40)
    ),
}
