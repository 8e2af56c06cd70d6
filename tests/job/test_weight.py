"""What one weight's report says: bits from the packed bytes, errors of the packed weight, and what the
quantizer had to note.
"""

import logging
from typing import ClassVar

import pytest
import torch
from pydantic.dataclasses import dataclass

from bivlm.errors import InputError
from bivlm.job import weight as module
from bivlm.job.plan import LinearPlan
from bivlm.job.weight import output_energy, quantize_weight
from bivlm.quantizers import GPTQ, RTN
from bivlm.types import LinearStats

WEIGHT = 0.05 * torch.randn(12, 40, generator=torch.Generator().manual_seed(0))


class Source:
    """The one method of `SourceModel` that is asked."""

    def __init__(self, weight=WEIGHT):
        self.weight = weight

    def read(self, names):
        assert names == ["block.linear.weight"]
        return {names[0]: self.weight}


def plan(quantizer):
    return LinearPlan("block.linear", "language", (12, 40), quantizer)


def stats(moment):
    return LinearStats({"text": moment}, {"text": 9})


def test_bits_and_errors_are_those_of_the_packed_weight():
    moment = torch.diag(torch.linspace(0.5, 2, 40))
    packed, report = quantize_weight(Source(), plan(GPTQ()), stats(moment))
    difference = WEIGHT - GPTQ().quantize(WEIGHT, stats(moment)).dequantize()
    assert report.stored_bytes == packed.nbytes
    assert report.bits_per_weight == packed.bits_per_weight() == 8 * packed.nbytes / 480
    assert report.paper_bits == 2.0
    assert report.weight_error == pytest.approx(float(difference.square().sum() / WEIGHT.square().sum()))
    assert report.layer_error == pytest.approx(
        float((difference.square() @ moment).sum() / (WEIGHT.square() @ moment).sum())
    )
    assert report.notes == ()


def test_without_data_there_is_no_layer_error():
    _, report = quantize_weight(Source(), plan(RTN()), None)
    assert report.layer_error is None
    assert 0 < report.weight_error < 0.2


def test_a_damping_that_had_to_be_raised_is_in_the_report():
    moment = torch.eye(40) - 1.05 * torch.full((40, 40), 1 / 40)
    _, report = quantize_weight(Source(), plan(GPTQ()), stats(moment))
    [note] = report.notes
    assert "not positive definite at damping 0.01; used 0.1" in note
    assert not any(
        type(handler).__name__ == "Collector" for handler in logging.getLogger("bivlm.quantizers").handlers
    )


def test_a_refusal_names_the_linear():
    weight = WEIGHT.clone()
    weight[0, 0] = torch.nan
    with pytest.raises(InputError, match=r"block\.linear: the weight holds NaN"):
        quantize_weight(Source(weight), plan(RTN()), None)


def test_of_nothing_nothing_is_lost():
    _, report = quantize_weight(Source(torch.zeros(12, 40)), plan(GPTQ()), stats(torch.eye(40)))
    assert (report.weight_error, report.layer_error) == (0.0, 0.0)


def test_errors_are_the_same_a_few_rows_at_a_time(monkeypatch):
    moment = torch.diag(torch.linspace(0.5, 2, 40))
    _, whole = quantize_weight(Source(), plan(GPTQ()), stats(moment))
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 5)
    _, found = quantize_weight(Source(), plan(GPTQ()), stats(moment))
    assert found.weight_error == pytest.approx(whole.weight_error)
    assert found.layer_error == pytest.approx(whole.layer_error)


def test_the_layer_error_of_a_tall_weight_is_that_of_some_of_its_rows(monkeypatch):
    monkeypatch.setattr(module, "LAYER_ERROR_ROWS", 4)
    moment = torch.diag(torch.linspace(0.5, 2, 40))
    _, report = quantize_weight(Source(), plan(GPTQ()), stats(moment))
    rows = WEIGHT[::3]
    difference = rows - GPTQ().quantize(WEIGHT, stats(moment)).dequantize()[::3]
    expected = (difference.square() @ moment).sum() / (rows.square() @ moment).sum()
    assert report.layer_error == pytest.approx(float(expected))


def test_the_energy_of_outputs_is_their_mean_square(monkeypatch):
    inputs, weight = torch.randn(50, 40), torch.randn(7, 40)
    expected = (inputs.double() @ weight.double().T).square().sum() / len(inputs)
    for columns in (1, 16, 40, 64):
        monkeypatch.setattr(module, "ENERGY_COLUMNS", columns)
        found = output_energy(weight, inputs.T @ inputs / len(inputs))
        assert float(found) == pytest.approx(float(expected), rel=1e-5)


@dataclass(frozen=True)
class Careless(RTN):
    """Breaks the contract of a quantizer in one way or another."""

    name: ClassVar[str] = "careless"

    fault: str = "mutates"

    def quantize(self, weight, stats):
        if self.fault == "mutates":
            weight[0] = 0.0
        if self.fault == "type":
            return weight
        return super().quantize(weight[:6] if self.fault == "shape" else weight, stats)

    def bits_bound(self, shape):
        return 1.0 if self.fault == "bound" else super().bits_bound(shape)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("mutates", "it wrote into the weight that it was given"),
        ("type", "it returned a Tensor, not a weight of a format"),
        ("shape", r"of a weight \(12, 40\) it made one of \(6, 40\)"),
        ("bound", r"it promised at most 1\.000 bits per weight and stores 2\.8"),
    ],
)
def test_a_quantizer_that_breaks_its_contract_is_named(fault, message):
    expected = rf"block\.linear: the quantizer careless breaks its contract: {message}"
    with pytest.raises(InputError, match=expected):
        quantize_weight(Source(WEIGHT.clone()), plan(Careless(fault=fault)), None)
