"""The definition of the searches in quantizers/steps/partition.py: every candidate is binarized anew over the
whole block, as the public code of BiLLM does.

Slow (a hundred and thirty passes over every weight), and what the fast searches are tested and timed against.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bivlm.quantizers.steps.partition import QUANTILES
from bivlm.quantizers.steps.residual import binarize


def falling_columns(target: Tensor) -> Tensor:
    """The columns (b,) of the salience `target` (out, b), those with the largest sums first."""
    return target.abs().sum(0).argsort(descending=True, stable=True)


def column_errors(target: Tensor, candidates: int) -> Tensor:
    """Squared error (candidates,) of binarizing the first 1, 2, … of the falling columns and the rest apart,
    both with order 2; float64.
    """
    order, errors = falling_columns(target), []
    for count in range(1, candidates + 1):
        mask = torch.zeros(target.shape, dtype=torch.bool)
        mask[:, order[:count]] = True
        q = torch.where(mask, binarize(target, mask, 2).values(), binarize(target, ~mask, 2).values())
        errors.append((target - q).double().square().sum())
    return torch.stack(errors)


def salient_columns(target: Tensor, most: int) -> Tensor:
    """What `partition.salient_columns` finds."""
    salient = torch.zeros(target.shape[1], dtype=torch.bool)
    candidates = min(most, target.shape[1] - 1)
    if candidates >= 1:
        salient[falling_columns(target)[: 1 + int(column_errors(target, candidates).argmin())]] = True
    return salient


def thresholds(target: Tensor, salient: Tensor) -> Tensor:
    """The 81 magnitudes that are tried, those of the salient columns counted as zero."""
    flat = torch.where(salient, 0.0, target).abs().reshape(-1)
    return torch.from_numpy(np.quantile(flat.numpy(), QUANTILES).astype(np.float32))


def threshold_errors(target: Tensor, salient: Tensor, tried: Tensor) -> Tensor:
    """Squared error (tried,) over the other columns of binarizing |w| < t and |w| >= t apart; float64."""
    errors = []
    for threshold in tried.tolist():
        large, small = (target.abs() >= threshold) & ~salient, (target.abs() < threshold) & ~salient
        q = torch.where(
            small,
            binarize(target, small, 1).values(),
            torch.where(large, binarize(target, large, 1).values(), target),
        )
        errors.append((target - q).double().square().sum())
    return torch.stack(errors)


def magnitude_threshold(target: Tensor, salient: Tensor) -> float:
    """What `partition.magnitude_threshold` finds."""
    if bool(salient.all()):
        return 0.0
    tried = thresholds(target, salient)
    return float(tried[int(threshold_errors(target, salient, tried).argmin())])
