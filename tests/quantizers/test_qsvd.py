"""QSVD against its public code (tests/golden/seeds), and what its settings promise."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bivlm.contracts.quantizer import stats_of, trace_error, weight_of
from bivlm.errors import InputError
from bivlm.quantizers import QSVD
from bivlm.quantizers.qsvd import split_factors
from bivlm.types import LinearStats

PUBLIC = load_file(Path(__file__).parents[1] / "golden" / "seeds" / "qsvd.safetensors")
SPLITS = {"UV": 0.5, "0.2": 0.2}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("layer", [0, 1])
def test_the_factors_are_those_of_the_public_code(layer, split):
    """With its whitening and the singular values that it keeps; signs and order of them are of no
    consequence.
    """
    whole = torch.cat([PUBLIC[f"{layer}.{name}.weight"] for name in "qkv"]).double()
    root = PUBLIC[f"{layer}.strength"].double().sqrt().diag()
    u, s, v = torch.linalg.svd(whole @ root, full_matrices=False)
    assert torch.allclose(s.float(), PUBLIC[f"{layer}.singular_values"], rtol=1e-4, atol=1e-5)
    left, right = split_factors(u, s, v, PUBLIC[f"{layer}.kept"], SPLITS[split], root)
    theirs = torch.cat([PUBLIC[f"{layer}.{name}.left.{split}"] for name in "qkv"]).double()
    other = PUBLIC[f"{layer}.right.{split}"].double()
    assert torch.allclose(left @ right, theirs @ other, rtol=0, atol=1e-4)
    for mine, public in ((left.T, theirs.T), (right, other)):
        assert torch.allclose(mine.norm(dim=1).sort()[0], public.norm(dim=1).sort()[0], rtol=1e-3)


def uneven(rows, columns, seed=0):
    """Weights of falling singular values."""
    u, s, v = torch.linalg.svd(weight_of((rows, columns), seed), full_matrices=False)
    return (u * s * torch.arange(1, len(s) + 1) ** -1.0) @ v


def test_the_full_moment_is_a_better_whitening_than_its_diagonal():
    w, stats = uneven(48, 64), stats_of(64)
    loss = {
        whitening: trace_error(
            w, QSVD(rank=12, factors="raw", whitening=whitening).quantize(w, stats), stats.hessian
        )
        for whitening in ("moment", "diagonal")
    }
    assert loss["moment"] < loss["diagonal"]


def test_grouped_queries_are_cut_by_their_own_rows():
    """q has three times the rows of k and v; together they have rank 8, and raw factors lose nothing else."""
    random = torch.Generator().manual_seed(0)
    whole = torch.randn(50, 8, generator=random) @ torch.randn(8, 24, generator=random)
    weights = list(whole.split([30, 10, 10]))
    made = QSVD(rank=8, factors="raw").quantize_group(weights, stats_of(24))
    for weight, found in zip(weights, made, strict=True):
        assert found.shape == tuple(weight.shape)
        assert float((found.dequantize() - weight).norm() / weight.norm()) < 2e-3
    assert made[0].right is made[1].right is made[2].right


def test_a_shared_factor_leaves_bits_for_a_larger_rank():
    weights = [weight_of((40, 64), seed) for seed in range(3)]
    method = QSVD(bits=8.0, factors="raw")
    together, alone = method.quantize_group(weights, stats_of(64)), method.quantize(weights[0], stats_of(64))
    assert together[0].rank > alone.rank


@pytest.mark.parametrize(("rank", "rows"), [(65, (64, 64)), (7, (2, 4))])
def test_a_rank_that_is_larger_than_the_weights_is_refused(rank, rows):
    with pytest.raises(InputError, match=rf"the rank {rank} is larger than .* give at most"):
        QSVD(rank=rank).quantize_group([weight_of((own, 64)) for own in rows], stats_of(64))


@pytest.mark.parametrize("shape", [(1, 64), (64, 1), (1, 1)])
def test_a_weight_of_one_row_or_column_has_rank_one(shape):
    found = QSVD(factors="raw").quantize(weight_of(shape), stats_of(shape[1]))
    assert found.rank == 1
    assert float((found.dequantize() - weight_of(shape)).abs().max()) < 1e-3


def test_a_weight_of_nan_is_refused():
    w = weight_of((4, 8))
    w[0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        QSVD().quantize_group([weight_of((4, 8)), w], LinearStats({"text": torch.eye(8)}, {"text": 9}))
