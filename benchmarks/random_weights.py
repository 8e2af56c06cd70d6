"""Random packed weights of every kind that the kernels are measured on: how fast a kernel is does not depend
on what the codes say.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bivlm.formats import FactorsWeight, LevelsWeight, PlanesWeight, TrellisWeight, UniformWeight
from bivlm.formats.base import PackedTensor
from bivlm.formats.encoding.numbers import Numbers
from bivlm.formats.trellis import RUN, pack_symbols, strips

GROUP = 128
TAIL = 0.01  # share of the weights that lie in the tail
SALIENT = (
    0.1  # share of the columns that are salient, as BiLLM finds them, and of the weights in PB-LLM's tail
)
WIDTHS = {
    "levels": (1, 2, 3, 4),
    "levels, 1 % tail": (1, 2, 3, 4),
    "planes, blocks": (1,),
    "planes, parts and means": (1,),
    "planes, parts and column scales": (1,),
    "planes, 10 % tail": (1,),
    "uniform, groups of 128": (1, 2, 3, 4),
    "factors": (1, 2, 3),
    "trellis": (1, 2, 3, 4),
}
NOTHING = torch.zeros(0, dtype=torch.float16)


def random_weight(kind: str, bits: int, shape: tuple[int, int], seed: int = 0) -> PackedTensor:
    """A weight (out, in) of a kind and a width in `WIDTHS`, of about the size that a trained one has. For
    planes it is the width of a sign: with parts they are as BiLLM and ARB-LLM make them, with a tail as
    PB-LLM does.
    """
    random = torch.Generator().manual_seed(seed)
    if kind.startswith("levels"):
        return _levels(shape, 1 << bits, TAIL if "tail" in kind else 0.0, random).encode()
    if kind.startswith("planes"):
        return _planes(shape, kind, random).encode()
    if kind == "trellis":
        return _trellis(shape, bits, random).encode()
    return (
        _uniform(shape, 1 << bits, random) if kind.startswith("uniform") else _factors(shape, bits, random)
    ).encode()


def _levels(shape: tuple[int, int], alphabet: int, tail: float, random: torch.Generator) -> LevelsWeight:
    """One table for each row, the same on both sides of zero, as Bi-VLM makes them."""
    rows, columns = shape
    count = round(tail * rows * columns)
    positions = torch.randint(0, rows * columns, (count,), generator=random).unique()
    codes = torch.randint(0, alphabet, shape, generator=random, dtype=torch.uint8)
    codes.view(-1)[positions] = 0
    return LevelsWeight(
        codes=codes,
        levels=torch.randn(rows, 1, alphabet // 2, generator=random).abs().sort(-1).values.half(),
        scale=torch.tensor(columns**-0.5),
        alphabet=alphabet,
        symmetric=True,
        group_size=columns,
        tail_positions=positions,
        tail_codes=torch.randint(0, 4, positions.shape, generator=random, dtype=torch.uint8),
        tail_levels=torch.tensor([-5.0, -3.0, 3.0, 5.0]).half() if count else torch.zeros(4).half(),
        tail_scale=_positive((rows,), random).half() if count else NOTHING,
    )


def _planes(shape: tuple[int, int], kind: str, random: torch.Generator) -> PlanesWeight:
    """Signs and a scale for each 128 of a row, and what else a kind has. Rows whose width 128 does not divide
    have one scale.
    """
    rows, columns = shape
    group_size = group_of(columns)
    parted, means, scaled = "parts" in kind, "means" in kind, "column scales" in kind
    parts, salient_parts = (2, 1) if parted else (1, 0)
    salient = (torch.rand(columns, generator=random) < SALIENT) & parted
    positions = torch.zeros(0, dtype=torch.int64)
    if "tail" in kind:
        count = round(SALIENT * rows * columns)
        positions = torch.randint(0, rows * columns, (count,), generator=random).unique()
    signs = _bits(shape, random)
    signs.view(-1)[positions] = False
    used = torch.cat([(~salient).expand(parts, -1), salient.expand(2 * salient_parts, -1)])
    numbers = (rows, columns // group_size, parts + 2 * salient_parts)
    means_shape = (*numbers[:2], parts + salient_parts)
    drawn = (torch.rand(means_shape, generator=random) - 0.5) * columns**-0.5
    return PlanesWeight(
        signs=signs,
        parts=parts,
        salient_parts=salient_parts,
        partition=_bits(shape, random) & ~salient & parted,
        salient=salient,
        second_signs=_bits(shape, random) & salient,
        scales=Numbers.of(_positive(numbers, random) * columns**-0.5, 8 if parted else 16),
        means=Numbers.of(drawn, 8, signed=True) if means else None,
        column_scales=(
            torch.where(used, _positive(tuple(used.shape), random), 0.0) if scaled else torch.zeros(0, 0)
        ).half(),
        tail_positions=positions,
        tail_codes=torch.randint(0, 256, positions.shape, generator=random, dtype=torch.uint8),
        tail_scale=(_positive((rows,), random) / 64 * columns**-0.5).half() if len(positions) else NOTHING,
        tail_zero=torch.full((rows if len(positions) else 0,), 128).half(),
        group_size=group_size,
        exponent=0,
    )


def _uniform(shape: tuple[int, int], alphabet: int, random: torch.Generator) -> UniformWeight:
    rows, columns = shape
    group_size = group_of(columns)
    groups = columns // group_size
    return UniformWeight(
        codes=torch.randint(0, alphabet, shape, generator=random, dtype=torch.uint8),
        alphabet=alphabet,
        scales=Numbers.of(_positive((rows, groups, 1), random) * 4 / alphabet * columns**-0.5, 16),
        zero_points=torch.randint(0, alphabet, (rows, groups), generator=random, dtype=torch.uint8),
        column_scale=NOTHING,
        group_size=group_size,
        exponent=0,
    )


def _factors(shape: tuple[int, int], bits: int, random: torch.Generator) -> FactorsWeight:
    """Of the rank that gives so many bits per weight."""
    rows, columns = shape
    rank = round(bits * rows * columns / (rows + columns))
    return FactorsWeight(
        left_signs=torch.randint(0, 2, (rows, rank), generator=random, dtype=torch.uint8).bool(),
        right_signs=torch.randint(0, 2, (rank, columns), generator=random, dtype=torch.uint8).bool(),
        row_scale=(_positive((rows,), random) * (rank * columns) ** -0.5).half(),
        middle_scale=_positive((rank,), random).half(),
        column_scale=_positive((columns,), random).half(),
        exponent=0,
    )


def _trellis(shape: tuple[int, int], bits: int, random: torch.Generator) -> TrellisWeight:
    """Windows of eight bits, rotated inputs, the same number of bits in every column."""
    rows, columns = shape
    run_bits = torch.full((-(-columns // RUN),), bits, dtype=torch.uint8)
    symbols = torch.randint(0, 1 << bits, (columns, sum(strips(rows))), generator=random, dtype=torch.uint8)
    return TrellisWeight(
        codes=pack_symbols(symbols, run_bits),
        columns=columns,
        bits=run_bits,
        row_scale=(_positive((rows,), random) * columns**-0.5).half(),
        table=torch.zeros(0, 0, dtype=torch.int8),
        window=8,
        rotated=True,
        seed=0,
        exponent=0,
    )


def group_of(columns: int) -> int:
    """128, or the whole row where 128 does not divide it."""
    return GROUP if columns % GROUP == 0 else columns


def _bits(shape: tuple[int, int], random: torch.Generator) -> Tensor:
    return torch.randint(0, 2, shape, generator=random, dtype=torch.uint8).bool()


def _positive(shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=random) + 0.5
