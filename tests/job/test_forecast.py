"""What a job will take is counted from its plan and its samples; the machine's speed is given here, so that
the sums can be checked.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bivlm.job import forecast as module
from bivlm.job.cost import Cost
from bivlm.job.forecast import Load, forecast, inputs_of, load_of, share_of_experts
from bivlm.job.plan import BlockPlan, LinearPlan
from bivlm.job.request import make_request
from bivlm.job.run import expected_seconds, prepare
from bivlm.job.speed import Speed
from bivlm.quantizers import quantizer_named
from tiny import tiny_checkpoint, tiny_config, tiny_samples

LOAD = Load(8, {"vision": 16.0, "projector": 4.0, "language": 20.0}, 2.0, unanswered=False, gradients=0)
FIXED = {"quantizing", "reading and writing"}  # whatever the samples


def file_bytes(source):
    return sum(path.stat().st_size for path in source.iterdir())


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny_checkpoint("llava", tmp_path_factory.mktemp("forecast") / "source", torch.bfloat16)


@pytest.fixture(autouse=True)
def one_operation_a_second(monkeypatch):
    speed = Speed(passes=1.0, moments=1.0, reading=1.0, call=0.0, back=0.0)
    monkeypatch.setattr(module, "speed_of", lambda dtype: speed)
    monkeypatch.setattr(module, "cost_of", lambda *given: Cost(0.0, 0.0, 1.0, 0.0, 0.0))


def expected(source, recipe, load=LOAD, **settings):
    prepared = prepare(source, make_request(recipe, settings=settings))
    budget = prepared.recipe.budget is not None
    return forecast(prepared.source, prepared.plan, load, budget=budget), prepared.plan


def test_every_weight_is_quantized_once(source):
    found, plan = expected(source, "rtn-3")
    weights = [one for one in plan.weights if one.quantizer is not None]
    assert found.pop("quantizing") == sum(one.shape[0] * one.shape[1] for one in weights)
    assert found == {"reading and writing": 2 * file_bytes(source)}


def test_files_are_read_by_every_pass(source):
    def times(recipe, load=LOAD, **settings):
        return expected(source, recipe, load, **settings)[0]["reading and writing"] / file_bytes(source)

    assert times("rtn-3") == 2
    assert times("gptq-2") == 3
    assert times("gptq-2", propagation=0.5) == 4
    assert times("trellis-2", replace(LOAD, gradients=8)) == 5
    assert times("trellis-2", replace(LOAD, gradients=8), budget=4, budget_from="gradients") == 6


def test_calibration_is_two_passes_and_the_moments_of_every_block(source):
    found, plan = expected(source, "gptq-2")
    tokens = LOAD.tokens
    operations = 0.0
    for block in plan.blocks:
        rows = tokens[block.linears[0].part]
        weights = sum(one.shape[0] * one.shape[1] for one in block.linears)
        attention = 4 * rows**2 * min(one.shape[1] for one in block.linears) if len(block.linears) > 2 else 0
        operations += 2 * (2 * rows * weights + attention) / module.EFFICIENCY
        operations += 2 * rows * sum(one.shape[1] ** 2 for one in inputs_of(block))
    assert found["calibration"] == pytest.approx(LOAD.samples * operations)


def test_what_a_recipe_asks_for_is_counted(source):
    plain, _ = expected(source, "gptq-2")
    beside, _ = expected(source, "gptq-2", propagation=0.5)
    assert beside["calibration"] == pytest.approx(2 * plain["calibration"])  # with the residuals
    assert expected(source, "gptq-2", tuning=4)[0]["tuning blocks"] == pytest.approx(
        2 * expected(source, "gptq-2", tuning=2)[0]["tuning blocks"]
    )
    assert expected(source, "gptq-2", distillation=1)[0]["tuning the model"] > 0
    measured, predicted = (
        expected(source, "trellis-2", budget=4, budget_from=by)[0] for by in ("answers", "gradients")
    )
    assert measured["budget"] > predicted["budget"] > 3 * predicted["quantizing"]


def test_gradients_go_back_to_the_first_block_that_looks_at_them(source):
    shares, powers = (
        expected(source, "trellis-2", replace(LOAD, gradients=8), **settings)
        for settings in ({}, {"gradient_power": 0.5})
    )
    whole = powers[0]["gradients"]
    assert whole / (1 + module.DIFFERENTIATED) < shares[0]["gradients"] < whole


def test_gradients_and_answers_count_the_samples_that_are_differentiated(source):
    load = replace(LOAD, gradients=8, unanswered=True)
    all_of_them, some = (expected(source, "trellis-2", replace(load, gradients=n))[0] for n in (8, 2))
    for name in ("gradients", "own answers"):
        assert some[name] == pytest.approx(all_of_them[name] / 4)
    tuned, _ = expected(source, "trellis-2", replace(load, gradients=2), distillation=1)
    assert tuned["own answers"] == all_of_them["own answers"]
    prepared = prepare(source, make_request("trellis-2"))
    assert load_of(prepared.source, prepared.plan, tiny_samples(32)).gradients == 8


def test_calls_count_where_there_is_little_to_multiply(source, monkeypatch):
    free = Speed(passes=float("inf"), moments=float("inf"), reading=float("inf"), call=1.0, back=10.0)
    monkeypatch.setattr(module, "speed_of", lambda dtype: free)
    monkeypatch.setattr(module, "cost_of", lambda *given: Cost(1.0, 0.0, 0.0, 0.0, 0.0))
    found, plan = expected(source, "trellis-2", replace(LOAD, gradients=8), tuning=4, gradient_power=0.5)
    blocks = len(plan.blocks)
    assert found["quantizing"] == sum(one.quantizer is not None for one in plan.weights)
    assert found["calibration"] == LOAD.samples * 4 * blocks
    assert found["gradients"] == LOAD.samples * (1 + 10) * blocks
    assert found["tuning blocks"] == LOAD.samples * 4 * (0.75 * 10 + 0.25 * 1) * blocks


def test_linears_whose_tokens_are_weighed_have_moments_of_their_own(source):
    many = replace(LOAD, samples=10_000, gradients=10_000)
    shared, alone = (
        expected(source, "trellis-2", many, gradient_power=power)[0]["calibration"] for power in (0.0, 0.5)
    )
    assert shared < alone
    few = replace(LOAD, gradients=8)  # too few tokens to weigh them
    shared, alone = (
        expected(source, "trellis-2", few, gradient_power=power)[0]["calibration"] for power in (0.0, 0.5)
    )
    assert shared == alone


def test_twice_the_samples_take_twice_the_time(source):
    once, _ = expected(source, "gptq-2", replace(LOAD, gradients=8, unanswered=True), distillation=100)
    twice, _ = expected(
        source, "gptq-2", replace(LOAD, samples=16, gradients=16, unanswered=True), distillation=100
    )
    assert once.keys() == {*FIXED, "calibration", "own answers", "gradients", "tuning the model"}
    for name in once.keys() - FIXED:
        assert twice[name] == pytest.approx(2 * once[name])
    assert all(twice[name] == once[name] for name in FIXED)


def test_the_tokens_are_those_of_the_samples(source):
    prepared = prepare(source, make_request("gptq-2"))
    samples = tiny_samples(6)
    load = load_of(prepared.source, prepared.plan, samples)
    vision = prepared.source.config.vision_config
    assert load.samples == 6
    assert load.tokens["vision"] == (vision.image_size // vision.patch_size) ** 2
    assert load.tokens["projector"] == load.tokens["vision"]
    assert load.tokens["language"] > load.tokens["projector"]
    assert load.targets >= 1
    assert expected_seconds(prepared, samples).keys() == {*FIXED, "calibration"}


def test_no_samples_are_no_load(source):
    prepared = prepare(source, make_request("rtn-3"))
    assert load_of(prepared.source, prepared.plan, ()).samples == 0
    assert expected_seconds(prepared, tiny_samples(2)).keys() == FIXED


@pytest.mark.parametrize(
    ("shapes", "inputs"),
    [
        ({"a.q": (64, 64), "a.k": (16, 64), "a.v": (16, 64), "a.o": (64, 64)}, ["a.q", "a.o"]),
        ({"a.qkv": (192, 64), "a.proj": (64, 64)}, ["a.qkv", "a.proj"]),
        ({"m.gate": (96, 64), "m.up": (96, 64), "m.down": (64, 96)}, ["m.gate", "m.down"]),
        ({"m.fc1": (96, 64), "m.fc2": (64, 96)}, ["m.fc1", "m.fc2"]),
    ],
)
def test_linears_that_share_an_input(shapes, inputs):
    sign = quantizer_named("sign")()
    linears = tuple(LinearPlan(name, "language", shape, sign) for name, shape in shapes.items())
    assert [one.name for one in inputs_of(BlockPlan("a", 0, linears))] == inputs


def test_a_token_meets_few_experts():
    assert share_of_experts(tiny_config("llava")) == 1.0
    config = tiny_config("qwen3_vl_moe")
    text = config.get_text_config()
    assert share_of_experts(config) == text.num_experts_per_tok / text.num_experts < 1
