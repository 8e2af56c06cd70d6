"""The budget: dealing out against exhaustive search, and a whole tiny model."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import bivlm
from bivlm.calibration.inputs import calibration_inputs
from bivlm.errors import InputError
from bivlm.eval.inspection import inspect
from bivlm.events import SILENT
from bivlm.job.budget import allocation, sensitivity
from bivlm.job.budget.allocation import LEAST, LESS, MORE, MOST, check_budget, deal_out, linear_budget
from bivlm.job.budget.sensitivity import MEASURING, PROBES, Sensitivity, SensitivityFile, probe_block
from bivlm.job.request import make_request
from bivlm.job.run import prepare, quantize, run
from bivlm.quantizers import Trellis
from folders import assert_same_files
from tiny import tiny_checkpoint, tiny_samples
from told import Told

DIVERGENCES = st.lists(st.floats(1e-6, 10.0), min_size=3, max_size=3)


# ---- dealing out


def model_of(groups, shapes):
    """Groups of one linear each, its quantizer, and its shape."""
    names = [f"linear.{index}" for index in range(len(shapes))]
    sensitivities = [
        Sensitivity((name,), PROBES, tuple(divergences))
        for name, divergences in zip(names, groups, strict=True)
    ]
    return sensitivities, dict.fromkeys(names, Trellis()), dict(zip(names, shapes, strict=True))


def stored(bits, shapes):
    """What linears (by name) take at most, in true bits."""
    return sum(
        Trellis(bits=bits[name]).bits_bound(shape) * math.prod(shape) for name, shape in shapes.items()
    )


def weights_of(shapes):
    return sum(map(math.prod, shapes.values()))


def total(sensitivities, bits):
    return sum(group.at(bits[group.linears[0]]) for group in sensitivities)


def exhaustive(sensitivities, shapes, most, places):
    """The least sum of divergences that takes at most `most` true bits, every choice tried."""
    best = math.inf
    for choice in itertools.product(places, repeat=len(sensitivities)):
        bits = {group.linears[0]: one for group, one in zip(sensitivities, choice, strict=True)}
        if stored(bits, shapes) <= most:
            best = min(best, total(sensitivities, bits))
    return best


def places_of(budget, step):
    every = np.arange(math.ceil(MOST / step) + 1) * step
    return [float(bits) for bits in every if max(LEAST, budget - LESS) <= bits <= min(MOST, budget + MORE)]


@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.tuples(st.floats(1e-3, 1.0), st.floats(2.0, 3.5), st.floats(1.4, 2.0)), min_size=2, max_size=3
    ),
    st.sampled_from([1.5, 2.0, 2.25, 3.0]),
)
def test_alike_linears_with_falling_gains_get_the_best_choice_of_all(curves, budget):
    """Where every bit helps less than the one before and costs the same, no choice beats the greedy one."""
    groups = [
        (start, start * math.exp(-first), start * math.exp(-first - second))
        for start, first, second in curves
    ]
    sensitivities, quantizers, shapes = model_of(groups, [(64, 128)] * len(groups))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(allocation, "STEP", 0.5)
        bits = deal_out(sensitivities, quantizers, shapes, budget)
    best = exhaustive(sensitivities, shapes, budget * weights_of(shapes), places_of(budget, 0.5))
    assert total(sensitivities, bits) == pytest.approx(best, rel=1e-9)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(DIVERGENCES, min_size=2, max_size=3),
    st.permutations([(64, 64), (64, 128), (128, 192)]),
    st.sampled_from([1.5, 2.0, 2.75]),
)
def test_any_linears_get_what_is_best_but_for_the_last_rise(groups, shapes, budget):
    """Whatever was measured: the choice is as good as the best of all for a budget that is smaller by one
    group's rise.
    """
    sensitivities, quantizers, shapes = model_of(groups, shapes[: len(groups)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(allocation, "STEP", 0.5)
        bits = deal_out(sensitivities, quantizers, shapes, budget)
    places = places_of(budget, 0.5)
    rise = max(
        stored({name: places[-1]}, {name: shape}) - stored({name: places[0]}, {name: shape})
        for name, shape in shapes.items()
    )
    assert total(sensitivities, bits) <= exhaustive(
        sensitivities, shapes, budget * weights_of(shapes) - rise, places
    ) * (1 + 1e-9)


def test_a_gain_behind_a_step_that_gains_nothing_is_seen():
    """At 1 and 2 bits the first group is equally broken, at 3 it is whole: a look at the next step alone
    would never get there.
    """
    sensitivities, quantizers, shapes = model_of([(5.0, 5.0, 0.001), (0.02, 0.01, 0.005)], [(256, 256)] * 2)
    bits = deal_out(sensitivities, quantizers, shapes, 2.2)
    assert bits["linear.0"] >= 2.75
    assert bits["linear.1"] < 1.75


SHAPES = st.tuples(st.integers(1, 150), st.integers(1, 150))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(DIVERGENCES, SHAPES), min_size=1, max_size=4), st.floats(0.0, 1.0))
@example(
    [([0.1, 0.01, 0.001], (79, 149))], 0.0
)  # the fewest bits of all, which rounding puts a hair above the budget
@example([([0.1, 0.01, 0.001], (79, 149))], 1.0)
def test_the_budget_is_never_exceeded(linears, share):
    """Any shapes, also such whose scales and padding take more bits than their weights, and any budget that
    can be reached.
    """
    sensitivities, quantizers, shapes = model_of([one for one, _ in linears], [shape for _, shape in linears])
    fewest, most = (
        stored(dict.fromkeys(shapes, bits), shapes) / weights_of(shapes) for bits in (LEAST, MOST)
    )
    budget = fewest + share * (most - fewest)
    bits = deal_out(sensitivities, quantizers, shapes, budget)
    assert set(bits) == set(shapes)
    assert all(LEAST <= one <= MOST for one in bits.values())
    assert stored(bits, shapes) <= budget * weights_of(shapes) * (1 + 1e-12)


@settings(deadline=None, max_examples=25)
@given(st.lists(DIVERGENCES, min_size=2, max_size=4), st.floats(0.7, 4.0))
def test_no_group_is_far_from_the_budget(groups, budget):
    sensitivities, quantizers, shapes = model_of(groups, [(576, 576)] * len(groups))
    bits = deal_out(sensitivities, quantizers, shapes, budget)
    assert all(budget - LESS <= one <= budget + MORE for one in bits.values())
    assert stored(bits, shapes) <= budget * weights_of(shapes)


def test_a_group_that_decides_everything_stops_at_the_most_above_and_its_rest_goes_to_others():
    sensitivities, quantizers, shapes = model_of(
        [(9.0, 3.0, 1.0), *[(1e-6, 1e-7, 1e-8)] * 3], [(576, 576)] * 4
    )
    bits = deal_out(sensitivities, quantizers, shapes, 2.0)
    assert bits["linear.0"] == 2.0 + MORE
    assert all(2.0 - LESS <= one < 2.0 for name, one in bits.items() if name != "linear.0")
    slack = 2.0 * weights_of(shapes) - stored(bits, shapes)
    assert slack < 0.2 * 576 * 576


def test_linears_of_one_group_get_the_same_bits():
    group, other = (
        Sensitivity(("q", "k"), PROBES, (1.0, 0.1, 0.01)),
        Sensitivity(("o",), PROBES, (0.01, 0.001, 0.0001)),
    )
    shapes = {"q": (128, 128), "k": (64, 128), "o": (128, 128)}
    bits = deal_out([group, other], dict.fromkeys(shapes, Trellis()), shapes, 2.0)
    assert bits["q"] == bits["k"] > bits["o"]


@pytest.mark.parametrize("budget", [0.2, 5.0])
def test_a_budget_out_of_reach_says_what_can_be_reached(budget):
    sensitivities, quantizers, shapes = model_of([(1.0, 0.1, 0.01)] * 2, [(576, 576)] * 2)
    message = (
        rf"a budget of {budget:g} bits is out of reach: these linears take 0\.\d\d … 4\.\d\d true bits per"
        r" weight"
    )
    with pytest.raises(InputError, match=message):
        deal_out(sensitivities, quantizers, shapes, budget)
    with pytest.raises(InputError, match=message):
        check_budget(quantizers, shapes, budget)


# ---- a budget that embedding and head share


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny_checkpoint("llava", tmp_path_factory.mktemp("budget") / "source", torch.bfloat16)


def test_embedding_and_head_are_charged(source):
    for budget in (2.0, 2.5):
        prepared = prepare(
            source, make_request(f"trellis-2:embeddings=3,budget={budget}", parts=["language"])
        )
        plan = prepared.plan
        fixed = {linear.name: linear.shape for linear in plan.tables}
        shapes = {linear.name: linear.shape for block in plan.blocks for linear in block.quantized}
        taken = sum(
            linear.quantizer.bits_bound(linear.shape) * math.prod(linear.shape) for linear in plan.tables
        )
        left = linear_budget(plan, budget)
        assert left * weights_of(shapes) + taken == pytest.approx(
            budget * (weights_of(shapes) + weights_of(fixed))
        )
        assert prepared.expected.bits == pytest.approx(budget)


@pytest.mark.parametrize("budget", [1.0, 4.2])
def test_what_embeddings_leave_no_room_for_is_out_of_reach(source, budget):
    with pytest.raises(
        InputError,
        match=(
            rf"budget of {budget:g} bits is out of reach: with 3\.\d\d bits for embedding and head, .*"
            r" \d\.\d\d … \d\.\d\d"
        ),
    ):
        prepare(source, make_request(f"trellis-2:embeddings=3,budget={budget}", parts=["language"]))


def test_a_packed_model_keeps_the_budget_with_its_embeddings(source, tmp_path):
    out = quantize(
        source,
        tmp_path / "out",
        recipe="trellis-2:embeddings=3,budget=2.25",
        parts=["language"],
        data=tiny_samples(3),
    )
    found = inspect(out)
    assert {row.name for row in found.parts} == {"language", "embeddings"}
    assert 2.0 < found.total.bits_per_weight <= 2.25


@pytest.mark.parametrize("kind", ["mllama", "qwen2_5_vl", "smolvlm"])
def test_all_parts_of_other_families_share_a_budget(kind, tmp_path):
    """Cross-attention, windows and tiles: what a group of linears does to the answers is measured in every
    stack.
    """
    source = tiny_checkpoint(kind, tmp_path / "source", torch.bfloat16)
    out = quantize(source, tmp_path / "out", recipe="trellis-2:embeddings=3,budget=2.3", data=tiny_samples(2))
    found = inspect(out)
    assert {row.name for row in found.parts} == {"vision", "projector", "language", "embeddings"}
    assert 2.1 < found.total.bits_per_weight <= 2.3
    assert bivlm.load(out)[0] is not None


# ---- a whole tiny model

RECIPE = "trellis-2:modality_weight=tokens,budget=2.0"
WHERE = {"recipe": RECIPE, "parts": ["language"]}


class _Stop(Exception):
    pass


@pytest.fixture
def measured_blocks(monkeypatch):
    """How many groups of linears were measured, block by block."""
    counts = []

    def probe(*args):
        found = probe_block(*args)
        counts.append(len(found))
        return found

    monkeypatch.setattr(sensitivity, "probe_block", probe)
    return counts


def quantized(source, out, events=SILENT, **more):
    return run(prepare(source, make_request(**WHERE, **more)), out, tiny_samples(1), events=events)


def test_a_budget_is_kept_and_measuring_goes_on_where_it_was_interrupted(source, tmp_path, measured_blocks):
    told = Told()
    whole = quantized(source, tmp_path / "whole", told)
    measured = [step for step in told.steps if step[0] == MEASURING]
    assert measured == [(MEASURING, done, 3) for done in range(4)]
    assert [(done, total) for _, done, total in told.units] == [
        (done, len(told.units)) for done in range(1, 1 + len(told.units))
    ]
    assert measured_blocks == [4, 4, 4]  # q, k and v; o; gate and up; down
    report = json.loads((whole / "bivlm_report.json").read_text())
    weights, taken = (sum(row[key] for row in report.values()) for key in ("weights", "stored_bytes"))
    assert 1.9 < 8 * taken / weights <= 2.0
    assert len({row["bits_per_weight"] for row in report.values() if row["weights"] == 96 * 160}) > 1

    out = tmp_path / "out"
    for place, once in ((1, [4]), (2, [4]), (3, [4]), (3, [])):
        measured_blocks.clear()
        with pytest.raises(KeyboardInterrupt):
            quantized(source, out, Told(stop=lambda what, done, place=place: done == place))
        assert measured_blocks == once
        assert not (out / "config.json").exists()
    measured_blocks.clear()

    def stop(report):
        raise _Stop

    with pytest.raises(_Stop):
        quantized(source, out, events=Told(stop))  # and behind the measuring
    quantized(source, out)
    assert measured_blocks == []
    assert_same_files(whole, out)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("trellis-2:budget=9", "a budget of 9 bits is out of reach: these linears take "),
        ("trellis-2:budget=0.3", "a budget of 0.3 bits is out of reach: these linears take "),
        ("rtn-2:budget=2", "trellis, not rtn; choose one of the trellis presets"),
    ],
)
def test_a_budget_that_cannot_be_is_refused_before_anything_is_written(source, tmp_path, recipe, message):
    with pytest.raises(InputError, match=message):
        prepare(source, make_request(recipe))
    with pytest.raises(InputError, match="calibrates on data and none was given"):
        run(prepare(source, make_request(**WHERE)), tmp_path / "out", ())
    assert not (tmp_path / "out").exists()


def test_the_model_is_put_away_after_measuring(tmp_path, monkeypatch):
    """Tied weights as well: the walk that follows holds one block at a time."""
    monkeypatch.setattr(sensitivity, "PROBES", (1.0, 3.0))
    folder = tiny_checkpoint("llava_siglip", tmp_path / "source", torch.bfloat16)
    prepared = prepare(folder, make_request(**WHERE))
    inputs = calibration_inputs(prepared.source, tiny_samples(1))
    file = SensitivityFile(tmp_path / "sensitivities.json")
    plan = allocation.allocate(prepared.source, prepared.plan, inputs, 2.0, file)
    assert all(parameter.is_meta for parameter in prepared.source.model.parameters())
    planned = {linear.name: linear for linear in plan.linears}
    quantizers = {
        linear.name: linear.quantizer for linear in prepared.plan.linears if linear.quantizer is not None
    }
    groups = [group for block in file.read().values() for group in block]
    bits = deal_out(groups, quantizers, {name: planned[name].shape for name in quantizers}, 2.0)
    assert bits == {name: planned[name].quantizer.bits for name in quantizers}
    assert {name for name, linear in planned.items() if linear.quantizer is None} == {
        linear.name for linear in prepared.plan.linears if linear.quantizer is None
    }
