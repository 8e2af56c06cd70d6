"""Closed-form refit: scales, means or levels that minimise tr((W-Q) H (W-Q)ᵀ) with unchanged codes.

A quantized weight is linear in its continuous numbers: Q[i, j] = Σ_k θ[i, g(j), k] * basis[k, i, j]. Per row
the best θ solves a small linear system. The step starts from the present numbers and is damped towards them,
so a number that hardly any input excites keeps its value.
"""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 1e-3  # of the system's own diagonal
NUMBERS = 1 << 24  # float32 numbers of the largest temporary


def refitted(w: Tensor, theta: Tensor, basis: Tensor, hessian: Tensor, group_size: int) -> Tensor:
    """Better θ (out, G, K) for the weight `w` (out, in), from the present `theta`; `basis` is (K, out, in),
    `hessian` (in, in).
    """
    rows = max(1, NUMBERS // (basis.shape[0] * theta.shape[1] * theta.shape[2] * max(w.shape[1] // 8, 1)))
    pieces = [
        _refit_rows(w[i : i + rows], theta[i : i + rows], basis[:, i : i + rows], hessian, group_size)
        for i in range(0, w.shape[0], rows)
    ]
    return torch.cat(pieces)


def expand(theta: Tensor, basis: Tensor, group_size: int) -> Tensor:
    """Q (out, in) of θ."""
    columns = torch.arange(basis.shape[-1], dtype=torch.int64, device="cpu") // group_size
    return torch.einsum("kij,ijk->ij", basis, theta[:, columns])


def better_rows(w: Tensor, old: Tensor, new: Tensor, hessian: Tensor) -> Tensor:
    """Which rows (out,) have a smaller error in `new` (out, in) than in `old`. With it a refit that became
    worse by rounding to its stored precision is not used.
    """

    def loss(q: Tensor) -> Tensor:
        difference = w - q
        return ((difference @ hessian) * difference).sum(1)

    return loss(new) < loss(old)


def _refit_rows(w: Tensor, theta: Tensor, basis: Tensor, hessian: Tensor, group_size: int) -> Tensor:
    rows, groups, kinds = theta.shape
    columns = w.shape[1]
    residual = (w - expand(theta, basis, group_size)) @ hessian  # (rows, in)
    right = _sum_groups(basis * residual, group_size)  # (K, rows, G)
    normal = torch.empty(rows, groups, kinds, groups, kinds, dtype=torch.float32, device="cpu")
    for group in range(groups):
        inside = slice(group * group_size, min((group + 1) * group_size, columns))
        through = basis[:, :, inside] @ hessian[inside]  # (K, rows, in)
        for kind in range(kinds):
            normal[:, group, kind] = _sum_groups(basis * through[kind], group_size).permute(1, 2, 0)
    unknowns = groups * kinds
    system = normal.reshape(rows, unknowns, unknowns)
    system = (system + system.mT) / 2
    diagonal = system.diagonal(dim1=1, dim2=2)
    system.diagonal(dim1=1, dim2=2).add_(RIDGE * diagonal + 1e-9 * diagonal.mean(1, keepdim=True) + 1e-30)
    step = torch.linalg.solve(system, right.permute(1, 2, 0).reshape(rows, unknowns))
    return theta + step.reshape(theta.shape)


def _sum_groups(values: Tensor, group_size: int) -> Tensor:
    """(K, rows, in) summed over each group of columns: (K, rows, G)."""
    missing = -values.shape[-1] % group_size
    padded = torch.nn.functional.pad(values, (0, missing)) if missing else values
    return padded.reshape(*values.shape[:-1], -1, group_size).sum(-1)
