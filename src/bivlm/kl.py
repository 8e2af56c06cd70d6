"""KL(reference || model) = Σ_v p(v) (log p(v) - log q(v)), nats per token, p and q from the float32 softmax
of raw logits.
"""

from __future__ import annotations

from torch import Tensor


def kl_divergence(reference: Tensor, logits: Tensor) -> Tensor:
    """The divergence (t,) of every row of `logits` (t, vocabulary) from the same row of `reference`, both
    raw.
    """
    log_p, log_q = reference.float().log_softmax(-1), logits.float().log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)
