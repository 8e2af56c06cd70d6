"""Pooling: one vector for each row of hidden states, as models of embeddings use it.

    hidden (n, t, d), attention mask (n, t) ─ pool ─► vectors (n, d) of length one

VLM2Vec (Jiang et al., arXiv 2410.05160) takes the state of the last token. Others take the mean of all.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Pooling = Literal["last", "mean"]


def pool(hidden: Tensor, mask: Tensor, pooling: Pooling = "last") -> Tensor:
    """Vectors of length one, (n, d) float32, from hidden states (n, t, d) and the mask (n, t) of the tokens
    that are no padding, which may stand on either side.

    "last" is the state of the last token, "mean" the mean of all tokens. A vector of zeros stays zero; what
    is not finite stays so.
    """
    kept = mask.to(hidden.device).bool()
    if pooling == "mean":
        weights = kept[:, :, None].float()
        pooled = (hidden.float().where(kept[:, :, None], 0.0)).sum(1) / weights.sum(1).clamp(min=1)
    else:
        places = torch.arange(kept.shape[1], device=hidden.device)
        last = torch.where(kept, places, 0).amax(1)
        pooled = hidden[torch.arange(len(hidden), device=hidden.device), last].float()
    return torch.nn.functional.normalize(pooled, dim=1)


def drift(vectors: Tensor, reference: Tensor) -> Tensor:
    """1 - cosine of each row of vectors (n, d) of length one with that of a reference, (n,) float64, 0…2."""
    return 1 - (vectors.double() * reference.double()).sum(1).clamp(-1, 1)
