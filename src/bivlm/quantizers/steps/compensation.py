"""The error-feedback loop of all methods: quantize one block of columns after the other and add each block's
error to the later columns.

This is the loop of GPTQ (arXiv 2210.17323). One exact triangular solve gives the error of a block, so a
method may quantize a whole block at once. Methods differ in one function: how a block of columns is
quantized.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

MOST_DAMPING = 1.0  # the damping is raised tenfold from the setting up to here before giving up

QuantizeColumns = Callable[[Tensor, Tensor, int], Tensor]
ErrorRule = Literal["exact", "diagonal"]


def inverse_factor(hessian: Tensor, damping: float) -> Tensor:
    """Upper U with H⁻¹ = UᵀU, where H is the second moment (in, in) after `damped_moment`. Raises ValueError
    as `damped_moment` does.
    """
    _, lower = damped_moment(hessian, damping)
    return (
        torch.linalg.solve_triangular(
            lower, torch.eye(len(lower), dtype=lower.dtype, device="cpu"), upper=False
        )
        .flip(0, 1)
        .float()
    )


def damped_moment(hessian: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """The second moment (in, in) in float64 with `damping` times its mean diagonal added, and its lower
    Cholesky factor in reversed order.

    That is H = R Rᵀ with R upper, from which U = R⁻¹. Columns that no token excites get a separate diagonal.

    Raises ValueError when `hessian` is not finite, or not positive definite even at the strongest damping; a
    damping above the setting is logged.
    """
    if not bool(hessian.isfinite().all()):
        raise ValueError(
            "the second moment of its inputs is not finite; the model overflows on the calibration data"
        )
    damped = hessian.double().clone()
    diagonal = damped.diagonal()
    mean = diagonal.mean()
    if mean <= 0:
        raise ValueError("its inputs are zero on all calibration samples; calibrate on other data")
    diagonal[diagonal <= 0] = mean
    strength = max(damping, 1e-8)
    while strength <= MOST_DAMPING:
        trial = damped.clone()
        trial.diagonal().add_(strength * mean)
        lower, failed = torch.linalg.cholesky_ex(trial.flip(0, 1))
        if not failed:
            if strength > max(damping, 1e-8):
                logger.warning(
                    "second moment of %d columns was not positive definite at damping %g; used %g",
                    len(damped),
                    damping,
                    strength,
                )
            return trial, lower
        strength *= 10
    raise ValueError(
        f"the second moment of its {len(damped)} inputs is not positive definite at damping {MOST_DAMPING};"
        " use more calibration samples"
    )


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
    back: "exact" solves with u, "diagonal" divides by its diagonal, as the public code of BiLLM does. That
    code treats the columns of a block as if they had been quantized one after the other.
    """
    starts = range(0, weight.shape[1], block_size)
    blocks = [slice(start, min(start + block_size, weight.shape[1])) for start in starts]
    return feed_back(weight, inverse_factor(hessian, damping), quantize_columns, blocks, error_rule)


def feed_back(
    weight: Tensor,
    u: Tensor,
    quantize_columns: QuantizeColumns,
    blocks: Sequence[slice],
    error_rule: ErrorRule = "exact",
) -> Tensor:
    """The loop itself, for the factor u (in, in) of H⁻¹ = UᵀU and blocks of columns of any widths, one after
    the other.
    """
    w = weight.float().clone()
    for block in blocks:
        right = slice(block.stop, None)
        quantized = quantize_columns(w[:, block], u[block, block], block.start)
        lost = w[:, block] - quantized
        if error_rule == "exact":
            error = torch.linalg.solve_triangular(u[block, block], lost, upper=True, left=False)
        else:
            error = lost / u[block, block].diagonal()
        w[:, right] -= error @ u[block, right]
        w[:, block] = quantized
    return w


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
