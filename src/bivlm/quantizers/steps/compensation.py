"""The error-feedback loop, once: quantize column block by column block and push each block's error onto the
columns that are still to come.

The loop of GPTQ (arXiv 2210.17323) with the block's error recovered by one exact triangular solve, so that a
method may quantize a whole block at once. What differs between methods is one function: how a block of
columns becomes its quantized self.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

MOST_DAMPING = 1.0  # raised tenfold from the setting up to here before giving up

QuantizeColumns = Callable[[Tensor, Tensor, int], Tensor]
ErrorRule = Literal["exact", "diagonal"]


def inverse_factor(hessian: Tensor, damping: float) -> Tensor:
    """Upper U with H⁻¹ = UᵀU for the second moment (in, in) as `damped_moment` has it. Raises ValueError as
    that does.
    """
    _, lower = damped_moment(hessian, damping)
    return (
        torch.linalg.solve_triangular(lower, torch.eye(len(lower), dtype=lower.dtype), upper=False)
        .flip(0, 1)
        .float()
    )


def damped_moment(hessian: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """The second moment (in, in) in float64, `damping` times its mean diagonal added, and the lower Cholesky
    factor of it in reversed order.

    That is H = R Rᵀ with R upper, from which U = R⁻¹. Columns that no token excites get a diagonal of their
    own.

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
    (b, b) factor of H⁻¹ for them. `error_rule` says what a block that was quantized at once hands on: "exact"
    solves with u, "diagonal" divides by its diagonal, as the public code of BiLLM does, which treats the
    columns of a block as if they had been decided one after the other.
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
    """The order (in,) in which columns are decided: as they stand, or those with the strongest inputs first
    ("activation order" of GPTQ).
    """
    return (
        hessian.diagonal().argsort(descending=True, stable=True) if act_order else torch.arange(len(hessian))
    )


def column_by_column(
    quantize_column: Callable[[Tensor, int], Tensor], begin: Callable[[Tensor, int], None] | None = None
) -> QuantizeColumns:
    """The callback of `compensate` for methods that decide one column (out,) at a time, given its index:
    feedback inside the block as well (GPTQ).

    `begin(rest, index)` is called before each column with the columns of the block from it on, as the
    feedback has left them, (out, …): what a method needs that fits its scales to a group when the group's
    turn comes.
    """

    def quantize_columns(w: Tensor, u: Tensor, start: int) -> Tensor:
        columns = w.T.clone(
            memory_format=torch.contiguous_format
        )  # (b, out): the weights of a column lie together
        quantized = torch.empty_like(columns)
        for j, column in enumerate(columns):
            if begin is not None:
                begin(columns[j:].T, start + j)
            quantized[j] = quantize_column(column, start + j)
            columns[j + 1 :].addr_(u[j, j + 1 :], (column - quantized[j]) / u[j, j], alpha=-1)
        return quantized.T

    return quantize_columns
