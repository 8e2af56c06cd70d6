"""Grids of a group of weights: evenly spaced (scale and zero point) or free levels, fitted by weighted least
squares.

    evenly spaced    w ≈ scale * (code - zero_point),  code in 0…alphabet-1
    free             w ≈ one of `alphabet` levels

A group is `group_size` consecutive columns of a row. Every error is weighted by the strength of the column's
inputs, so the grid is best for strong inputs. The clipping search starts from the group's range and shrinks
it, as AWQ (arXiv 2306.00978) and the code of GPTQ do. A few rounds of least squares for the resulting codes
(Lloyd, 1982) then move scale and zero point to their optimum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bivlm.formats.encoding.numbers import NumberBits, Numbers

ZeroPoint = Literal["middle", "code", "free"]
LevelsStart = Literal["search", "range"]
ROUNDS = 4  # of least squares after the clipping search


@dataclass(frozen=True)
class Grid:
    """Evenly spaced grids of all groups: `scales` (out, G, 1), and `zero` (out, G) as the format stores it
    (empty for the middle).
    """

    scales: Numbers
    zero_points: Tensor
    alphabet: int

    def scale(self) -> Tensor:
        return self.scales.expand()[..., 0]

    def zero(self) -> Tensor:
        """(out, G) float32."""
        return (
            self.zero_points.float()
            if self.zero_points.numel()
            else torch.full_like(self.scale(), (self.alphabet - 1) / 2)
        )


def grouped(w: Tensor, group_size: int, fill: float = 0.0) -> Tensor:
    """(out, in) as (out, G, group_size), the last group filled up with `fill`."""
    missing = -w.shape[1] % group_size
    padded = torch.nn.functional.pad(w, (0, missing), value=fill) if missing else w
    return padded.reshape(w.shape[0], -1, group_size)


def nearest_codes(w: Tensor, scale: Tensor, zero: Tensor, alphabet: int) -> Tensor:
    """The nearest code of each weight, as float; shapes broadcast. A scale of 0 gives the code next to the
    zero point, or 0.
    """
    return (w / scale).add_(zero).round_().nan_to_num_(0.0).clamp_(0, alphabet - 1)


def fit_grid(
    w: Tensor,
    importance: Tensor,
    group_size: int,
    alphabet: int,
    zero: ZeroPoint,
    *,
    clip: bool,
    scale_bits: NumberBits,
) -> Grid:
    """Evenly spaced grids for the groups of `w` (out, in); `importance` (in,) ≥ 0 weighs the columns' squared
    errors.
    """
    filled = _filled_up(w, group_size)
    weight = grouped(importance[None], group_size)[0]
    weight = torch.where(weight.sum(-1, keepdim=True) > 0, weight, 1.0)
    low, high = _range(filled, zero)
    best = torch.full(low.shape, torch.inf, dtype=torch.float32, device="cpu")
    scale, centre = low, low
    for share in torch.linspace(1.0, 0.2, 33, dtype=torch.float32, device="cpu").tolist() if clip else [1.0]:
        candidate, place = _spaced(low * share, high * share, alphabet, zero)
        error = _error(filled, weight, candidate, place, alphabet)
        better = error < best
        best, scale, centre = (
            torch.where(better, error, best),
            torch.where(better, candidate, scale),
            torch.where(better, place, centre),
        )
    if clip:
        scale, centre = _least_squares(filled, weight, scale, centre, best, alphabet, zero)
    return _stored(scale, centre, alphabet, zero, scale_bits)


def _filled_up(w: Tensor, group_size: int) -> Tensor:
    """The groups of `w` (out, in), (out, G, group_size); the last is filled up with its first weight, which
    does not widen its range.
    """
    missing = -w.shape[1] % group_size
    filled = grouped(w, group_size)
    if missing:
        filled[:, -1, group_size - missing :] = filled[:, -1, :1]
    return filled


def _range(filled: Tensor, zero: ZeroPoint) -> tuple[Tensor, Tensor]:
    """Lowest and highest weight of each group; symmetric for "middle", with 0 between them for "code"."""
    low, high = filled.amin(-1), filled.amax(-1)
    if zero == "middle":
        high = torch.maximum(high, -low)
        return -high, high
    if zero == "code":
        return low.clamp_max(0.0), high.clamp_min(0.0)
    return low, high


def _spaced(low: Tensor, high: Tensor, alphabet: int, zero: ZeroPoint) -> tuple[Tensor, Tensor]:
    """Scale and zero point of the grid from `low` to `high`. A group of equal weights c gets scale |c| and
    the code next to its zero point.
    """
    scale = (high - low) / (alphabet - 1)
    scale = torch.where(scale > 0, scale, high.abs())
    place = torch.where(scale > 0, -low / scale, 0.0)
    if zero == "code":
        place = place.round().clamp(0, alphabet - 1)
    return scale, place


def _error(filled: Tensor, weight: Tensor, scale: Tensor, zero: Tensor, alphabet: int) -> Tensor:
    step, place = scale[..., None], zero[..., None]
    lost = filled - (nearest_codes(filled, step, place, alphabet) - place) * step
    return torch.einsum("ogb,gb->og", lost.square(), weight)


def _least_squares(
    filled: Tensor, weight: Tensor, scale: Tensor, zero: Tensor, best: Tensor, alphabet: int, kind: ZeroPoint
) -> tuple[Tensor, Tensor]:
    """Scale (and a free zero point) by least squares, in alternation with the nearest codes; a group keeps
    its old values if they were better.
    """
    total = weight.sum(-1)
    for _ in range(ROUNDS):
        code = nearest_codes(filled, scale[..., None], zero[..., None], alphabet)
        if kind == "free":
            mean_code, mean_w = (
                torch.einsum("ogb,gb->og", code, weight) / total,
                torch.einsum("ogb,gb->og", filled, weight) / total,
            )
            centred = code - mean_code[..., None]
            candidate = _ratio(
                torch.einsum("ogb,ogb,gb->og", centred, filled, weight),
                torch.einsum("ogb,ogb,gb->og", centred, centred, weight),
            )
            place = torch.where(candidate > 0, mean_code - mean_w / candidate, zero)
        else:
            centred = code - zero[..., None]
            candidate = _ratio(
                torch.einsum("ogb,ogb,gb->og", centred, filled, weight),
                torch.einsum("ogb,ogb,gb->og", centred, centred, weight),
            )
            place = zero
        error = _error(filled, weight, candidate, place, alphabet)
        better = (error < best) & (candidate > 0)
        best, scale, zero = (
            torch.where(better, error, best),
            torch.where(better, candidate, scale),
            torch.where(better, place, zero),
        )
    return scale, zero


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    return torch.where(below > 0, above / below, 0.0)


def _stored(scale: Tensor, zero: Tensor, alphabet: int, kind: ZeroPoint, scale_bits: NumberBits) -> Grid:
    """The grid in its stored precision: codes are then chosen with the rounded numbers."""
    scales = Numbers.of(scale[..., None], scale_bits)
    if kind == "middle":
        points = torch.zeros(0, dtype=torch.float16, device="cpu")
    elif kind == "code":
        points = zero.to(torch.uint8)
    else:
        points = zero.clamp(-1024.0, 1024.0).half()
    return Grid(scales, points, alphabet)


def fit_levels(
    w: Tensor,
    importance: Tensor,
    group_size: int,
    alphabet: int,
    rounds: int = 12,
    start: LevelsStart = "search",
) -> Tensor:
    """Free levels (out, G, alphabet), ascending, for the groups of `w` (out, in): weighted Lloyd from an
    evenly spaced grid, until nothing changes or for `rounds` rounds.

    The grid is the one that the clipping search finds ("search"), or goes from the lowest to the highest
    weight of the group ("range"). From the range some levels may have no weight; they move to the weights
    that are farthest from their levels, as in scikit-learn's k-means.
    """
    points = torch.arange(alphabet, dtype=torch.float32, device="cpu")
    if start == "search":
        grid = fit_grid(w, importance, group_size, alphabet, "free", clip=True, scale_bits=32)
        levels = (points - grid.zero()[..., None]) * grid.scale()[..., None]
    else:
        low, high = _range(_filled_up(w, group_size), "free")
        levels = torch.lerp(low[..., None], high[..., None], points / max(alphabet - 1, 1))
    filled, weight = grouped(w, group_size).contiguous(), grouped(importance[None], group_size)[0]
    if -w.shape[1] % group_size:
        used = grouped(torch.ones(1, w.shape[1], dtype=torch.float32, device="cpu"), group_size)[0]
        weight = torch.where((weight * used).sum(-1, keepdim=True) > 0, weight * used, used)
    else:
        weight = torch.where(weight.sum(-1, keepdim=True) > 0, weight, 1.0)
    for _ in range(rounds):
        code = torch.searchsorted(((levels[..., 1:] + levels[..., :-1]) / 2).contiguous(), filled)
        mass, moment = torch.zeros_like(levels), torch.zeros_like(levels)
        spread = weight.expand_as(filled)
        mass.scatter_add_(-1, code, spread)
        moment.scatter_add_(-1, code, spread * filled)
        if start == "range":
            _fill_empty(mass, moment, filled, spread, code, levels)
        better = torch.where(mass > 0, moment / mass.clamp_min(1e-30), levels).sort(-1).values
        if torch.equal(better, levels):
            break
        levels = better
    return levels


def _fill_empty(
    mass: Tensor, moment: Tensor, filled: Tensor, weight: Tensor, code: Tensor, levels: Tensor
) -> None:
    """Give every level without mass one weight, in place: those that are farthest from their levels, which
    lose them. mass, moment, levels (out, G, alphabet); filled, weight, code (out, G, group_size).
    """
    empty = mass == 0
    most = min(int(empty.sum(-1).max()), filled.shape[-1])
    if not most:
        return
    distance = torch.where(weight > 0, filled - levels.gather(-1, code), 0.0).square()
    far, place = distance.topk(most)
    rank = torch.arange(most, dtype=torch.int64, device="cpu")
    moves = (rank < empty.sum(-1, keepdim=True)) & (far > 0)
    moved = torch.where(moves, weight.gather(-1, place), 0.0)
    value, old = filled.gather(-1, place), code.gather(-1, place)
    count = torch.zeros_like(mass).scatter_add_(-1, code, (weight > 0).to(mass.dtype))
    left = count.scatter_add_(-1, old, -moves.to(mass.dtype)) > 0
    mass.scatter_add_(-1, old, -moved).mul_(left)  # rounding may leave a trace where nothing is left
    moment.scatter_add_(-1, old, -moved * value)
    turn = (empty.cumsum(-1) - 1).clamp(0, most - 1)  # which of the far weights an empty level gets
    mass.copy_(torch.where(empty, moved.gather(-1, turn), mass))
    moment.copy_(torch.where(empty, (moved * value).gather(-1, turn), moment))
