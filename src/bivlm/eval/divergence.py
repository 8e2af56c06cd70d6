"""How far the logits of a model are from a reference's, token by token: KL divergence and agreement of the
likeliest token.

KL(reference || model) = Σ_v p(v) (log p(v) - log q(v))     nats per token, p and q from the float32 softmax
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

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


def compare(reference: Tensor, logits: Tensor) -> Fidelity:
    """Sums over k tokens for the reference's logits and the model's, both (k, vocabulary)."""
    total = Fidelity()
    for expected, given in zip(reference.split(ROWS), logits.split(ROWS), strict=True):
        finite = expected.isfinite().all(dim=-1) & given.isfinite().all(dim=-1)
        total += Fidelity(
            tokens=len(expected),
            kl_sum=kl_divergence(expected[finite], given[finite]).double().sum().item(),
            agreed=int((expected[finite].argmax(dim=-1) == given[finite].argmax(dim=-1)).sum()),
            non_finite=int((~finite).sum()),
        )
    return total
