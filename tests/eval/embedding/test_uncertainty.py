"""The likelihood against scipy's, the losses against the numbers of the public code, and what is learned."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from scipy import stats
from torch.nn.functional import normalize

from bivlm.errors import InputError
from bivlm.eval.embedding.uncertainty import (
    AdapterSettings,
    fit_adapter,
    judge_uncertainty,
    negative_log_likelihood,
    uncertainties,
    variance,
)

# inputs, on which the public code's functions were run, and its uncertainty map for them
PUBLIC = load_file(Path(__file__).parents[2] / "golden" / "seeds" / "probvlm.safetensors")
MEAN, INVERSE, SHAPE, TARGET = (PUBLIC[name] for name in ("mean", "one_over_alpha", "beta", "target"))
PUBLIC_LOSS, EXACT_LOSS = 2.254347085952759, 2.7999353408813477  # of these inputs


def test_the_exact_likelihood_is_that_of_scipy():
    alpha, beta = 1 / (INVERSE + 1e-4).double().numpy(), (SHAPE + 1e-4).double().numpy()
    density = stats.gennorm.logpdf(TARGET.double().numpy(), beta, loc=MEAN.double().numpy(), scale=alpha)
    found = negative_log_likelihood(MEAN, INVERSE, SHAPE, TARGET)
    assert float(found) == pytest.approx(-density.mean() - math.log(2), rel=1e-5)


def test_the_variance_is_that_of_scipy_and_the_map_that_of_the_public_code():
    alpha, beta = 1 / (INVERSE + 1e-4).double().numpy(), (SHAPE + 1e-4).double().numpy()
    expected = torch.from_numpy(stats.gennorm.var(beta, scale=alpha))
    torch.testing.assert_close(variance(INVERSE, SHAPE).double(), expected, rtol=1e-3, atol=0)
    torch.testing.assert_close(variance(INVERSE, SHAPE, "public"), PUBLIC["uncertainty"], rtol=1e-4, atol=0)


def test_both_losses_are_those_of_the_reference():
    """The public code's loss is linear in the residual; the exact one is another number."""
    given = (MEAN, INVERSE, SHAPE, TARGET)
    assert float(negative_log_likelihood(*given, form="public")) == pytest.approx(PUBLIC_LOSS, abs=2e-5)
    assert float(negative_log_likelihood(*given)) == pytest.approx(EXACT_LOSS, abs=2e-5)


def test_it_learns_which_queries_are_noisy():
    """Half of the queries have a target elsewhere: in their first dimension they say which."""
    random = torch.Generator().manual_seed(0)
    targets = normalize(torch.randn(80, 8, generator=random), dim=1)
    noisy = torch.arange(80) % 2 == 1
    vectors = targets + 0.4 * noisy[:, None] * torch.randn(80, 8, generator=random)
    vectors[:, 0] = noisy.float()
    adapter, losses = fit_adapter(vectors, targets, AdapterSettings(steps=120, width=32, learning_rate=5e-3))
    assert losses[-1] < losses[0] - 0.3
    found = uncertainties(adapter, vectors)
    assert found[noisy].mean() > 1.5 * found[~noisy].mean()
    assert torch.equal(found, uncertainties(adapter, vectors))
    judged = judge_uncertainty(found, [2 if one else 1 for one in noisy.tolist()])
    assert (judged.queries, judged.accuracy) == (80, 0.5)
    assert judged.correlation is not None
    assert judged.correlation > 0.8
    assert judge_uncertainty(found, [1] * 80).correlation is None


def test_an_adapter_needs_pairs():
    with pytest.raises(InputError, match="two pairs"):
        fit_adapter(torch.zeros(1, 4), torch.zeros(1, 4))
    with pytest.raises(InputError, match="NaN or infinite"):
        fit_adapter(torch.full((3, 4), math.nan), torch.zeros(3, 4))
