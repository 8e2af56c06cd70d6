"""DBF, double binary factorization: the weight is a product of two sign matrices with scales between and
around them.

Boža, Macko, arXiv 2505.11076:

    W ≈ diag(a) A diag(m) B diag(b),     A ∈ {±1}^(out x r),  B ∈ {±1}^(r x in)

The bits follow from the rank r, so any number of bits is possible. Columns are scaled by the root mean square
of their inputs, which is divided out again at the end. Two factors L = diag(a) A diag(l) and R =
diag(k) B diag(b), m = l k, are fitted in alternation, each by ADMM with the other fixed. For R, with the
columns of L normalized to norm 1, ρ the penalty and λ the ridge:

    X = (LᵀL + (λ + ρ) I)⁻¹ (LᵀW + ρ (Z - U))
    Z = sign(X + U) * the nearest non-negative rank-1 matrix to |X + U|,  by power iteration
    U ← U + X - Z                                                          then R = Z

ρ grows evenly and is constant in the last rounds: the signs are free to move at first and settle later.
In addition to the paper, the scales a, m and b are fitted at the end to the signs by least squares under the
whole second moment. The fit of the factors uses only its diagonal.

The paper counts r (out + in) / (out in) bits per weight: it leaves out the three vectors of scales, 16 (out +
r + in) bits, and padding. `bits` here counts everything.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from bivlm.formats.base import QuantizedWeight
from bivlm.formats.encoding.numbers import LARGEST_EXPONENT, as_signs
from bivlm.formats.factors import FactorsWeight, factors_nbytes, least_rank
from bivlm.quantizers.base import GradientPower, Quantizer, Weighting, in_range, moment_of
from bivlm.quantizers.steps.compensation import damped_moment
from bivlm.types import LinearStats

DAMPING = 0.01  # share of the mean diagonal added to the diagonal: every column has some weight
SETTLING = 0.2  # share of the rounds, the last ones, with the full penalty
POWER_ITERATIONS = 2  # per step; each step starts from the result of the step before
REFITS = 3  # passes over the three vectors of scales
REFIT_RIDGE = 1e-4  # share of a system's own diagonal
LARGEST_SCALE = 10  # stored scales lie below 2^10: float16 then also holds scales that are 2^24 times smaller
TINY = 1e-30


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class DBF(Quantizer):
    """Settings of DBF.

    bits             true bits per weight, scales and padding included; the rank is the largest that fits, and
                     at least 1
    weighting        "diagonal": columns weighted by their inputs; "none": all weights equal, no data needed
    rounds           how often both factors are fitted
    inner            ADMM steps for a factor in one round
    penalty          ρ at the end, relative to columns of norm 1
    ridge            λ, likewise; with less the Cholesky factorization would fail in float32
    modality_weight  how text and visual tokens share the second moment: "tokens", "balanced",
                     "gradient", or the visual tokens' share
    gradient_power   a token counts by this power of its squared output gradient; 0: all alike
    seed             seed of the random factor that the fit starts from
    """

    name: ClassVar[str] = "dbf"

    bits: Annotated[float, Field(gt=0.0, le=8.0)] = 2.0
    weighting: Literal["none", "diagonal"] = "diagonal"
    rounds: Annotated[int, Field(ge=1)] = 25
    inner: Annotated[int, Field(ge=1)] = 1
    penalty: Annotated[float, Field(gt=0.0)] = 1.0
    ridge: Annotated[float, Field(ge=0.01)] = 0.1
    modality_weight: Weighting = "tokens"
    gradient_power: GradientPower = 0.0
    seed: int = 0

    @property
    def needs_data(self) -> bool:
        return self.weighting == "diagonal"

    def quantize(self, weight: Tensor, stats: LinearStats | None) -> QuantizedWeight:
        w, exponent = in_range(weight)
        hessian = moment_of(stats, self.modality_weight) if self.needs_data else None
        damped = (
            torch.eye(w.shape[1], dtype=torch.float32, device="cpu") if hessian is None else _damped(hessian)
        )
        strength = damped.diagonal().sqrt()
        left, right = self._factors(w * strength, self.rank(w.shape))
        (row, row_middle), (column, column_middle) = _magnitudes(left), _magnitudes(right.T)
        signs = left >= 0, right >= 0
        decided = _stored(*signs, row, row_middle * column_middle, column / strength, 0)
        refitted = refit_scales(w, decided, damped)
        return _stored(*signs, *scales_of(refitted), exponent)

    def _factors(self, target: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        """L (out, r) and R (r, in), each signs times a rank-1 matrix of magnitudes, with L R near `target`
        (out, in).
        """
        rising = max(1.0, (1.0 - SETTLING) * self.rounds)
        first, *later = (self.penalty * min(1.0, turn / rising) for turn in range(1, self.rounds + 1))
        start = torch.randn(
            rank,
            target.shape[0],
            generator=torch.Generator().manual_seed(self.seed),
            dtype=torch.float32,
            device="cpu",
        )
        transposed = target.T.contiguous()
        right = self._fit(start, target, None, first)
        left = self._fit(right.values, transposed, None, first)
        for penalty in later:
            right = self._fit(left.values, target, right, penalty)
            left = self._fit(right.values, transposed, left, penalty)
        return left.values.T, _unit_rows(right.values)

    def _fit(self, other: Tensor, target: Tensor, factor: _Factor | None, penalty: float) -> _Factor:
        """ADMM steps for X (r, c) with otherᵀ X near `target` (k, c), after the rows of `other` (r, k) are
        normalized to norm 1.
        """
        fixed = _unit_rows(other)
        gram = fixed @ fixed.T
        gram.diagonal().add_(self.ridge + penalty)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
        product = fixed @ target
        if factor is None:
            factor = _projected(
                inverse @ product, torch.ones(target.shape[1], dtype=torch.float32, device="cpu")
            )
        for _ in range(self.inner):
            x = inverse @ (product + penalty * (factor.values - factor.dual))
            factor = _projected(x + factor.dual, factor.direction)
        return factor

    def rank(self, shape: tuple[int, int] | torch.Size) -> int:
        """The largest rank whose file takes no more than `bits` per weight; the smallest that the format
        allows when none does.
        """
        rows, columns = shape
        budget = self.bits * rows * columns / 8
        most = int(budget / (columns / 8)) + 1  # at this rank the rows of B alone exceed the budget
        return max(
            least_rank((rows, columns)),
            bisect_right(range(1, most + 1), budget, key=lambda rank: factors_nbytes((rows, columns), rank)),
        )

    def bits_bound(self, shape: tuple[int, int]) -> float:
        return 8 * factors_nbytes(shape, self.rank(shape)) / (shape[0] * shape[1])

    def paper_bits(self, quantized: QuantizedWeight) -> float | None:
        assert isinstance(quantized, FactorsWeight)
        rows, columns = quantized.shape
        return quantized.rank * (rows + columns) / (rows * columns)


def _damped(hessian: Tensor) -> Tensor:
    """The second moment (in, in) divided by its mean diagonal, damped until it is positive definite.
    ValueError if that needs too much damping.

    Columns that no token excites have only the weight of the damping. There is no feedback here, so they need
    no other diagonal.
    """
    relative = hessian / hessian.diagonal().mean().abs()
    damped = damped_moment(relative, DAMPING)
    damped.diagonal()[(hessian == 0).all(0)] = DAMPING
    return damped.float()


class _Factor(NamedTuple):
    """One factor in the middle of its fit."""

    values: Tensor  # Z (r, c): signs times a rank-1 matrix of magnitudes
    dual: Tensor  # U (r, c)
    direction: Tensor  # (c,) of norm 1: the right vector of the magnitudes


def _projected(wanted: Tensor, direction: Tensor) -> _Factor:
    """`wanted` (r, c) = Z + U with Z its signs times the rank-1 approximation of its magnitudes."""
    size = wanted.abs()
    for _ in range(POWER_ITERATIONS):
        across = size.T @ (size @ direction)
        direction = across / across.norm().clamp_min(TINY)
    values = torch.outer(size @ direction, direction).copysign(wanted)
    return _Factor(values, wanted - values, direction)


def _unit_rows(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True).clamp_min(TINY)


def _magnitudes(factor: Tensor) -> tuple[Tensor, Tensor]:
    """u (n,) and v (r,) of norm 1 and its scale, with |factor| (n, r) = u vᵀ."""
    size = factor.abs()
    v = size.sum(0)
    v = v / v.norm().clamp_min(TINY)
    return size @ v, v


def refit_scales(w: Tensor, decided: FactorsWeight, hessian: Tensor) -> FactorsWeight:
    """The same signs with better scales under `hessian` (in, in): least squares for one vector after the
    other. `decided` itself if that is no better.
    """
    left, right = as_signs(decided.left_signs), as_signs(decided.right_signs)
    row, middle, column = scales_of(decided)
    for _ in range(REFITS):
        outer, inner = left * row[:, None], right * column
        weighted = inner @ hessian
        middle = _descended(
            middle, (outer.T @ outer) * (weighted @ inner.T), ((outer.T @ w) * weighted).sum(1)
        )
        part = (outer * middle) @ right
        column = _descended(column, (part.T @ part) * hessian, ((part.T @ w) * hessian).sum(1))
        part = ((left * middle) @ right) * column
        weighted = part @ hessian
        energy = (weighted * part).sum(1)
        row = torch.where(energy > 0, (weighted * w).sum(1) / energy, row)
    if not all(bool(scale.isfinite().all()) for scale in (row, middle, column)):
        return decided
    trial = _stored(decided.left_signs, decided.right_signs, row, middle, column, 0)
    return trial if _loss(w, trial, hessian) < _loss(w, decided, hessian) else decided


def _descended(present: Tensor, gram: Tensor, rhs: Tensor) -> Tensor:
    """The solution of gram x = rhs, with a small ridge towards `present`: a scale that hardly any input
    excites keeps its value.
    """
    damped = gram.clone()
    damped.diagonal().add_(REFIT_RIDGE * gram.diagonal().mean() + TINY)
    return present + torch.linalg.solve(damped, rhs - gram @ present)


def _loss(w: Tensor, q: FactorsWeight, hessian: Tensor) -> float:
    difference = w - q.dequantize()
    return float(((difference @ hessian) * difference).sum())


def scales_of(q: FactorsWeight) -> tuple[Tensor, Tensor, Tensor]:
    """Row, middle and column scales in float32, 2^exponent in the row scales."""
    return q.row_scale.float() * 2.0**q.exponent, q.middle_scale.float(), q.column_scale.float()


def _stored(
    left: Tensor, right: Tensor, row: Tensor, middle: Tensor, column: Tensor, exponent: int
) -> FactorsWeight:
    """The weight with float16 scales, each vector divided by a suitable power of two; the weight is
    2^exponent times the product of the stored scales.
    """
    vectors, total = [], exponent
    for vector in (row, middle, column):
        power = int(vector.abs().max().frexp().exponent) - LARGEST_SCALE
        vectors.append(vector.ldexp(torch.tensor(-power, dtype=torch.float32, device="cpu")))
        total += power
    kept = min(max(total, -LARGEST_EXPONENT), LARGEST_EXPONENT)
    vectors[0] = vectors[0].ldexp(torch.tensor(total - kept, dtype=torch.float32, device="cpu"))
    return FactorsWeight(left, right, *(vector.half() for vector in vectors), exponent=kept)
