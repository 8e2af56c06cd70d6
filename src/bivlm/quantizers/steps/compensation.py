"""The error-feedback loop of all methods: quantize one block of columns after the other and add each block's
error to the later columns.

This is the loop of GPTQ (arXiv 2210.17323). The error of a block is exact however it was quantized, so a
method may quantize a whole block at once. Methods differ in one function: how a block of columns is
quantized.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from bivlm.profile import part
from bivlm.quantizers.steps.in_place import (
    Turned,
    factor_lower_,
    reverse_,
    rounded_,
    turn_,
)

logger = logging.getLogger(__name__)

TAKEN_UP = 512  # columns that take up what is lost before them in one product: blocks may have 16 columns
SINGLE = 4096  # the factor of a moment with more columns is made in float32, where that suffices
ROUNDING = 0.01  # of a pivot, at most, for float32 to suffice
LEAST_DAMPING = 1e-8
MOST_DAMPING = 1.0  # the damping is raised tenfold from the setting up to here before giving up

QuantizeColumns = Callable[[Tensor, Tensor, int], Tensor]
ErrorRule = Literal["exact", "diagonal"]


def moment_factor(hessian: Tensor, damping: float, turned: Turned | None = None) -> Tensor:
    """Upper R (in, in) float32 with H = R Rᵀ, where H is the damped second moment (in, in) of
    `damped_moment`; with `turned`, of T `hessian` Tᵀ. Raises ValueError as `damped_moment` does.

    R_jj² is the pivot of column j: what an error of one there costs at least, whatever later columns do. It
    takes one float64 matrix besides `hessian`, and R stays in the memory of that; of a wide moment one of
    float32, which takes half the time and memory, unless its rounding would be felt.
    """
    with part("factorization"):
        lower = _single_factor(hessian, damping, turned) if len(hessian) > SINGLE else None
        if lower is None:
            lower, _ = _damped_factor(hessian, damping, turned)
        reverse_(lower)
        return lower if lower.dtype == torch.float32 else rounded_(lower)


def inverse_corner(factor: Tensor, block: slice) -> Tensor:
    """The factor U (b, b) float32 of the inverse for a block of columns, given R (in, in) of
    `moment_factor`: H⁻¹ = UᵀU with U = R⁻¹, and U's diagonal blocks are the inverses of R's.
    """
    corner = factor[block, block].double()
    one = torch.eye(len(corner), dtype=torch.float64, device=corner.device)
    return torch.linalg.solve_triangular(corner, one, upper=True).float()


def damped_moment(hessian: Tensor, damping: float) -> Tensor:
    """The second moment (in, in) in float64 with `damping` times its mean diagonal added, or more if it is
    not positive definite with it. Columns that no token excites get the mean as their diagonal.

    Raises ValueError when `hessian` is not finite, or not positive definite even at the strongest damping; a
    damping above the setting is logged.
    """
    _, strength = _damped_factor(hessian, damping)
    damped = hessian.double().clone()
    _damp(damped.diagonal(), strength)
    return damped


def _damped_factor(hessian: Tensor, damping: float, turned: Turned | None = None) -> tuple[Tensor, float]:
    """The lower Cholesky factor (in, in) float64 of the damped second moment with its rows and columns in
    reversed order, and the damping that it took. That is H = R Rᵀ with R upper.
    """
    if not bool(hessian.isfinite().all()):
        raise ValueError(
            "the second moment of its inputs is not finite; the model overflows on the calibration data"
        )
    if hessian.diagonal().double().mean() <= 0:
        raise ValueError("its inputs are zero on all calibration samples; calibrate on other data")
    lower = torch.empty(hessian.shape, dtype=torch.float64, device=hessian.device)
    strength = least = max(damping, LEAST_DAMPING)
    while strength <= MOST_DAMPING:
        _put_damped(lower, hessian, strength, turned)
        if factor_lower_(lower):
            if strength > least:
                logger.warning(
                    "second moment of %d columns was not positive definite at damping %g; used %g",
                    len(lower),
                    damping,
                    strength,
                )
            return lower, strength
        strength *= 10
    raise ValueError(
        f"the second moment of its {len(hessian)} inputs is not positive definite at damping {MOST_DAMPING};"
        " use more calibration samples"
    )


def _single_factor(hessian: Tensor, damping: float, turned: Turned | None) -> Tensor | None:
    """The factor of `_damped_factor` in float32 at the damping of the setting; None if it does not suffice:
    if rounding, √in · 2⁻²⁴ of the largest diagonal entry, is more than ROUNDING of the least pivot. That is
    the condition of the moment as far as the factorization feels it.
    """
    lower = torch.empty(hessian.shape, dtype=torch.float32, device=hessian.device)
    _put_damped(lower, hessian, max(damping, LEAST_DAMPING), turned)
    rounding = lower.diagonal().max() * (len(lower) ** 0.5 * torch.finfo(torch.float32).eps / 2)
    if not factor_lower_(lower):
        return None
    return lower if bool(rounding <= ROUNDING * lower.diagonal().square().min()) else None


def _put_damped(lower: Tensor, hessian: Tensor, strength: float, turned: Turned | None) -> None:
    """Put the damped moment, turned and with its rows and columns in reversed order, into `lower`."""
    lower.copy_(hessian)
    if turned is not None:
        turn_(lower, turned)
    reverse_(lower)
    _damp(lower.diagonal(), strength)


def _damp(diagonal: Tensor, strength: float) -> None:
    """Add `strength` times the mean to a diagonal (in,), in place; columns without inputs get the mean
    first.
    """
    mean = diagonal.mean()
    diagonal[diagonal <= 0] = mean
    diagonal += strength * mean


def compensate(
    weight: Tensor,
    hessian: Tensor,
    quantize_columns: QuantizeColumns,
    *,
    block_size: int,
    damping: float,
    error_rule: ErrorRule = "exact",
) -> Tensor:
    """The dequantized weight (out, in) after error feedback through `hessian` (in, in).

    `quantize_columns(w, u, start)` returns the dequantized columns start… of the block w (out, b); u is the
    (b, b) factor of H⁻¹ for them. `error_rule` says which error a block that was quantized at once feeds
    back: "exact" is that of the whole block, "diagonal" divides by the diagonal of u, as the public code of
    BiLLM does. That code treats the columns of a block as if they had been quantized one after the other.
    """
    blocks = even_blocks(weight.shape[1], block_size)
    return feed_back(weight, moment_factor(hessian, damping), quantize_columns, blocks, error_rule)


def even_blocks(columns: int, block_size: int) -> list[slice]:
    """The columns 0…columns-1 in blocks of `block_size`, one after the other; the last may be shorter."""
    return [slice(start, min(start + block_size, columns)) for start in range(0, columns, block_size)]


def feed_back(
    weight: Tensor,
    factor: Tensor,
    quantize_columns: QuantizeColumns,
    blocks: Sequence[slice],
    error_rule: ErrorRule = "exact",
    felt: Tensor | None = None,
) -> Tensor:
    """The loop itself, for R (in, in) of `moment_factor` and blocks of columns of any widths, one after the
    other.

    Before a block is quantized, it takes up what the blocks before it have lost, E: E R before it, through U
    of its own corner. No inverse of the whole moment is needed (LDLQ of QuIP, arXiv 2307.13304, which is
    GPTQ). Under the rule "diagonal", E is what would have had this effect. `felt` (out, in) is filled with
    E R in the end, whose squares are what the outputs lose.
    """
    w = weight.float().clone()
    lost, through = torch.zeros_like(w), torch.zeros_like(w[:, :0])
    start = end = 0
    for block in blocks:
        if block.stop > end:  # what is lost before these columns is multiplied for all of them at once
            start, end = block.start, max(block.stop, min(block.start + TAKEN_UP, w.shape[1]))
            through = lost[:, :start] @ factor[:start, start:end]
        u, near = inverse_corner(factor, block), slice(start, block.start)
        moved = through[:, block.start - start : block.stop - start]
        moved = (moved + lost[:, near] @ factor[near, block]) @ u
        w[:, block] += moved
        quantized = quantize_columns(w[:, block], u, block.start)
        error = w[:, block] - quantized
        if error_rule == "diagonal":
            error = (error / u.diagonal()) @ u
        lost[:, block] = error - moved
        if felt is not None:
            felt[:, block] = error @ factor[block, block]
        w[:, block] = quantized
    return w


def through_factor(weight: Tensor, factor: Tensor) -> Tensor:
    """W R (out, in) for a weight (out, in) and an upper R (in, in), half of which is not multiplied."""
    found = torch.empty_like(weight)
    for block in even_blocks(weight.shape[1], TAKEN_UP):
        found[:, block] = weight[:, : block.stop] @ factor[: block.stop, block]
    return found


def visiting_order(hessian: Tensor, act_order: bool) -> Tensor:
    """The order (in,) in which columns are quantized: their own order, or strongest inputs first ("activation
    order" of GPTQ).
    """
    return (
        hessian.diagonal().argsort(descending=True, stable=True)
        if act_order
        else torch.arange(len(hessian), dtype=torch.int64, device="cpu")
    )


def column_by_column(
    quantize_column: Callable[[Tensor, int], Tensor], begin: Callable[[Tensor, int], None] | None = None
) -> QuantizeColumns:
    """The callback of `compensate` for methods that quantize one column (out,) at a time, given its index:
    feedback inside the block as well (GPTQ).

    `begin(rest, index)` is called before each column with this and the later columns of the block, after
    feedback, (out, …). Methods use it to fit the scales of a group when the loop reaches the group.
    """

    def quantize_columns(w: Tensor, u: Tensor, start: int) -> Tensor:
        columns = w.T.clone(
            memory_format=torch.contiguous_format
        )  # (b, out): the weights of a column are contiguous
        quantized = torch.empty_like(columns)
        for j, column in enumerate(columns):
            if begin is not None:
                begin(columns[j:].T, start + j)
            quantized[j] = quantize_column(column, start + j)
            columns[j + 1 :].addr_(u[j, j + 1 :], (column - quantized[j]) / u[j, j], alpha=-1)
        return quantized.T

    return quantize_columns
