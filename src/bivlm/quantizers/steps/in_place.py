"""From a second moment to its factor, in the memory of one float64 matrix, block by block.

torch makes a new matrix for each of these steps. For a linear with 11 008 inputs each one takes a gigabyte.
(Golub and Van Loan, Matrix Computations, 4.2.6: blocked Cholesky, left-looking.)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BLOCK = 256
Turned = Callable[[Tensor], Tensor]  # R x for every row x (n, in) float32, R orthogonal


def turn_(matrix: Tensor, turned: Turned) -> None:
    """R H Rᵀ in the place of H (in, in), each row and column rounded to float32."""
    for rows in matrix.split(BLOCK):
        rows.copy_(turned(rows.float()))
    for columns in matrix.split(BLOCK, dim=1):
        columns.copy_(turned(columns.T.float().contiguous()).T)


def reverse_(matrix: Tensor) -> None:
    """The rows and columns of (n, n) in reversed order, in their place."""
    count = len(matrix)
    for start in range(0, count // 2, BLOCK):
        end = min(start + BLOCK, count // 2)
        above, below = matrix[start:end], matrix[count - end : count - start]
        saved = above.flip(0, 1)
        above.copy_(below.flip(0, 1))
        below.copy_(saved)
    if count % 2:
        matrix[count // 2] = matrix[count // 2].flip(0)


def rounded_(matrix: Tensor) -> Tensor:
    """The float64 matrix (n, n), contiguous, as float32 in the first half of its memory."""
    count = len(matrix)
    narrow = matrix.view(torch.float32).view(-1)[: count * count].view(count, count)
    for start in range(0, count, BLOCK):  # a row of half the size ends where its source begins, or before
        end = min(start + BLOCK, count)
        narrow[start:end] = matrix[start:end].float()
    return narrow


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
