"""How unsure a search can be, from frozen vectors: a small adapter gives a distribution for every vector.

    vector v (d,) ─ two linears, a residual ─► μ (d,), 1/α (d,), β (d,): a generalised Gaussian in every dim

    p(x) = β / (2 α Γ(1/β)) exp(-(|x - μ| / α)^β),  variance α² Γ(3/β) / Γ(1/β)

(Upadhyay et al., "ProbVLM", ICCV 2023, arXiv 2307.00398.) A query's adapter learns to say where its right
document lies, with the likelihood of that density. The paper's public code (ExplainableML/ProbVLM) has
another loss, in which the residual enters linearly, (|x - μ| / α) β: `form="public"`. The model whose
vectors these are is not changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from bivlm.errors import InputError
from bivlm.eval.confidence import uncertainty_over_bins

Form = Literal["exact", "public"]
LEAST = 1e-4  # added to 1/α and β, as the public code does
LEAST_RESIDUAL, MOST_RESIDUAL = 1e-4, 1e3  # of the public loss
PASSES = 15  # with dropout, for the uncertainty of the adapter itself


def negative_log_likelihood(
    mean: Tensor, inverse_scale: Tensor, shape: Tensor, target: Tensor, form: Form = "exact"
) -> Tensor:
    """The mean negative log likelihood (nats per dim, without the constant log 2) of `target` under
    generalised Gaussians with 1/α `inverse_scale` and β `shape`; "public" is the loss of the public code.
    """
    inverse, beta = inverse_scale + LEAST, shape + LEAST
    away = (mean - target).abs() * inverse
    if form == "public":
        away = (away * beta).clamp(LEAST_RESIDUAL, MOST_RESIDUAL)
    else:
        away = away.clamp(min=1e-12) ** beta
    return (away - inverse.log() + torch.lgamma(1 / beta) - beta.log()).mean()


def variance(inverse_scale: Tensor, shape: Tensor, form: Form = "exact") -> Tensor:
    """The variance α² Γ(3/β) / Γ(1/β) of every dim; "public" is the map of the public code, with α at most 5
    and 0.1 added to β.
    """
    if form == "public":
        scale, beta = (1 / (inverse_scale + 1e-5)).clamp(1e-4, 5), (shape + 0.1).clamp(0.1, 5)
    else:
        scale, beta = 1 / (inverse_scale + LEAST), shape + LEAST
    return scale**2 * (torch.lgamma(3 / beta) - torch.lgamma(1 / beta)).exp()


class Adapter(nn.Module):
    """Frozen vectors (n, d) to μ, 1/α and β, each (n, d). The last two are above 0 (softplus; the public code
    uses a ReLU, whose exact zeros have no likelihood), and start at α = 0.1 and β = 2, a normal distribution.
    """

    def __init__(self, dimensions: int, width: int, dropout: float) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(dimensions, width), nn.ReLU(), nn.Dropout(dropout))
        self.mean = nn.Linear(width, dimensions)
        self.inverse_scale, self.shape = nn.Linear(width, dimensions), nn.Linear(width, dimensions)
        for head, start in ((self.mean, 0.0), (self.inverse_scale, 10.0), (self.shape, 1.8546)):
            nn.init.normal_(head.weight, std=1e-2)
            nn.init.constant_(head.bias, start)

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        inner = self.body(vectors)
        positive = nn.functional.softplus
        return vectors + self.mean(inner), positive(self.inverse_scale(inner)), positive(self.shape(inner))


@dataclass(frozen=True)
class AdapterSettings:
    """How an adapter is trained: `steps` of Adam on all pairs at once, `width` inner units."""

    steps: int = 300
    width: int = 256
    dropout: float = 0.3
    learning_rate: float = 1e-3
    form: Form = "exact"
    seed: int = 0


def fit_adapter(
    vectors: Tensor, targets: Tensor, settings: AdapterSettings | None = None
) -> tuple[Adapter, list[float]]:
    """The adapter that says where the target of each vector lies, both (n, d), and the loss of every step.
    Raises InputError for fewer than two pairs, and for vectors that are not finite.
    """
    chosen = AdapterSettings() if settings is None else settings
    if len(vectors) < 2 or vectors.shape != targets.shape:
        raise InputError(f"an adapter learns from two pairs of vectors or more, and has {len(vectors)}")
    if not (vectors.isfinite().all() and targets.isfinite().all()):
        raise InputError("an adapter cannot learn from vectors that are NaN or infinite")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(chosen.seed)
        adapter = Adapter(vectors.shape[1], chosen.width, chosen.dropout)
        optimizer, losses = torch.optim.Adam(adapter.parameters(), lr=chosen.learning_rate), []
        for _ in range(chosen.steps):
            mean, inverse_scale, shape = adapter(vectors)
            loss = negative_log_likelihood(mean, inverse_scale, shape, targets, chosen.form)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    return adapter.eval(), losses


@torch.no_grad()
def uncertainties(adapter: Adapter, vectors: Tensor, passes: int = PASSES, seed: int = 0) -> Tensor:
    """The uncertainty (n,) of vectors (n, d): the mean variance over dims, of the distributions and of their
    means under dropout (`passes` of it; 0 for none).
    """
    _, inverse, shape = adapter(vectors)
    found = variance(inverse, shape).mean(1)
    if passes < 2:
        return found
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapter.train()
        means = torch.stack([adapter(vectors)[0] for _ in range(passes)])
        adapter.eval()
    return found + means.var(0).mean(1)


@dataclass(frozen=True)
class UncertaintyResult:
    """What uncertainty says about a search, over bins of equal mass by uncertainty: Spearman's `correlation`
    of the bins' mean uncertainty and mean error (1 - hit@1), and `r2` of a line through them; None where all
    errors are alike. `accuracy` is hit@1 of all queries.
    """

    queries: int
    accuracy: float
    correlation: float | None
    r2: float | None


def judge_uncertainty(found: Tensor, first_ranks: Sequence[int]) -> UncertaintyResult:
    """The uncertainties (n,) of queries next to the ranks of their first right documents."""
    hits = [float(rank == 1) for rank in first_ranks]
    correlation, r2 = uncertainty_over_bins(found.tolist(), hits)
    return UncertaintyResult(len(hits), sum(hits) / len(hits), correlation, r2)
