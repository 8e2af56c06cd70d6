"""How many weights are salient: the share that minimises the layer's binarization error J (Bi-VLM, arXiv
2509.18763, Eq. 20 and Alg. 3).

    J(p) = (||W_sal - a B_sal||² + sum over bands ||W_k - a_k B_k||²) / ||W||²,   p in [0, p_max]

The search is the bounded Brent method, as in the paper; J is not convex, so both ends are tried as well. The
bands' share of J comes from prefix sums over a histogram of |w| that is made once. The tail's share comes
from the weights beyond the lowest possible cut, which are extracted and sorted once.
"""

from __future__ import annotations

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from bivlm.quantizers.steps.gaussian_bands import MagnitudeHistogram, cuts
from bivlm.quantizers.steps.salient import SalientLevels, fit_tail


class SaliencyObjective:
    """J as a function of the salient share, for one weight (out, in) float32 and its settings."""

    def __init__(
        self,
        weight: Tensor,
        bands: int,
        salient_max: float,
        method: SalientLevels,
        *,
        rounds: int,
        alpha: float,
    ) -> None:
        self.bands, self.rounds, self.alpha = bands, rounds, alpha
        self.method: SalientLevels = method
        self.out = weight.shape[0]
        self.mean, self.std = weight.mean().double(), weight.std(correction=0).double()
        magnitude = weight.abs()
        self.histogram = MagnitudeHistogram(magnitude)
        self.total = float(self.histogram.square[-1])
        lowest = self.edges(salient_max)[-1]
        positions = (magnitude.reshape(-1) > lowest).nonzero()[:, 0]
        values = weight.reshape(-1)[positions].double()
        order = values.abs().argsort(descending=True, stable=True)
        self.values, self.rows = values[order], positions[order] // weight.shape[1]
        self.descending = -self.values.abs()

    def edges(self, salient: float) -> Tensor:
        return cuts(self.bands, salient, self.mean, self.std)

    def __call__(self, salient: float) -> float:
        """J at a salient share; 0 for a weight of zeros."""
        if self.total == 0:
            return 0.0
        edges = self.edges(salient)
        count = int(torch.searchsorted(self.descending, -edges[-1]))  # entries with |w| > the last cut
        rows, values = self.rows[:count], self.values[:count]
        tail = fit_tail(rows, values, self.out, self.method, rounds=self.rounds, alpha=self.alpha)
        return (self.histogram.band_error(edges) + tail.error(rows, values)) / self.total


def best_salient_share(objective: SaliencyObjective, salient_max: float) -> float:
    """The share in [0, salient_max] with the lowest J found."""
    if salient_max == 0:
        return 0.0
    found = minimize_scalar(
        objective,
        bounds=(0.0, salient_max),
        method="bounded",
        options={"xatol": salient_max / 100, "maxiter": 20},
    )
    return min((0.0, salient_max, float(found.x)), key=objective)
