"""Sensitivities: interpolation against numpy, measuring a block, the file that keeps them, and the divergence
against torch's.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bivlm.calibration.stats import StatsCollector
from bivlm.errors import InputError
from bivlm.job.budget.allocation import LEAST, MOST, check_budget
from bivlm.job.budget.sensitivity import (
    PROBES,
    SMALLEST,
    Sensitivity,
    SensitivityFile,
    divergence_of,
    probe_block,
    together,
)
from bivlm.job.plan import BlockPlan, LinearPlan
from bivlm.quantizers import GPTQ, RTN, Trellis

FALLING = Sensitivity(("a",), (1.0, 2.0, 3.0), (0.4, 0.05, 0.01))
DIVERGENCES = st.lists(st.floats(1e-6, 10.0), min_size=3, max_size=3)


# ---- one group's divergence at any number of bits


@pytest.mark.parametrize("bits", [1.0, 1.125, 1.5, 2.0, 2.75, 3.0])
def test_between_measured_points_the_logarithm_is_a_straight_line(bits):
    expected = math.exp(np.interp(bits, FALLING.bits, np.log(FALLING.divergences)))
    assert FALLING.at(bits) == pytest.approx(expected, rel=1e-12)


def test_beyond_the_last_point_it_falls_like_a_good_quantizers_error():
    for more in (0.5, 1.0):
        assert FALLING.at(3 + more) == pytest.approx(0.01 * 4**-more)


def test_below_the_first_point_the_first_line_goes_on():
    assert FALLING.at(0.5) == pytest.approx(0.4 * (0.4 / 0.05) ** 0.5)


def test_more_bits_never_count_as_worse():
    """A measurement that rises is taken as flat, at its height; one of nothing at all is taken as very
    small.
    """
    rising = Sensitivity(("a",), (1.0, 2.0, 3.0), (0.02, 0.1, 0.01))
    assert [rising.at(bits) for bits in (0.5, 1.0, 1.5, 2.0)] == pytest.approx([0.1] * 4)
    assert rising.at(3.0) == pytest.approx(0.01)
    nothing = Sensitivity(("a",), (1.0, 2.0, 3.0), (0.1, 0.0, -1e-12))
    assert nothing.at(2.5) == pytest.approx(SMALLEST)


@settings(deadline=None, max_examples=50)
@given(DIVERGENCES)
def test_it_never_rises(divergences):
    places = np.arange(LEAST, MOST + 0.01, 0.125)
    values = [Sensitivity(("a",), PROBES, tuple(divergences)).at(float(bits)) for bits in places]
    assert all(right <= left * (1 + 1e-12) for left, right in itertools.pairwise(values))


@pytest.mark.parametrize("quantizer", [RTN(), GPTQ()])
def test_other_quantizers_have_no_bits_to_deal_out(quantizer):
    with pytest.raises(InputError, match=f"trellis, not {quantizer.name}; choose one of the trellis presets"):
        quantizer.with_bits(2.0)
    with pytest.raises(InputError, match="choose one of the trellis presets"):
        check_budget({"a": Trellis(), "b": quantizer}, {"a": (64, 64), "b": (64, 64)}, 2.0)


def test_with_bits_changes_the_bits_alone():
    assert Trellis(bits=1.0, window=12, seed=4).with_bits(2.625) == Trellis(bits=2.625, window=12, seed=4)


# ---- measuring


class Block(nn.Module):
    """q and k receive the same tensor, o another."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.o = nn.Linear(48, 32), nn.Linear(48, 32), nn.Linear(32, 48)

    def forward(self, x):
        return self.o(self.q(x) + self.k(x).tanh())


def watched(dtype=torch.float32):
    """A block, its linears, their quantizers, and a collector that watched them."""
    torch.manual_seed(0)
    block = Block().requires_grad_(False).to(dtype)
    linears = {"q": block.q, "k": block.k, "o": block.o}
    collector = StatsCollector(linears)
    with collector.watching(None):
        block(torch.randn(1, 200, 48).to(dtype))
    return linears, dict.fromkeys(linears, Trellis()), collector


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_group_alone_is_quantized_at_each_number_of_bits(dtype):
    linears, quantizers, collector = watched(dtype)
    before = {name: linear.weight for name, linear in linears.items()}
    seen = []

    def divergence():
        seen.append({name: linear.weight.detach().clone() for name, linear in linears.items()})
        return float(len(seen))

    found = probe_block(linears, quantizers, collector, divergence)
    assert found == [
        Sensitivity(("q", "k"), PROBES, (1.0, 2.0, 3.0)),
        Sensitivity(("o",), PROBES, (4.0, 5.0, 6.0)),
    ]
    for weights, (group, bits) in zip(seen, itertools.product([("q", "k"), ("o",)], PROBES), strict=True):
        for name, weight in weights.items():
            expected = before[name]
            if name in group:
                expected = Trellis(bits=bits).quantize(expected, collector.stats(name)).dequantize().to(dtype)
            assert weight.dtype == dtype
            assert torch.equal(weight, expected)
    assert all(linear.weight is before[name] for name, linear in linears.items())


