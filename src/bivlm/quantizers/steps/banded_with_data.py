"""Bands and tail of Bi-VLM chosen by the cost of errors, from the second moment of the inputs: an addition to
the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from bivlm.quantizers.steps.banded import Banded, mask_of
from bivlm.quantizers.steps.compensation import column_by_column, compensate, visiting_order
from bivlm.quantizers.steps.grid import grouped
from bivlm.quantizers.steps.salient import Tail

LEVEL_ROUNDS = 6  # of the weighted fit of the band levels

FitTail = Callable[[Tensor, Tensor, int, Tensor | None], Tail]  # (rows, values, out, costs): salient.py


def banded_with_data(
    w: Tensor,
    start: Banded,
    hessian: Tensor,
    fit: FitTail,
    *,
    one_table: bool,
    block_size: int,
    damping: float,
) -> Banded:
    """Levels and tail where errors cost most; nearest levels with error feedback, strongest inputs first;
    then the levels' closed-form refit. `one_table`: the whole layer shares its levels.
    """
    order = visiting_order(hessian, act_order=True)
    start = by_cost(w, start, hessian.diagonal().clamp_min(0.0), fit, one_table)
    tables = start.signed_levels().expand(w.shape[0], -1, -1)
    salient = mask_of(start.positions, w.shape)
    tail_table = (start.tail.scale[:, None] * start.tail.levels).float()
    codes, tail_codes = (
        torch.zeros(w.shape, dtype=torch.uint8, device="cpu"),
        torch.zeros(w.shape, dtype=torch.uint8, device="cpu"),
    )

    def quantize_column(column: Tensor, index: int) -> Tensor:
        j = int(order[index])
        value, codes[:, j] = _nearest_in(column, tables[:, j // start.group_size])
        if bool(salient[:, j].any()):
            tail_value, tail_codes[:, j] = _nearest_in(column, tail_table)
            value = torch.where(salient[:, j], tail_value, value)
        return value

    callback = column_by_column(quantize_column)
    compensate(w[:, order], hessian[order][:, order], callback, block_size=block_size, damping=damping)
    codes = torch.where(salient, 0, codes).to(torch.uint8)
    tail = replace(start.tail, codes=tail_codes.reshape(-1)[start.positions])
    fed = Banded(codes, start.levels, start.group_size, start.positions, tail)
    return fed.refitted(w, salient, hessian, damping)


def by_cost(w: Tensor, start: Banded, costs: Tensor, fit: FitTail, one_table: bool) -> Banded:
    """Levels refitted with `costs` (in,), the strengths of the columns' inputs; as many salient weights as
    before, but now those whose rounding costs most.
    """
    costs = costs / costs.mean()

    def scope(values: Tensor) -> Tensor:
        return values.reshape(1, 1, -1) if one_table else grouped(values, start.group_size)

    magnitude, levels, count = scope(w.abs()), start.levels, len(start.positions)
    salient = mask_of(start.positions, w.shape)
    for turn in range(3 if count else 1):
        levels = _weighted_levels(magnitude, scope(costs * ~salient), levels)
        if turn < 2:
            nearest = levels.expand(magnitude.shape[0], -1, -1).gather(-1, _nearest_level(magnitude, levels))
            lost = (magnitude - nearest).square().reshape(w.shape[0], -1)[:, : w.shape[1]] * costs
            salient = mask_of(_costliest(lost, count), w.shape)
    positions = salient.reshape(-1).nonzero()[:, 0]
    rows, values = positions // w.shape[1], w.reshape(-1)[positions].double()
    entry_costs = costs.double()[positions % w.shape[1]]
    tail = fit(rows, values, w.shape[0], entry_costs)
    return Banded(start.codes, levels, start.group_size, positions, tail)


def _costliest(lost: Tensor, count: int) -> Tensor:
    """Row-major positions of the `count` largest of `lost` (out, in): the same number in every row, or at any
    place if that is less than one per row.
    """
    rows, columns = lost.shape
    each = count // rows
    if each == 0:
        return lost.reshape(-1).topk(count).indices
    return (
        lost.topk(each, dim=1).indices
        + columns * torch.arange(rows, dtype=torch.int64, device="cpu")[:, None]
    ).reshape(-1)


def _nearest_level(magnitude: Tensor, levels: Tensor) -> Tensor:
    """Index of the nearest of the ascending `levels` (R, G, N) for each magnitude (R, G, n)."""
    return torch.searchsorted(((levels[..., 1:] + levels[..., :-1]) / 2).contiguous(), magnitude.contiguous())


def _weighted_levels(magnitude: Tensor, weight: Tensor, levels: Tensor) -> Tensor:
    """Band levels (R, G, N), ascending, by Lloyd's algorithm from `levels`, with a `weight` for every
    magnitude (R, G, n).
    """
    for _ in range(LEVEL_ROUNDS):
        nearest = _nearest_level(magnitude, levels)
        mass = torch.zeros_like(levels).scatter_add_(-1, nearest, weight)
        moment = torch.zeros_like(levels).scatter_add_(-1, nearest, weight * magnitude)
        levels = torch.where(mass > 0, moment / mass.clamp_min(1e-30), levels).sort(-1).values
    return levels


def _nearest_in(column: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest level and its code for each entry of a column (out,), from ascending tables (out, L)."""
    code = (column[:, None] > (table[:, 1:] + table[:, :-1]) / 2).sum(-1)
    return table.gather(1, code[:, None])[:, 0], code.to(torch.uint8)
