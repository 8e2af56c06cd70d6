"""The search for the exponent of column scales by what a module's output loses, as in AWQ (arXiv 2306.00978)
and MBQ (arXiv 2412.19509).

Linears that share an input share the scales of its columns. With x̄_j the mean |x_j| over tokens,

    s_j = max(x̄_j^α, 1e-4) / sqrt(max s · min s)
    α   = argmin over 0, 1/20, … 19/20 of the loss of the module with the weights Q(W diag(s)) diag(s)⁻¹

The loss is a weighted sum over the output's tokens of |Δ|, or of Δ². MBQ weighs visual tokens with the ratio
of their gradients to those of the answer's tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

Loss = Literal["mae", "mse"]
LEAST = 1e-4


def token_weights(visual: Tensor, answer: Tensor, ratio: float, loss: Loss) -> Tensor:
    """What the tokens count in MBQ's loss, (…) float32; `visual` and `answer` (…) bool mark them, and other
    tokens do not count. `ratio`: gradients of visual tokens over gradients of the answer's.

    "mae": (Σ_answer |Δ| + ratio Σ_visual |Δ|) / (N_answer + N_visual). "mse" is mean_answer Δ² + ratio
    mean_visual Δ², in which the numbers of tokens have no say. The public code has both.
    """
    answers, visuals = float(answer.sum()), float(visual.sum())
    if loss == "mae":
        return (answer.float() + ratio * visual.float()) / max(answers + visuals, 1.0)
    return answer.float() / max(answers, 1.0) + ratio * visual.float() / max(visuals, 1.0)


def scales_of(strength: Tensor, alpha: float) -> Tensor:
    """The scales (in,) of columns of this strength (in,); largest times smallest is 1."""
    scales = strength.pow(alpha).clamp_min(LEAST)
    return scales / (scales.max() * scales.min()).sqrt()


def search_scales(
    weights: Sequence[Tensor],
    strength: Tensor,
    rounded: Callable[[Tensor, Tensor], Tensor],
    output: Callable[[Sequence[Tensor]], Tensor],
    weight_of_tokens: Tensor | None,
    *,
    loss: Loss = "mae",
    steps: int = 20,
) -> tuple[float, Tensor]:
    """The exponent with the least loss, and its scales (in,).

    weights           (out, in) of the linears that share an input, in full precision
    strength          (in,) mean magnitude of the columns of the input
    rounded           (weight, scales): the quantized weight with these column scales, on the scale of the
                      original, (out, in)
    output            of the module that has these weights in their place, (…, d)
    weight_of_tokens  (…): what the output's tokens count (`token_weights`); None: all the same
    steps             exponents that are tried: 0, 1 / steps, … (steps - 1) / steps
    """
    exact = output(weights)
    best, chosen = torch.inf, 0.0
    for step in range(steps):
        scales = scales_of(strength, step / steps)
        difference = output([rounded(weight, scales) for weight in weights]) - exact
        lost = (difference.abs() if loss == "mae" else difference.square()).sum(-1)
        total = float((lost if weight_of_tokens is None else lost * weight_of_tokens).double().sum())
        if total < best:
            best, chosen = total, step / steps
    return chosen, scales_of(strength, chosen)
