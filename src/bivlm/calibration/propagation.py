"""Error propagation: a weight that corrects the errors of the layers before it.

In the packed model a linear receives x; in the full-precision model it would receive x̂. Quantizing the
unchanged W aims at W x, but the target is W x̂. The weight with the smallest E ‖W x̂ - W* x‖² is

    W* = W + W E[(x̂ - x) xᵀ] (E[x xᵀ] + λI)⁻¹

(QEP, Arai and Ichikawa, arXiv 2504.09629; GPTAQ, arXiv 2504.02692). A strength below 1 takes part of the way:
the correction is learned from the calibration data, and all of it fits that data too closely.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bivlm.quantizers.steps.compensation import damped_moment
from bivlm.types import LinearStats, ModalityWeight

DAMPING = 0.01


def propagated(
    weight: Tensor, stats: LinearStats, strength: float, modality_weight: ModalityWeight = "tokens"
) -> Tensor:
    """`weight` (out, in) corrected for the residual of its inputs, float32; unchanged if `stats` has no
    residual or every input is zero.
    """
    residual = stats.residual(modality_weight)
    hessian = stats.second_moment(modality_weight)
    if residual is None or not strength or not bool((hessian.diagonal() != 0).any()):
        return weight
    damped = damped_moment(hessian, DAMPING)
    correction = torch.linalg.solve(
        damped, residual.double().T
    ).T  # residual · damped⁻¹, as damped is symmetric
    return weight.float() + strength * (weight.double() @ correction).float()
