"""The salient tail in two bits: four levels per layer times a scale per row. There are two ways to find them.

"paper": Bi-VLM (arXiv 2509.18763), exactly Eq. 10-14 and Alg. 1. The relaxation drives the row scale to the
row's maximum, so nearly all of the tail falls on two of the four levels. On a Gaussian tail the error is
thirty times that of a fit. "lloyd": four levels fitted to W / a, in alternation with the row scales.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bivlm.formats.encoding.numbers import as_signs

SalientLevels = Literal["paper", "lloyd"]


@dataclass(frozen=True)
class Tail:
    """A fitted tail: `codes` (n,) uint8 in 0…3, `levels` (4,) ascending and `scale` (out,), float64; entry n
    is scale[row n] * levels[codes n].
    """

    codes: Tensor
    levels: Tensor
    scale: Tensor

    def values(self, rows: Tensor) -> Tensor:
        return self.scale[rows] * self.levels[self.codes.long()]

    def error(self, rows: Tensor, values: Tensor) -> float:
        """||W_sal - a B_sal||²."""
        return float((values - self.values(rows)).square().sum())


def fit_tail(
    rows: Tensor,
    values: Tensor,
    out: int,
    method: SalientLevels,
    *,
    rounds: int,
    alpha: float,
    costs: Tensor | None = None,
) -> Tail:
    """Fit the tail entries `values` (n,) float64 that lie in `rows` (n,) of a weight with `out` rows.

    `alpha` serves "paper" only; `costs` (n,) float64 weigh the squared errors of the entries for "lloyd".
    """
    if len(values) == 0:
        return Tail(
            torch.zeros(0, dtype=torch.uint8, device="cpu"),
            torch.zeros(4, dtype=torch.float64, device="cpu"),
            torch.zeros(out, dtype=torch.float64, device="cpu"),
        )
    if method == "paper":
        return _relaxed(rows, values, out, rounds, alpha)
    return _lloyd(rows, values, torch.ones_like(values) if costs is None else costs, out, rounds)


def _row_scale(
    rows: Tensor, values: Tensor, pattern: Tensor, out: int, costs: Tensor | float = 1.0
) -> Tensor:
    """Least-squares scale of every row: sum w b / sum b², weighted by `costs`, 0 where the row has no entry
    (Eq. 11).
    """
    above = torch.zeros(out, dtype=torch.float64, device="cpu").index_add_(0, rows, costs * values * pattern)
    below = torch.zeros(out, dtype=torch.float64, device="cpu").index_add_(0, rows, costs * pattern * pattern)
    return torch.where(below > 0, above / below, 0.0)


def _nearest(ratio: Tensor, levels: Tensor) -> Tensor:
    return torch.bucketize(ratio, (levels[1:] + levels[:-1]) / 2).to(torch.uint8)


def _ratio(rows: Tensor, values: Tensor, scale: Tensor) -> Tensor:
    divisor = scale[rows]
    return torch.where(divisor > 0, values / divisor, 0.0)


def _relaxed(rows: Tensor, values: Tensor, out: int, rounds: int, alpha: float) -> Tail:
    pattern = as_signs(values >= 0).double()
    scale = _row_scale(rows, values, pattern, out)
    for _ in range(rounds):
        pattern = _ratio(rows, values, scale).clamp(-1.0, 1.0)
        scale = _row_scale(rows, values, pattern, out)
    used = pattern[pattern != 0]
    mean, std = used.mean(), used.std(correction=0)
    points = torch.linspace(-1.0, 1.0, 5, dtype=torch.float64, device="cpu")
    level = mean + std * points.sign() * (alpha * points.abs().exp() - 1.0)
    centres = ((level[1:] + level[:-1]) / 2).sort().values
    return Tail(_nearest(pattern, centres), centres, scale)


def _lloyd(rows: Tensor, values: Tensor, costs: Tensor, out: int, rounds: int) -> Tail:
    """Lloyd's algorithm on W / a, the scales refitted by least squares after each round."""
    scale = _row_scale(rows, values, as_signs(values >= 0).double(), out, costs)
    ratio = _ratio(rows, values, scale)
    magnitude = ratio.abs().mean()
    levels = magnitude * torch.tensor([-1.2, -0.85, 0.85, 1.2], dtype=torch.float64, device="cpu")
    codes = _nearest(ratio, levels)
    for _ in range(rounds):
        weight = costs * scale[rows].square()
        index = codes.long()
        above = torch.zeros(4, dtype=torch.float64, device="cpu").index_add_(0, index, weight * ratio)
        below = torch.zeros(4, dtype=torch.float64, device="cpu").index_add_(0, index, weight)
        levels = torch.where(below > 0, above / below.clamp_min(1e-300), levels).sort().values
        scale = _row_scale(rows, values, levels[index], out, costs).clamp_min(0.0)
        ratio = _ratio(rows, values, scale)
        codes = _nearest(ratio, levels)
    return Tail(codes, levels, scale)
