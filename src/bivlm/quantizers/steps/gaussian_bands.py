"""Gaussian-quantile bands: a Gaussian is fitted to the weights, and its quantiles cut |w| into bands of equal
probability and a salient tail.

Bi-VLM (arXiv 2509.18763), Eq. 2-6: with p the salient share and N bands, p_u = (1 - p) / N and

    cut(k) = mean + std * Phi^-1((1 + k * p_u) / 2),  k = 1..N
    band k: cut(k-1) < |w| <= cut(k), with cut(0) = 0
    salient: |w| > cut(N)

The paper's cut(0) is the mean, which would leave weights out when the mean is positive; here the first band
starts at 0, and a negative cut is 0.
"""

from __future__ import annotations

import torch
from scipy.special import ndtri
from torch import Tensor

DROPPED_BITS = (
    12  # of the 23 mantissa bits of a float32: bins 2^-11 wide, finer than bfloat16 and float16 are
)


def cut_points(bands: int, salient: float) -> Tensor:
    """Phi^-1((1 + k p_u) / 2) for k = 1..bands: (bands,) float64, in standard deviations; the last one is
    infinite when `salient` is 0.
    """
    share = (1.0 - salient) / bands
    return torch.from_numpy(
        ndtri((1.0 + share * torch.arange(1, bands + 1, dtype=torch.float64, device="cpu").numpy()) / 2.0)
    )


def cuts(bands: int, salient: float, mean: Tensor, std: Tensor) -> Tensor:
    """The cuts of |w| for every fitted Gaussian: `mean` and `std` of any shape (…) give (…, bands),
    ascending, none below 0.
    """
    points = cut_points(bands, salient).to(std.dtype)
    spread = torch.where(torch.isinf(points), torch.inf, std[..., None] * points.nan_to_num(posinf=0.0))
    return (mean[..., None] + spread).clamp_min(0.0)


def band_of(magnitude: Tensor, edges: Tensor) -> Tensor:
    """Which band each magnitude falls in: 0..bands-1, and `bands` for the tail. `edges` (…, bands) broadcasts
    against `magnitude` (…); uint8.
    """
    band = torch.zeros(magnitude.shape, dtype=torch.uint8, device="cpu")
    for k in range(edges.shape[-1]):
        band += magnitude > edges[..., k]
    return band


class MagnitudeHistogram:
    """Prefix sums over the magnitudes of a weight, so that the error of any bands costs a few look-ups.

    The bins are float32 numbers without their last 12 bits: exact for bfloat16 and float16 weights, within
    2^-12 for float32.
    """

    def __init__(self, magnitude: Tensor) -> None:
        keys = magnitude.reshape(-1).view(torch.int32) >> DROPPED_BITS
        counts = torch.bincount(keys)
        used = counts.nonzero()[:, 0]
        value = (used.to(torch.int32) << DROPPED_BITS).view(torch.float32).double()
        counts = counts[used].double()
        start = torch.zeros(1, dtype=torch.float64, device="cpu")
        self.value = value
        self.count = torch.cat([start, counts.cumsum(0)])
        self.sum = torch.cat([start, (counts * value).cumsum(0)])
        self.square = torch.cat([start, (counts * value * value).cumsum(0)])

    def band_error(self, edges: Tensor) -> float:
        """Sum over the bands of ||W_k - a_k B_k||² with a_k = mean |w| of band k (Eq. 15-19); the tail beyond
        the last edge is left out.
        """
        places = torch.searchsorted(self.value, edges.double().contiguous(), right=True)
        places = torch.cat([torch.zeros(1, dtype=torch.int64, device="cpu"), places])
        count, total, square = (sums[places].diff() for sums in (self.count, self.sum, self.square))
        return float((square - total * total / count.clamp_min(1.0)).clamp_min(0.0).sum())
