"""Cholesky factor and triangular inverse in the memory of the matrix itself, block by block.

torch makes a new matrix for each of the two steps. For a linear with 11 008 inputs each one takes a gigabyte.
(Golub and Van Loan, Matrix Computations, 4.2.6: blocked Cholesky, left-looking.)
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 512


def factor_lower_(matrix: Tensor) -> bool:
    """Put the lower Cholesky factor of a symmetric matrix (n, n) in its place, zeros above. False, with the
    matrix destroyed, if it is not positive definite.
    """
    count = len(matrix)
    for start in range(0, count, BLOCK):
        end = min(start + BLOCK, count)
        panel = matrix[start:, start:end]
        if start:
            panel.addmm_(matrix[start:, :start], matrix[start:end, :start].T, alpha=-1)
        corner, failed = torch.linalg.cholesky_ex(panel[: end - start])
        if failed:
            return False
        panel[: end - start] = corner
        below = panel[end - start :]
        if len(below):
            below.copy_(torch.linalg.solve_triangular(corner.T, below, upper=True, left=False))
        matrix[:start, start:end] = 0.0
    return True


def invert_lower_(lower: Tensor) -> None:
    """Put the inverse of a lower triangular matrix (n, n), zeros above its diagonal, in its place."""
    count = len(lower)
    for start in range(0, count, BLOCK):
        end = min(start + BLOCK, count)
        corner = lower[start:end, start:end].clone()
        if start:
            left = lower[start:end, :start] @ lower[:start, :start]
            lower[start:end, :start] = torch.linalg.solve_triangular(corner, left.neg_(), upper=False)
        one = torch.eye(end - start, dtype=lower.dtype, device=lower.device)
        lower[start:end, start:end] = torch.linalg.solve_triangular(corner, one, upper=False)
