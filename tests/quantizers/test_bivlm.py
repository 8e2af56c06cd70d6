"""Odd weights, wrong settings, and what the settings beyond the letter are there for."""

import pytest
import torch
from pydantic import ValidationError

from bivlm.formats.levels import LevelsWeight
from bivlm.quantizers import BiVLM
from bivlm.types import LinearStats

METHODS = {
    "default": BiVLM(),
    "letter": BiVLM(bands=5, salient_max=0.05, salient_levels="paper"),
    "no tail": BiVLM(bands=1, salient_max=0.0),
    "row": BiVLM(bands=3, granularity="row"),
    "group": BiVLM(granularity="group", group_size=16),
    "row, compensated": BiVLM(granularity="row", compensate=True, block_size=8),
    "group, compensated": BiVLM(bands=1, granularity="group", group_size=16, compensate=True),
}


def gaussian(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def with_outlier(size: float) -> torch.Tensor:
    w = gaussian(24, 40)
    w[3, 5] = size
    return w


WEIGHTS = {
    "zeros": torch.zeros(8, 12),
    "constant": torch.full((8, 12), 0.7),
    "negative constant": torch.full((8, 12), -0.7),
    "two values": gaussian(8, 12).sign(),
    "one row": gaussian(1, 33),
    "one column": gaussian(33, 1),
    "1x1": torch.tensor([[-0.3]]),
    "1x1 zero": torch.zeros(1, 1),
    "odd width": gaussian(7, 131),
    "one over a group": gaussian(16, 17),
    "bfloat16": gaussian(24, 40).bfloat16(),
    "float16": gaussian(24, 40).half(),
    "float64": gaussian(24, 40).double(),
    "1e30": gaussian(24, 40) * 1e30,
    "1e-30": gaussian(24, 40) * 1e-30,
    "near the largest of float32": gaussian(24, 40).clamp(-1, 1) * 1e38,
    "subnormal": gaussian(24, 40) * 1e-41,
    "mean far above 0": gaussian(24, 40) + 20,
    "mean far below 0": gaussian(24, 40) - 20,
    "massive outlier": with_outlier(1e4),
    "outlier beyond float16": with_outlier(-1e9),
    "zero rows": gaussian(24, 40) * (torch.arange(24) % 2)[:, None],
    "rows far apart": gaussian(24, 40) * torch.logspace(-6, 6, 24)[:, None],
    "not contiguous": gaussian(40, 24).T,
}


def stats_for(columns: int, seed: int = 1) -> LinearStats:
    """Correlated inputs, one of them ten times as large."""
    x = gaussian(4 * columns + 8, columns, seed) @ (
        torch.eye(columns) + 0.3 * gaussian(columns, columns, seed + 1)
    )
    x[:, 0] *= 10
    return LinearStats(second_moments={"text": x.T @ x / len(x)}, tokens={"text": len(x)})


def quantized(method: BiVLM, w: torch.Tensor) -> LevelsWeight:
    return method.quantize(w, stats_for(w.shape[1]) if method.needs_data else None)


def relative_error(w: torch.Tensor, q: LevelsWeight) -> float:
    difference = q.dequantize().double() - w.double()
    return float(difference.square().sum() / w.double().square().sum())


@pytest.mark.parametrize("w", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_odd_weights_stay_finite_and_survive_the_file(method, w):
    q = quantized(method, w)
    assert q.shape == tuple(w.shape)
    assert bool(q.dequantize().isfinite().all())
    assert LevelsWeight.decode(q.encode()) == q


@pytest.mark.parametrize("name", ["constant", "negative constant", "two values"])
def test_a_single_magnitude_is_kept(name):
    torch.testing.assert_close(
        BiVLM().quantize(WEIGHTS[name], None).dequantize(), WEIGHTS[name], rtol=2e-3, atol=0
    )


def test_zeros_stay_zeros():
    for method in METHODS.values():
        assert not quantized(method, torch.zeros(8, 40)).dequantize().any()


@pytest.mark.parametrize("size", [1e30, 1e-30, 3.0])
def test_scaling_a_weight_scales_what_becomes_of_it(size):
    w = gaussian(24, 40)
    plain, scaled = (BiVLM().quantize(weight, None).dequantize().double() for weight in (w, w * size))
    torch.testing.assert_close(scaled / size, plain, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("mean", [20.0, -20.0])
def test_mean_far_from_zero_loses_no_weight(mean):
    w = gaussian(24, 40) + mean
    assert relative_error(w, BiVLM(granularity="layer").quantize(w, None)) < 0.01


def test_one_massive_outlier_is_kept_and_so_are_the_others():
    w = with_outlier(100.0)
    q = BiVLM(bands=2, salient_max=0.05).quantize(w, None).dequantize()
    assert float(q[3, 5]) == pytest.approx(100, rel=0.01)
    w[3, 5] = q[3, 5] = 0
    assert float((w - q).square().sum() / w.square().sum()) < 0.6


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_weights_that_are_not_finite_are_refused(method, value):
    w = gaussian(8, 40)
    w[2, 3] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        quantized(method, w)


@pytest.mark.parametrize(
    "wrong",
    [
        {"bands": 9},
        {"bands": 0},
        {"salient_max": 0.6},
        {"salient_max": -0.1},
        {"salient_levels": "kmeans"},
        {"rounds": 0},
        {"alpha": 0.0},
        {"granularity": "column"},
        {"group_size": 0},
        {"damping": 0.0},
        {"block_size": 0},
        {"band": 2},
    ],
    ids=str,
)
def test_wrong_settings_fail_at_construction(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        BiVLM(**wrong)


def test_more_bands_and_finer_scopes_are_better():
    """Rows of unequal scale, which one set of cuts cannot serve: errors relative to every row's own
    weights.
    """
    w = gaussian(32, 256) * torch.logspace(-1, 1, 32)[:, None]

    def of(**fields) -> float:
        difference = BiVLM(**fields).quantize(w, None).dequantize() - w
        return float((difference.square().sum(1) / w.square().sum(1)).mean())

    bands = [of(bands=n, granularity="row") for n in (1, 2, 3, 5, 8)]
    assert bands == sorted(bands, reverse=True)
    layer, row, group = (of(granularity=scope, group_size=16) for scope in ("layer", "row", "group"))
    assert layer > 2 * row
    assert row > 1.02 * group


def test_a_group_as_wide_as_the_row_is_the_row():
    w = gaussian(16, 48)
    assert BiVLM(granularity="group", group_size=48).quantize(w, None) == BiVLM(granularity="row").quantize(
        w, None
    )
    assert BiVLM(granularity="group", group_size=128).quantize(w, None) == BiVLM(granularity="row").quantize(
        w, None
    )


def test_shares_stay_near_the_most_that_was_allowed():
    w = gaussian(256, 256)
    for granularity in ("layer", "row"):
        tail = (
            len(BiVLM(bands=1, salient_max=0.05, granularity=granularity).quantize(w, None).tail_positions)
            / w.numel()
        )
        assert 0.04 < tail < 0.06


@pytest.mark.parametrize("salient_levels", ["paper", "lloyd"])
def test_settings_beyond_the_letter_lower_the_error(salient_levels):
    w = gaussian(64, 256) * (1 + 2 * torch.rand(64, 1, generator=torch.Generator().manual_seed(5)))
    letter = BiVLM(salient_max=0.05, salient_levels="paper").quantize(w, None)
    other = BiVLM(salient_max=0.05, salient_levels=salient_levels, granularity="row").quantize(w, None)
    assert relative_error(w, other) < relative_error(w, letter)


@pytest.mark.parametrize("method", [method for method in METHODS.values() if method.needs_data], ids=repr)
def test_second_moment_that_is_not_finite_is_refused(method):
    hessian = torch.eye(40)
    hessian[3, 3] = float("nan")
    with pytest.raises(ValueError, match="second moment of its inputs is not finite"):
        method.quantize(gaussian(8, 40), LinearStats(second_moments={"text": hessian}, tokens={"text": 9}))


@pytest.mark.parametrize("tokens", [1, 5, 39])
@pytest.mark.parametrize("method", [method for method in METHODS.values() if method.needs_data], ids=repr)
def test_few_tokens_and_dead_columns_still_quantize(method, tokens):
    x = gaussian(tokens, 40, seed=tokens)
    x[:, [0, 17]] = 0
    w, hessian = gaussian(16, 40), x.T @ x / tokens
    q = method.quantize(w, LinearStats(second_moments={"text": hessian}, tokens={"text": tokens}))
    assert bool(q.dequantize().isfinite().all())
    assert LevelsWeight.decode(q.encode()) == q


@pytest.mark.parametrize("granularity", ["layer", "row", "group"])
@pytest.mark.parametrize("bands", [1, 2, 3])
def test_a_column_with_massive_inputs_is_kept_well(granularity, bands):
    """Such columns are few, and their weights are no larger than others: by magnitude alone they would be
    rounded like all.
    """
    random = torch.Generator().manual_seed(0)
    w, x = 0.05 * torch.randn(64, 256, generator=random), torch.randn(900, 256, generator=random)
    x[:, 31] *= 300
    moment = x.T @ x / 900
    q = BiVLM(bands=bands, granularity=granularity, compensate=True).quantize(
        w, LinearStats({"text": moment}, {"text": 900})
    )
    difference = w - q.dequantize()
    assert float(((difference @ moment) * difference).sum() / ((w @ moment) * w).sum()) < 0.02
    share = len(q.tail_positions) / w.numel()
    assert share <= 0.0125  # the tail moved, it did not grow
