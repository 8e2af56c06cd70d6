"""Masked residual binarization: a mean and a sum of scaled sign planes for some of the weights of each row.

BiLLM (arXiv 2402.04291), Eq. 5-8. Order by order, over the masked weights of a row, with r the residual so
far:

    mean_k = mean(r)        scale_k = mean |r - mean_k|
    sign_k = sign(r - mean_k)        r ← r - mean_k - scale_k * sign_k

The means of the orders only ever appear as their sum, so one is enough to store.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bivlm.formats.encoding.numbers import as_signs


@dataclass(frozen=True)
class Binarized:
    """`mean` (out,), `scales` (out, K) and `signs` (K, out, b) of ±1.0; in rows without a masked weight, mean
    and scales are zero.
    """

    mean: Tensor
    scales: Tensor
    signs: Tensor

    def values(self) -> Tensor:
        """(out, b): the binarized weight, as if every weight were masked."""
        return self.mean[:, None] + torch.einsum("ok,kob->ob", self.scales, self.signs)


def binarize(w: Tensor, mask: Tensor, order: int) -> Binarized:
    """Binarize the weights of `w` (out, b) where `mask` (out, b), with `order` sign planes."""
    count = mask.sum(1).clamp_min(1)
    rest = torch.where(mask, w, 0.0)
    mean, scales, signs = torch.zeros(len(w), dtype=torch.float32, device="cpu"), [], []
    for _ in range(order):
        centre = rest.sum(1) / count
        centred = torch.where(mask, rest - centre[:, None], 0.0)
        scale = centred.abs().sum(1) / count
        sign = as_signs(centred >= 0)
        rest = torch.where(mask, centred - scale[:, None] * sign, 0.0)
        mean = mean + centre
        scales.append(scale)
        signs.append(sign)
    return Binarized(mean, torch.stack(scales, 1), torch.stack(signs))
