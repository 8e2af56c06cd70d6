"""How far the logits of a model are from a reference's, token by token: KL divergence and agreement of the
likeliest token.

KL(reference || model) = Σ_v p(v) (log p(v) - log q(v))     nats per token, p and q from the float32 softmax
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from bivlm.kl import kl_divergence

ROWS = 64  # tokens compared at a time; bounds the float32 copies of (tokens, vocabulary)


@dataclass(frozen=True)
class Fidelity:
    """Sums over tokens, so that batches add up."""

    tokens: int = 0
    kl_sum: float = 0.0  # nats, over the tokens that are finite in both
    agreed: int = 0  # tokens for which both models have the same likeliest next token
    non_finite: int = 0  # tokens with a NaN or an infinity among the logits of either

    def __add__(self, other: Fidelity) -> Fidelity:
        mine, theirs = asdict(self), asdict(other)
        return Fidelity(**{name: mine[name] + theirs[name] for name in mine})

    @property
    def kl(self) -> float | None:
        """Nats per finite token; None when there is none."""
        finite = self.tokens - self.non_finite
        return self.kl_sum / finite if finite else None

    @property
    def top1_agreement(self) -> float | None:
        """Share of the tokens; a token that is not finite counts as disagreement. None without tokens."""
        return self.agreed / self.tokens if self.tokens else None


@dataclass(frozen=True)
class Distances:
    """The distance of every token, all (k,): `kl` in nats, NaN where a logit is not finite; `agreed`, whether
    the likeliest token is the same; `finite`.
    """

    kl: Tensor
    agreed: Tensor
    finite: Tensor

    def of(self, tokens: Tensor | slice) -> Fidelity:
        """The sums over some of the tokens."""
        kl, agreed, finite = self.kl[tokens], self.agreed[tokens], self.finite[tokens]
        return Fidelity(
            tokens=len(kl),
            kl_sum=kl[finite].double().sum().item(),
            agreed=int(agreed.sum()),
            non_finite=int((~finite).sum()),
        )

    @property
    def total(self) -> Fidelity:
        """The sums over all tokens."""
        starts = range(0, len(self.kl), ROWS)
        return sum((self.of(slice(start, start + ROWS)) for start in starts), Fidelity())


def distances(reference: Tensor, logits: Tensor) -> Distances:
    """The distances of k tokens from the reference's logits and the model's, both (k, vocabulary)."""
    kl, agreed, finite = (
        torch.full((len(logits),), fill, device=logits.device) for fill in (torch.nan, False, False)
    )
    for start in range(0, len(logits), ROWS):
        rows = slice(start, start + ROWS)
        expected, given = reference[rows], logits[rows]
        usable = expected.isfinite().all(dim=-1) & given.isfinite().all(dim=-1)
        finite[rows] = usable
        kl[rows][usable] = kl_divergence(expected[usable], given[usable])
        agreed[rows][usable] = expected[usable].argmax(dim=-1) == given[usable].argmax(dim=-1)
    return Distances(kl, agreed, finite)


def compare(reference: Tensor, logits: Tensor) -> Fidelity:
    """Sums over k tokens for the reference's logits and the model's, both (k, vocabulary)."""
    if len(reference) != len(logits):
        raise ValueError(f"{len(reference)} and {len(logits)} tokens cannot be compared")
    return distances(reference, logits).total
