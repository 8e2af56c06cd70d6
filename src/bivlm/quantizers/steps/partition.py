"""The searches of BiLLM without its full passes: which columns of a block are salient, and which magnitude
splits the others into two parts.

Huang et al., arXiv 2402.04291, section 3.1 and 3.2. Both searches minimise the squared error of residual
binarization (residual.py) over candidates: the number of salient columns (1…49, by falling column sum of the
salience), then one of 81 magnitudes between the 10 % and the 90 % quantile.

The public code binarizes the whole block again for every candidate. Here each row is sorted once. With prefix
sums of its sorted values, mean, mean absolute deviation and error of any interval of magnitudes cost a few
look-ups, since

    Σ|w - μ| over a sorted set = (sum above μ) - μ * (count above) + μ * (count below) - (sum below)
    error of order 1 = Σ(w - μ)² - n a²,  a = Σ|w - μ| / n
    order 2 subtracts n μ₂² + n a₂² of the residual as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

QUANTILES = np.linspace(0.10, 0.90, 81, dtype=np.float32)
ROWS = 2048  # rows whose prefix sums are worked on at a time: they stay in the cache


@dataclass(frozen=True)
class _Prefix:
    """Prefix sums of sorted rows (rows, b): the count, sum and sum of squares of the members of a set before
    each place, (rows, b + 1).
    """

    count: Tensor
    sum: Tensor

    def before(self, place: Tensor) -> tuple[Tensor, Tensor]:
        """Count and sum before `place` (rows, k)."""
        return self.count.gather(1, place), self.sum.gather(1, place)

    def whole(self) -> tuple[Tensor, Tensor]:
        return self.count[:, -1:], self.sum[:, -1:]


def salient_columns(target: Tensor, most: int) -> Tensor:
    """The salient columns (b,) bool of a block, from the salience `target` (out, b) of its weights: between 1
    and `most` of them.
    """
    columns = target.shape[1]
    order = target.abs().sum(0).argsort(descending=True, stable=True)
    candidates = min(most, columns - 1)
    if candidates < 1:
        return torch.zeros(columns, dtype=torch.bool, device="cpu")
    rank = torch.empty_like(order)
    rank[order] = torch.arange(columns, dtype=torch.int64, device="cpu")
    error = sum(_column_errors(rows, rank, candidates) for rows in target.float().split(ROWS))
    assert isinstance(error, Tensor)
    return rank <= int(error.argmin())


def _column_errors(target: Tensor, rank: Tensor, candidates: int) -> Tensor:
    """Squared error (candidates,) of binarizing the first 1, 2, … columns of `rank` and the rest separately,
    both with order 2.

    The two sets of a row are stacked, the rest above: one call serves both.
    """
    rows, columns = target.shape
    values, places = target.sort(dim=1)
    rank_at = rank[places]
    column_place = torch.empty_like(places)
    column_place.scatter_(
        1, rank_at, torch.arange(columns, dtype=torch.int64, device="cpu").expand(rows, -1)
    )  # where the column of each rank lies in the sorted row
    both = torch.cat([values, values])
    nothing = torch.zeros(rows, columns + 1, dtype=values.dtype, device="cpu")
    count, total, square = (
        nothing.repeat(2, 1),
        nothing.repeat(2, 1),
        torch.zeros(2 * rows, 1, dtype=values.dtype, device="cpu"),
    )
    count[:rows, 1:], total[:rows, 1:] = (
        torch.arange(1, columns + 1, dtype=values.dtype, device="cpu"),
        values.cumsum(1),
    )
    square[:rows] = values.square().sum(1, keepdim=True)
    grid = torch.arange(columns + 1, dtype=torch.int64, device="cpu")
    errors = torch.empty(candidates, dtype=torch.float64, device="cpu")
    for taken in range(candidates):
        place = column_place[:, taken : taken + 1]
        value = values.gather(1, place)
        beyond = (grid > place).to(values.dtype)
        for prefix, moved in ((count, beyond), (total, beyond * value), (square, value.square())):
            prefix[:rows] -= moved
            prefix[rows:] += moved
        errors[taken] = _order_two_error(both, _Prefix(count, total), square).sum(dtype=torch.float64)
    return errors


def _order_two_error(values: Tensor, members: _Prefix, square: Tensor) -> Tensor:
    """Error (rows, 1) of residual binarization of order 2 of the set `members` of the sorted rows
    `values`.
    """
    count, total = members.whole()
    count = count.clamp_min(1.0)
    mean = total / count
    middle = torch.searchsorted(values, mean)
    below, below_sum = members.before(middle)
    above, above_sum = count - below, total - below_sum
    scale = (above_sum - above * mean + below * mean - below_sum) / count
    second_mean = -scale * (above - below) / count
    upper, lower = mean + scale + second_mean, mean - scale + second_mean
    split_up = torch.maximum(torch.searchsorted(values, upper), middle)
    split_low = torch.minimum(torch.searchsorted(values, lower), middle)
    up_count, up_sum = members.before(split_up)
    low_count, low_sum = members.before(split_low)
    spread = (total - up_sum) - (count - up_count) * upper + (up_count - below) * upper - (up_sum - below_sum)
    spread = spread + (below_sum - low_sum) - (below - low_count) * lower + low_count * lower - low_sum
    return square - count * (
        mean.square() + scale.square() + second_mean.square() + (spread / count).square()
    )


def magnitude_threshold(target: Tensor, salient: Tensor) -> float:
    """The magnitude that splits the salience `target` (out, b) outside of the `salient` columns (b,) into two
    parts of order 1 with the least error.
    """
    if bool(salient.all()):
        return 0.0
    flat = (
        torch.where(salient, 0.0, target).abs().reshape(-1)
    )  # zeros of the salient columns included, as in the public code
    thresholds = torch.from_numpy(np.quantile(flat.numpy(), QUANTILES).astype(np.float32))
    rest = target[:, ~salient].double()
    error = sum(_threshold_errors(rows, thresholds.double()) for rows in rest.split(ROWS))
    assert isinstance(error, Tensor)
    return float(thresholds[int(error.argmin())])


def _threshold_errors(target: Tensor, thresholds: Tensor) -> Tensor:
    """Squared error (thresholds,) of binarizing |w| < t and |w| >= t separately, with means and scales per
    row.
    """
    rows, columns = target.shape
    values = target.sort(dim=1).values.contiguous()
    zero = torch.zeros(rows, 1, dtype=torch.float64, device="cpu")
    sums, squares = torch.cat([zero, values.cumsum(1)], 1), torch.cat([zero, values.square().cumsum(1)], 1)
    wanted = thresholds.expand(rows, -1).contiguous()
    start, end = torch.searchsorted(values, -wanted, right=True), torch.searchsorted(values, wanted)
    end = torch.maximum(start, end)
    inner_count, inner_sum = (end - start).double(), sums.gather(1, end) - sums.gather(1, start)
    mean = inner_sum / inner_count.clamp_min(1.0)
    middle = torch.searchsorted(values, mean.contiguous()).clamp(min=start, max=end)
    below, below_sum = (middle - start).double(), sums.gather(1, middle) - sums.gather(1, start)
    inner = _gain(inner_count, inner_sum, mean, below, below_sum)
    outer_count, outer_sum = columns - inner_count, sums[:, -1:] - inner_sum
    mean = outer_sum / outer_count.clamp_min(1.0)
    middle = torch.searchsorted(values, mean.contiguous())
    left, right = torch.minimum(middle, start), torch.maximum(middle, end)
    below = (left + right - end).double()
    below_sum = sums.gather(1, left) + sums.gather(1, right) - sums.gather(1, end)
    outer = _gain(outer_count, outer_sum, mean, below, below_sum)
    return (squares[:, -1:] - inner - outer).sum(0)


def _gain(count: Tensor, total: Tensor, mean: Tensor, below: Tensor, below_sum: Tensor) -> Tensor:
    """n μ² + n a²: what binarization of order 1 explains of a set's sum of squares."""
    spread = (total - below_sum) - (count - below) * mean + below * mean - below_sum
    return count * mean.square() + spread.square() / count.clamp_min(1.0)
