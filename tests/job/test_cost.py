"""The cost of a method is a sum of five terms, recovered from what its probes take."""

from __future__ import annotations

from dataclasses import fields

import pytest

from bivlm.job import cost
from bivlm.job.cost import Cost, cost_of, fitted_cost
from bivlm.quantizers import quantizer_named

TRUTH = Cost(call=4e-3, column=5e-5, weight=3e-7, row=2e-10, factor=4e-11)
SHAPES = [(64, 128), (192, 128), (64, 576), (192, 576), (64, 1536), (192, 1536)]


def test_the_terms_are_recovered():
    found = fitted_cost(SHAPES, map(TRUTH.seconds, SHAPES))
    for field in fields(Cost):
        assert getattr(found, field.name) == pytest.approx(getattr(TRUTH, field.name), rel=1e-4)
    assert found.seconds((4096, 11008)) == pytest.approx(TRUTH.seconds((4096, 11008)), rel=1e-4)


@pytest.mark.parametrize("alone", [{"call": 1e-2}, {"column": 1e-4}, {"weight": 1e-7}, {"factor": 1e-11}])
def test_one_term_alone(alone):
    truth = Cost(**{field.name: 0.0 for field in fields(Cost)} | alone)
    found = fitted_cost(SHAPES, map(truth.seconds, SHAPES))
    assert found.seconds((1000, 1000)) == pytest.approx(truth.seconds((1000, 1000)), rel=1e-6)


@pytest.mark.parametrize("taken", [[1, 0.5, 0.4, 0.9, 0.3, 0.2], [0.1, 0.1, 0.1, 0.1, 0.1, 0.1]])
def test_no_term_is_negative_where_the_probes_are_noise(taken):
    found = fitted_cost(SHAPES, taken)
    assert min(getattr(found, field.name) for field in fields(Cost)) >= 0
    assert found.seconds((100, 100)) > 0


@pytest.mark.parametrize(
    ("weights", "widths"),
    [
        ({576: 10, 1536: 4, 192: 1}, [128, 576, 1536]),
        ({4096: 10, 11008: 9, 1024: 1}, [128, 1024, 1536]),  # both are wider than what is probed
        ({64: 3}, [64, 128]),
    ],
)
def test_the_probes_are_as_wide_as_most_weights(weights, widths, monkeypatch):
    probed = []

    def probe(quantizer, shape, propagation):
        probed.append(shape)
        return TRUTH.seconds(shape)

    monkeypatch.setattr(cost, "_probe", probe)
    cost_of(quantizer_named("sign")(), weights)
    assert sorted({columns for _, columns in probed}) == widths


@pytest.mark.parametrize("propagation", [0.0, 0.5])
@pytest.mark.parametrize("name", ["sign", "gptq"])
def test_a_quantizer_has_a_cost(name, propagation):
    found = cost_of(quantizer_named(name)(), {64: 1}, propagation)
    assert 0 < found.seconds((64, 64)) < 10
