"""SqueezeLLM against its public code (tests/golden/seeds), and what its settings promise."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bivlm.contracts.quantizer import Example, stats_of, trace_error, weight_of
from bivlm.quantizers import GPTQ, SqueezeLLM
from bivlm.types import LinearStats

PUBLIC = load_file(Path(__file__).parents[1] / "golden" / "seeds" / "squeezellm.safetensors")
WEIGHT, FISHER = PUBLIC["weight"], PUBLIC["fisher"]
STATS = LinearStats({"text": torch.eye(192)}, {"text": 1}, fisher=FISHER)
DENSE = SqueezeLLM(sensitive=0.0, outliers=0.0)
SPARSE = SqueezeLLM(sensitive=0.005, outliers=0.1, outlier_range=1.8)


def sensitivity(found):
    """The error that the method lowers: Σ F (W - Q)²."""
    return float((FISHER * (WEIGHT - found).square()).double().sum())


def sparse_of(q):
    marked = torch.zeros(q.shape, dtype=torch.bool)
    marked.view(-1)[q.tail_positions] = True
    return marked


@pytest.mark.parametrize(("bits", "optimum"), [(2, 5.400413808308587e-08), (3, 1.0651153647228345e-08)])
def test_without_sparse_values_the_error_is_the_optimum_and_below_the_public_codes(bits, optimum):
    """The optimum was found by another program, without float16 levels."""
    found = sensitivity(replace(DENSE, bits=bits).quantize(WEIGHT, STATS).dequantize())
    assert optimum * (1 - 1e-6) < found < optimum * (1 + 1e-5)
    assert found < 0.95 * sensitivity(PUBLIC[f"dense{bits}.dequantized"])


@pytest.mark.parametrize("bits", [2, 3])
def test_with_sparse_values_the_error_is_below_the_public_codes(bits):
    found = sensitivity(replace(SPARSE, bits=bits).quantize(WEIGHT, STATS).dequantize())
    assert found < 0.95 * sensitivity(PUBLIC[f"ds{bits}.dequantized"])


def test_the_same_weights_are_sparse_as_in_the_public_code():
    """Its comparison of the sensitive ones leaves out the last: it keeps one fewer than asked for."""
    mine, public = sparse_of(SPARSE.quantize(WEIGHT, STATS)), PUBLIC["ds.sparse"]
    assert int((public & ~mine).sum()) == 0
    assert int((mine & ~public).sum()) == 1
    assert int((FISHER[mine] > FISHER[mine & ~public]).sum()) >= 14


def test_sparse_values_are_the_weights_in_float16():
    q = SPARSE.quantize(WEIGHT, STATS)
    sparse = sparse_of(q)
    assert torch.equal(q.dequantize()[sparse], WEIGHT[sparse].half().float())


def test_shares_are_counted():
    w, stats = weight_of((100, 200)), stats_of(200)
    method = Example(SqueezeLLM(sensitive=0.01, outliers=0.02))
    q = method.quantize(w, stats)
    sparse, fisher = sparse_of(q), method.completed(w, stats).fisher
    assert int(sparse.sum()) == 200 + 400
    sensitive = fisher >= fisher.reshape(-1).sort(descending=True).values[199]
    assert bool(sparse[sensitive].all())
    others = sparse & ~sensitive
    assert float(w[others].abs().min()) >= float(w[~sparse].abs().max())


def test_a_wide_range_leaves_no_outliers_and_a_share_limits_a_narrow_one():
    wide = replace(SPARSE, sensitive=0.0, outlier_range=100.0).quantize(WEIGHT, STATS)
    assert wide.tail_values.numel() == 0
    narrow = replace(SPARSE, sensitive=0.0, outlier_range=0.0, outliers=0.01).quantize(WEIGHT, STATS)
    assert narrow.tail_values.numel() == round(0.01 * WEIGHT.numel())


def test_sparse_values_make_room_for_the_others():
    w = WEIGHT.clone()
    w[:, 7] = 3.0
    dense, sparse = (
        replace(DENSE, bits=2, outliers=share).quantize(w, STATS).dequantize() for share in (0.0, 1 / 192)
    )
    assert float((FISHER * (w - sparse).square()).sum()) < 0.7 * float((FISHER * (w - dense).square()).sum())


@pytest.mark.parametrize("bits", [2, 3])
def test_feedback_lowers_the_error_of_the_layer_with_the_same_levels(bits):
    w, stats = weight_of((48, 128)), stats_of(128)
    plain = Example(SqueezeLLM(bits=bits, outliers=0.01))
    fed = Example(replace(plain.quantizer, feedback=True))
    without, after = (one.quantize(w, stats) for one in (plain, fed))
    assert torch.equal(without.levels, after.levels)
    assert torch.equal(without.tail_positions, after.tail_positions)
    assert not torch.equal(without.tail_values, after.tail_values)
    assert trace_error(w, after, stats.hessian) < 0.6 * trace_error(w, without, stats.hessian)
    gptq = GPTQ(bits=bits, grid="lloyd", group_size=128, refit=False).quantize(w, stats)
    assert trace_error(w, after, stats.hessian) < 1.1 * trace_error(w, gptq, stats.hessian)


def test_rows_without_gradients_count_their_weights_alike(caplog):
    fisher = FISHER.clone()
    fisher[3] = 0.0
    q = DENSE.quantize(WEIGHT, replace(STATS, fisher=fisher))
    even = DENSE.quantize(WEIGHT, replace(STATS, fisher=torch.ones_like(FISHER)))
    assert torch.equal(q.dequantize()[3], even.dequantize()[3])
    assert not caplog.text
    none = DENSE.quantize(WEIGHT, replace(STATS, fisher=torch.zeros_like(FISHER)))
    assert none == even
    assert "no answer depends on a weight of 192 inputs" in caplog.text


def test_a_row_that_is_sensitive_in_its_sparse_values_alone():
    """What is left of it counts alike, and the sparse values do not."""
    fisher = FISHER.clone()
    fisher[2], fisher[2, :3], w = 0.0, 1.0, WEIGHT.clone()
    w[2, :3] = 50.0
    q = replace(DENSE, bits=2, sensitive=3 / w.numel()).quantize(w, replace(STATS, fisher=fisher))
    assert sparse_of(q)[2, :3].all()
    assert float(q.levels[2].float().max()) < 1.0
    assert len(q.levels[2].unique()) == 4


WRONG = {
    "not measured": (None, "was not measured"),
    "of another weight": (torch.ones(16, 191), r"is \[16, 191\], and the weight \[16, 192\]"),
    "below zero": (-torch.ones(16, 192), "a number below 0"),
    "not a number": (torch.full((16, 192), torch.nan), "holds NaN"),
    "infinite": (torch.full((16, 192), torch.inf), "infinity"),
}


@pytest.mark.parametrize(("fisher", "message"), WRONG.values(), ids=WRONG)
def test_a_fisher_information_that_cannot_be_is_refused(fisher, message):
    with pytest.raises(ValueError, match=message):
        DENSE.quantize(WEIGHT, replace(STATS, fisher=fisher))


def test_it_asks_for_a_backward_pass():
    assert SqueezeLLM().needs_gradients


def test_the_papers_count_has_48_bits_for_a_sparse_value():
    w, stats = weight_of((64, 1024)), stats_of(1024)
    method = SqueezeLLM(bits=3)
    q = Example(method).quantize(w, stats)
    share = round(0.0005 * w.numel()) + round(0.004 * w.numel())
    assert method.paper_bits(q) == pytest.approx(3 + 8 * 16 / 1024 + 48 * share / w.numel())
    assert method.bits_bound((4096, 4096)) == pytest.approx(3.14, abs=0.01)
