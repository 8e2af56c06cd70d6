"""Weights of the formats `levels` and `planes` with everything drawn at random, and short tensors by their
numbers.
"""

from __future__ import annotations

import numpy as np
import torch

from bivlm.formats.encoding.numbers import Numbers
from bivlm.formats.levels import LevelsWeight
from bivlm.formats.planes import PlanesWeight


def half(*numbers):
    return torch.tensor(numbers, dtype=torch.float16)


def octets(*numbers):
    return torch.tensor(numbers, dtype=torch.uint8)


def _ascending(random, shape, low, high):
    return torch.from_numpy(np.sort(random.uniform(low, high, shape), axis=-1)).half()


def made_levels(
    rows,
    columns,
    *,
    alphabet,
    symmetric=False,
    group_size=None,
    per_row=False,
    tail=(),
    values=False,
    seed=0,
):
    """A weight with random codes and tables, and tail entries at the positions `tail`, with `values` of their
    own.
    """
    random = np.random.default_rng(seed)
    group_size = group_size or columns
    codes = torch.from_numpy(random.integers(0, alphabet, (rows, columns)).astype(np.uint8))
    positions = torch.tensor(sorted(tail), dtype=torch.int64)
    codes.view(-1)[positions] = 0
    table = (rows if per_row else 1, -(-columns // group_size), alphabet // 2 if symmetric else alphabet)
    coded = 0 if values else len(tail)
    return LevelsWeight(
        codes=codes,
        levels=_ascending(random, table, 0 if symmetric else -3, 3),
        scale=torch.tensor(random.uniform(1e-4, 10), dtype=torch.float32),
        alphabet=alphabet,
        symmetric=symmetric,
        group_size=group_size,
        tail_positions=positions,
        tail_codes=torch.from_numpy(random.integers(0, 4, coded).astype(np.uint8)),
        tail_levels=_ascending(random, 4, -3, 3) if coded else torch.zeros(4, dtype=torch.float16),
        tail_scale=(
            torch.from_numpy(random.uniform(0, 4, rows)).half()
            if coded
            else torch.zeros(0, dtype=torch.float16)
        ),
        tail_values=torch.from_numpy(random.uniform(-9, 9, len(tail) if values else 0)).half(),
    )


def made_planes(
    rows,
    columns,
    group_size,
    *,
    parts=1,
    salient_parts=0,
    salient=(),
    bits=16,
    means=False,
    column_scales=False,
    tail=(),
    exponent=0,
    seed=0,
):
    """A weight with everything drawn at random; `salient` are columns, `tail` positions."""
    random = np.random.default_rng(seed)
    mask = torch.zeros(columns, dtype=torch.bool)
    mask[list(salient)] = True
    count, groups = parts + 2 * salient_parts, -(-columns // group_size)
    used = torch.cat([(~mask).expand(parts, -1), mask.expand(2 * salient_parts, -1)])

    def plane():
        return torch.from_numpy(random.integers(0, 2, (rows, columns)).astype(bool))

    def normal(*shape):
        return torch.from_numpy(random.normal(size=shape)).float()

    positions = torch.tensor(sorted(tail), dtype=torch.int64)
    signs = plane()
    signs.view(-1)[positions] = False
    return PlanesWeight(
        signs=signs,
        parts=parts,
        salient_parts=salient_parts,
        partition=plane() & torch.where(mask, salient_parts == 2, parts == 2),
        salient=mask,
        second_signs=plane() & mask,
        scales=Numbers.of(normal(rows, groups, count), bits, signed=True),
        means=Numbers.of(normal(rows, groups, parts + salient_parts), bits, signed=True) if means else None,
        column_scales=(
            torch.where(used, normal(count, columns), 0.0).half()
            if column_scales
            else torch.zeros(0, 0).half()
        ),
        tail_positions=positions,
        tail_codes=torch.from_numpy(random.integers(0, 256, len(positions)).astype(np.uint8)),
        tail_scale=normal(rows if len(positions) else 0).half(),
        tail_zero=(100 * normal(rows if len(positions) else 0)).half(),
        group_size=group_size,
        exponent=exponent,
    )