def test_weights_come_back_when_measuring_fails():
    linears, quantizers, collector = watched()
    before = {name: linear.weight for name, linear in linears.items()}

    def divergence():
        assert linears["q"].weight is not before["q"]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        probe_block(linears, quantizers, collector, divergence)
    assert all(linear.weight is before[name] for name, linear in linears.items())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_divergences_that_are_no_numbers_are_refused(value):
    linears, quantizers, collector = watched()
    with pytest.raises(InputError, match="q: with it quantized the model's logits are NaN or infinite"):
        probe_block(linears, quantizers, collector, lambda: value)


def test_a_weight_that_cannot_be_quantized_is_named():
    linears, quantizers, collector = watched()
    linears["k"].weight[0, 0] = torch.nan
    with pytest.raises(InputError, match="k: the weight holds NaN or infinity"):
        probe_block(linears, quantizers, collector, lambda: 1.0)


def test_what_is_measured_comes_back_from_its_file(tmp_path):
    measured = SensitivityFile(tmp_path / "sensitivities.json")
    assert measured.read() == {}
    blocks = {
        "model.layers.0": [Sensitivity(("q", "k"), (1.0, 2.0, 3.0), (1 / 3, 1e-17, 0.1 + 0.2)), FALLING],
        "model.layers.1": [],
    }
    measured.write(blocks)
    assert measured.read() == blocks
    measured.write({"other": [FALLING]})
    assert SensitivityFile(measured.path).read() == {"other": [FALLING]}


def test_a_file_that_the_user_keeps_serves_another_job(tmp_path):
    """It is written with the job's own, read where the job has none, and must not change under a job."""
    kept, blocks = tmp_path / "kept.json", {"model.layers.0": [FALLING]}
    SensitivityFile(tmp_path / "first.json", kept).write(blocks)
    second = SensitivityFile(tmp_path / "second.json", kept)
    assert second.read() == blocks
    second.write(blocks)
    kept.write_text(kept.read_text().replace("0.05", "0.06"))
    with pytest.raises(InputError, match="holds other sensitivities than this unfinished job began with"):
        second.read()


@pytest.mark.parametrize("text", ["[]", "{", '{"a": [1]}', '{"a": [{"linears": ["b"]}]}', '{"a": 3}'])
def test_a_file_that_holds_something_else_is_refused(tmp_path, text):
    (tmp_path / "kept.json").write_text(text)
    with pytest.raises(InputError, match=r"kept\.json"):
        SensitivityFile(tmp_path / "job.json", tmp_path / "kept.json").read()


def test_sensitivities_of_other_linears_are_refused(tmp_path):
    linear = LinearPlan("model.layers.0.q", "language", (4, 4), Trellis())
    block = BlockPlan("model.layers.0", 0, (linear,))
    file = SensitivityFile(tmp_path / "job.json")
    file.check({}, [block])
    file.check({"model.layers.0": [Sensitivity(("model.layers.0.q",), PROBES, (1.0, 0.5, 0.1))]}, [block])
    with pytest.raises(InputError, match="sensitivities of a, which this job does not quantize"):
        file.check({"model.layers.0": [FALLING]}, [block])


@pytest.mark.parametrize("last", [0.0, 0.5, 1.0])
def test_the_divergence_is_torchs(last):
    random = torch.Generator().manual_seed(0)
    reference = [torch.randn(tokens, 11, generator=random) for tokens in (4, 1, 7)]
    logits = [one + 0.3 * torch.randn(one.shape, generator=random) for one in reference]
    expected = 0.0
    for p, q in zip(reference, logits, strict=True):
        rows = nn.functional.kl_div(
            q.log_softmax(-1), p.log_softmax(-1), reduction="none", log_target=True
        ).sum(-1)
        expected += ((1 - last) * rows.mean() + last * rows[-1]).item() / 3
    assert divergence_of(reference, logits, last) == pytest.approx(expected, rel=1e-5)
    assert divergence_of(reference, reference, last) == 0.0
    if last == 0.5:
        assert divergence_of(reference, logits) == divergence_of(reference, logits, last)


def test_the_experts_of_a_layer_are_measured_together_by_projection():
    place = "layers.{}.mlp.experts.{}.{}".format
    first, other = [place(0, n, "gate_up_proj") for n in range(3)], place(1, 0, "gate_up_proj")
    second = [place(0, n, "down_proj") for n in range(3)]
    groups = [["q", "k"], *([one] for one in (*first, *second)), [other], ["o"]]
    assert together(groups) == [["q", "k"], first, second, [other], ["o"]]
