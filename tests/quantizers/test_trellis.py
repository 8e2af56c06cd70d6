"""The trellis quantizer against plain GPTQ, exhaustive allocation and least squares; what each part gives;
shapes that do not fit its strips.
"""

import dataclasses
import itertools
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bivlm.formats.encoding.rotation import Rotation, signs_of
from bivlm.formats.encoding.trellis_code import UNIT, standard_tables
from bivlm.formats.trellis import TrellisWeight, column_bits, runs, trellis_nbytes
from bivlm.native import library as native
from bivlm.quantizers import trellis
from bivlm.quantizers.steps.viterbi import search_columns, search_reference
from bivlm.quantizers.trellis import (
    DISTORTION,
    Moment,
    Trellis,
    allocated_bits,
    equal_blocks,
    even_bits,
    refitted,
)
from bivlm.types import LinearStats

needs_library = pytest.mark.skipif(native.library() is None, reason="the native library is not in use")
LLOYD_MAX = {
    1: (0.7979,),
    2: (0.4528, 1.510),
    3: (0.2451, 0.7560, 1.344, 2.152),
}  # best levels of a normal source: Max, IRE Trans. IT 6, 7 (1960)


def case(out=64, columns=96, seed=0):
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(6 * columns, columns, generator=random) @ (
        torch.eye(columns) + torch.randn(columns, columns, generator=random) / columns**0.5
    )
    x = x * torch.logspace(-0.5, 0.5, columns)
    return 0.05 * torch.randn(out, columns, generator=random), LinearStats(
        {"text": x.T @ x / len(x)}, {"text": len(x)}
    )


def loss(w, back, stats):
    difference = (w - back).double()
    return float(((difference @ stats.hessian.double()) * difference).sum())


def error(w, stats, **given_settings):
    """The loss, of that of a weight of zeros."""
    return loss(w, Trellis(**given_settings).quantize(w, stats).dequantize(), stats) / loss(
        w, torch.zeros_like(w), stats
    )


def plain_gptq(w, hessian, bits, damping=0.01):
    """Column after column to the best scalar levels of each row, strongest inputs first; the inverse is
    updated by elimination, in float64.
    """
    order = hessian.diagonal().argsort(descending=True)
    rest, h = w.double()[:, order].clone(), hessian.double()[order][:, order]
    levels = (
        torch.tensor([-level for level in LLOYD_MAX[bits]] + list(LLOYD_MAX[bits]))
        * w.double().square().mean(1).sqrt()[:, None]
    )
    inverse = torch.linalg.inv(h + damping * h.diagonal().mean() * torch.eye(len(h)))
    for j in range(len(h)):
        quantized = levels.gather(1, (levels - rest[:, j, None]).abs().argmin(1, keepdim=True))[:, 0]
        lost = (rest[:, j] - quantized) / inverse[j, j]
        rest[:, j:] -= lost[:, None] * inverse[j, j:]
        rest[:, j] = quantized
        inverse = inverse - torch.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    return rest[:, order.argsort()]


def test_strips_are_decided_alone_so_that_a_few_at_a_time_are_the_same(monkeypatch):
    w, stats = case(out=200)
    whole = Trellis().quantize(w, stats)
    monkeypatch.setattr(trellis, "AT_ONCE", 1)
    assert trellis.rows_at_once(96) == 64
    found = Trellis().quantize(w, stats)
    assert found.shape == whole.shape
    assert float((found.dequantize() - whole.dequantize()).square().mean()) < 1e-3 * float(
        w.square().mean()
    )  # but for the rounding of sums
    assert loss(w, found.dequantize(), stats) == pytest.approx(loss(w, whole.dequantize(), stats), rel=1e-2)


@pytest.mark.parametrize("bits", [1, 2, 3])
@pytest.mark.parametrize("seed", range(2))
def test_far_fewer_errors_than_scalar_levels_with_the_same_feedback(bits, seed):
    w, stats = case(seed=seed)
    mine = Trellis(bits=bits).quantize(w, stats)
    assert Trellis().paper_bits(mine) == bits
    assert loss(w, mine.dequantize(), stats) < 0.8 * loss(w, plain_gptq(w, stats.hessian, bits), stats)


def test_more_bits_less_error():
    w, stats = case()
    errors = [error(w, stats, bits=bits) for bits in (0.25, 0.5, 1, 1.5, 2, 2.5, 3, 4)]
    assert all(after < 0.9 * before for before, after in pairwise(errors))


@needs_library
def test_a_longer_window_has_fewer_errors():
    w, stats = case(out=256)
    for bits in (2, 3):
        errors = [error(w, stats, bits=bits, window=window) for window in (8, 12)]
        assert errors[1] < errors[0]


def test_the_rotation_takes_the_harm_out_of_weights_that_stand_out():
    """One weight in a hundred ten times as large: without the rotation no level reaches it."""
    w, stats = case()
    w[torch.rand(w.shape, generator=torch.Generator().manual_seed(1)) < 0.01] *= 10
    assert error(w, stats) < 0.5 * error(w, stats, rotation=False)


@pytest.mark.parametrize("seed", range(2))
def test_the_rotation_takes_the_harm_out_of_an_input_that_stands_out(seed):
    """One channel of inputs thirty times as strong, as language models have them."""
    w, stats = case(seed=seed)
    strength = torch.ones(96)
    strength[11] = 30
    loud = LinearStats({"text": stats.hessian * strength[:, None] * strength}, {"text": 100})
    for allocation in (True, False):
        assert error(w, loud, allocation=allocation) < 0.8 * error(
            w, loud, allocation=allocation, rotation=False
        )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bits", [1.5, 2.0])
def test_every_part_lowers_the_error(bits, seed):
    """On strongly correlated inputs; the feedback gives most."""
    w, stats = case(seed=seed)
    full = error(w, stats, bits=bits)
    assert full < 0.8 * error(w, stats, bits=bits, feedback=False)
    assert full < 0.95 * error(w, stats, bits=bits, allocation=False)
    assert full <= error(w, stats, bits=bits, refit=False)


def test_without_feedback_there_is_no_need_for_data():
    w, stats = case()
    method = Trellis(feedback=False)
    assert not method.needs_data
    assert method.quantize(w, None) == method.quantize(w, stats)
    assert set(method.quantize(w, None).bits.tolist()) == {2}  # all errors cost the same


@pytest.mark.parametrize(
    "shape", [(64, 192), (16, 1152), (20, 1000), (33, 129), (1, 64), (1, 1), (17, 16), (130, 50), (3, 7)]
)
def test_any_shape_and_the_bits_that_it_takes(shape):
    w, stats = case(*shape)
    q = Trellis(bits=1.5).quantize(w, stats)
    assert isinstance(q, TrellisWeight)
    assert q.shape == shape
    true, paper = q.encode().bits_per_weight(), Trellis().paper_bits(q)
    rows, columns = shape
    held = -(-rows // 16) * 16
    over = 16 / columns + (8 * -(-columns // 16) + 16 * -(-rows // 64)) / (rows * columns)
    assert true == pytest.approx(paper * held / rows + over, rel=1e-12)
    assert true <= Trellis(bits=1.5).bits_bound(shape)
    if columns >= 50:
        assert 1.5 - 16 / columns <= paper <= 1.5
        assert loss(w, q.dequantize(), stats) < 0.3 * loss(w, torch.zeros_like(w), stats)


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 150), st.integers(2, 32), st.integers(0, 1000))
def test_no_costs_make_the_runs_take_more_than_the_bound(columns, eighths, seed):
    """Also where the last run is narrower than the others, so that it can take what they leave."""
    cost = torch.rand(columns, generator=torch.Generator().manual_seed(seed)).double() ** 8
    method = Trellis(bits=eighths / 8)
    taken = trellis_nbytes((64, columns), allocated_bits(cost, method.bits, DISTORTION[8]))
    assert 8 * taken / (64 * columns) <= method.bits_bound((64, columns))
    if columns % 16 == 0:
        assert method.bits_bound((64, columns)) == dataclasses.replace(method, allocation=False).bits_bound(
            (64, columns)
        )


@pytest.mark.parametrize("window", [8, 12])
def test_the_bits_of_wide_layers_stay_within_what_was_asked_of_the_format(window):
    for shape, most in {(4096, 4096): 2.05, (1536, 576): 2.10, (576, 576): 2.10}.items():
        assert Trellis(window=window).bits_bound(shape) <= most


def test_a_moment_of_rank_one():
    """Every token is the same up to its size: one weight of each row could make up for all others, and nearly
    does.
    """
    w, _ = case()
    x = torch.randn(96, generator=torch.Generator().manual_seed(4))
    stats = LinearStats({"text": torch.outer(x, x)}, {"text": 100})
    assert error(w, stats) < 0.01
    assert bool(Trellis().quantize(w, stats).dequantize().isfinite().all())


def test_rows_of_zeros_a_row_of_one_number_and_a_dead_input():
    w, stats = case()
    w[3], w[7] = 0.0, 0.02
    hessian = stats.hessian.clone()
    hessian[5], hessian[:, 5] = 0.0, 0.0
    dead = LinearStats({"text": hessian}, {"text": 100})
    q = Trellis().quantize(w, dead)
    assert not bool(q.dequantize()[3].any())
    assert float(q.row_scale[3]) == 0.0
    assert loss(w, q.dequantize(), dead) < 0.05 * loss(w, torch.zeros_like(w), dead)


def test_inputs_that_are_all_zero_leave_a_trellis_without_data():
    w, _ = case()
    silent = LinearStats({"text": torch.zeros(96, 96)}, {"text": 5})
    assert Trellis().quantize(w, silent) == Trellis(feedback=False).quantize(w, None)


def test_tiny_and_huge_weights_keep_their_precision():
    w, stats = case()
    reference = Trellis().quantize(w, stats).dequantize()
    for factor in (2.0**-60, 2.0**60):
        torch.testing.assert_close(
            Trellis().quantize(w * factor, stats).dequantize() / factor, reference, rtol=2e-3, atol=2e-4
        )


def test_the_seed_changes_the_signs_and_nothing_else_does():
    w, stats = case()
    assert Trellis(seed=1).quantize(w, stats) == Trellis(seed=1).quantize(w.clone(), stats)
    one, two = Trellis(seed=1).quantize(w, stats), Trellis(seed=2).quantize(w, stats)
    assert one != two
    assert (one.seed, two.seed) == (1, 2)
    errors = [loss(w, q.dequantize(), stats) for q in (one, two)]
    assert max(errors) < 1.2 * min(errors)


@needs_library
@pytest.mark.parametrize(("bits", "window"), [(1.0, 8), (2.0, 8), (2.5, 8), (3.5, 8), (2.0, 12)])
def test_the_same_bytes_with_the_library_and_without_it(monkeypatch, bits, window):
    w, stats = case(out=70, columns=48)
    method = Trellis(bits=bits, window=window)
    with_library = method.quantize(w, stats)
    monkeypatch.setattr(trellis, "search_columns", search_reference)
    assert method.quantize(w, stats) == with_library


# Allocation


def expected_error(cost, chosen, distortion):
    return sum(float(cost[run].sum()) * distortion[k] for run, k in zip(runs(len(cost)), chosen, strict=True))


@pytest.mark.parametrize("bits", [0.25, 0.5, 1.0, 1.3, 2.0, 2.75, 4.0])
@pytest.mark.parametrize("window", DISTORTION)
def test_no_other_allocation_of_the_same_bits_is_better(bits, window):
    random = torch.Generator().manual_seed(int(100 * bits))
    cost = torch.rand(64, generator=random).double() * torch.logspace(-2, 2, 4).repeat_interleave(16)
    chosen = allocated_bits(cost, bits, DISTORTION[window])
    least = 1 if bits >= 1 else 0  # no column is left out where there is a bit for each
    every = [choice for choice in itertools.product(range(least, 5), repeat=4) if sum(choice) <= 4 * bits]
    best = min(expected_error(cost, choice, DISTORTION[window]) for choice in every)
    assert sum(chosen.tolist()) <= 4 * bits
    assert expected_error(cost, chosen.tolist(), DISTORTION[window]) == pytest.approx(best, rel=1e-12)


@settings(deadline=None, max_examples=80)
@given(st.integers(1, 300), st.floats(0.25, 4.0), st.integers(0, 99))
def test_an_allocation_keeps_to_its_budget_and_leaves_no_bit_that_fits(columns, bits, seed):
    cost = torch.rand(columns, generator=torch.Generator().manual_seed(seed)).double() ** 8 + 1e-6
    chosen = allocated_bits(cost, bits, DISTORTION[8])
    left = bits * columns - int(column_bits(chosen, columns).sum())
    assert (chosen.dtype, len(chosen)) == (torch.uint8, -(-columns // 16))
    assert left >= -1e-6
    assert all(
        k == 4 or run.stop - run.start > left - 1e-6
        for run, k in zip(runs(columns), chosen.tolist(), strict=True)
    )


def test_columns_whose_errors_cost_more_get_more_bits():
    cost = torch.logspace(0, 3, 64).double()
    chosen = allocated_bits(cost, 2.0, DISTORTION[8]).tolist()
    assert chosen == sorted(chosen)
    assert chosen[0] < 2 < chosen[-1]


@settings(deadline=None, max_examples=80)
@given(st.integers(1, 300), st.floats(0.25, 4.0))
def test_even_bits_keep_to_their_budget_and_are_evenly_mixed(columns, bits):
    chosen = even_bits(bits, columns)
    given_bits, wanted = column_bits(chosen, columns).cumsum(0), bits * torch.arange(1, columns + 1).double()
    assert len(chosen) == -(-columns // 16)
    assert float(given_bits[-1]) <= float(wanted[-1]) + 1e-6
    ends = torch.tensor([run.stop for run in runs(columns)]) - 1
    assert bool((given_bits[ends] > wanted[ends] - 16 - 1e-6).all())
    if columns % 16 == 0:
        assert set(chosen.tolist()) <= {int(bits), min(4, int(bits) + 1)}


def test_even_bits_of_whole_and_half_numbers():
    assert even_bits(2.0, 100).tolist() == [2] * 7
    assert even_bits(1.5, 64).tolist() == [1, 2, 1, 2]
    assert even_bits(4.0, 17).tolist() == [4, 4]
    assert even_bits(0.25, 64).tolist() == [0, 0, 0, 1]


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(1, 16), st.sampled_from([16, 32, 128])
)
def test_blocks_have_one_number_of_bits_and_cover_every_column_once(chosen, last, block_size):
    run_bits, columns = torch.tensor(chosen, dtype=torch.uint8), 16 * (len(chosen) - 1) + last
    blocks = equal_blocks(run_bits, columns, block_size)
    assert [column for block in blocks for column in range(block.start, block.stop)] == list(range(columns))
    widths = column_bits(run_bits, columns)
    assert all(len(set(widths[block].tolist())) == 1 and block.start % 16 == 0 for block in blocks)
    assert all(block.stop - block.start <= block_size for block in blocks)
    for one, two in pairwise(blocks):  # none could have been joined to the next
        assert (
            widths[one.start] != widths[two.start]
            or one.stop - one.start + min(16, two.stop - two.start) > block_size
        )


# Row scales


def test_the_refit_is_least_squares_under_the_second_moment():
    w, stats = case(out=9, columns=24)
    values = torch.randint(-60, 61, (9, 24), generator=torch.Generator().manual_seed(2)).float() + 400 * w
    values[4], values[6] = 0.0, -values[6]
    through = values @ stats.hessian
    found = refitted((w * through).sum(1), (values * through).sum(1))
    root = np.linalg.cholesky(stats.hessian.double().numpy()).T
    for row in range(9):
        best = np.linalg.lstsq(
            root @ values[row].double().numpy()[:, None], root @ w[row].double().numpy(), rcond=None
        )[0][0]
        expected = best if best > 0 else 1.0  # nothing to scale, or a scale that would turn the row's signs
        assert float(found[row]) == pytest.approx(expected, rel=1e-4)
    assert (float(found[4]), float(found[6])) == (1.0, 1.0)


@pytest.mark.parametrize("given_settings", [{}, {"rotation": False}, {"refit": False}, {"damping": 0.3}])
def test_the_error_of_each_row_is_that_under_the_second_moment_without_damping(given_settings):
    w, stats = case(out=64, columns=96)
    hessian, method = stats.hessian, Trellis(bits=2.0, **given_settings)
    if not method.rotation:
        hessian[:, 7] = hessian[7] = 0.0  # an input that is always zero: damping adds more there
    rotation = Rotation(signs_of(0, 96), 1) if method.rotation else None
    moment = Moment.of(hessian, method.damping, rotation)
    run_bits = even_bits(2.0, 96)
    turned = w if rotation is None else rotation.turn(w)
    scale, lost, _ = method._searched(turned, moment, run_bits, 1.05)
    unit = turned.square().mean(1).sqrt() * 1.05 / UNIT
    values, _, _ = method._decide(turned / unit[:, None], moment, run_bits)
    away = turned - scale[:, None] * values
    away = (away if rotation is None else rotation.turn_back(away)).double()
    torch.testing.assert_close(lost.double(), ((away @ hessian.double()) * away).sum(1), rtol=1e-3, atol=0.0)


def test_the_scale_that_is_stored_is_within_its_rounding_the_best():
    w, stats = case()
    q = Trellis().quantize(w, stats)
    for factor in (0.97, 1.03):
        other = dataclasses.replace(q, row_scale=(q.row_scale.float() * factor).half())
        difference, changed = ((w - each.dequantize()).double() for each in (q, other))
        moment = stats.hessian.double()
        assert bool(
            (((changed @ moment) * changed).sum(1) > ((difference @ moment) * difference).sum(1)).all()
        )


# What the allocation believes


@pytest.mark.parametrize("window", DISTORTION)
def test_distortions_fall_less_and_less(window):
    steps = -np.diff(DISTORTION[window])
    assert DISTORTION[window][0] == 1.0
    assert (steps > 0).all()
    assert (np.diff(steps) < 0).all()


@needs_library
@pytest.mark.parametrize(("window", "strips"), [(8, 16), (12, 4)])
def test_distortions_are_those_of_the_search(window, strips):
    for k in (1, 2, 3, 4):
        w = UNIT * torch.randn(64, 64 * strips, generator=torch.Generator().manual_seed(k))
        values, _, _ = search_columns(
            w,
            torch.eye(64),
            window,
            k,
            standard_tables(window)[k - 1],
            torch.zeros(strips, dtype=torch.int32),
        )
        assert float((w - values).square().mean()) / UNIT**2 == pytest.approx(DISTORTION[window][k], rel=0.04)


@pytest.mark.parametrize("feedback", [True, False])
def test_a_width_that_cannot_be_rotated_is_left_unrotated(feedback, caplog):
    """1031 is a prime: its rotation would take more memory than the format allows."""
    w = 0.05 * torch.randn(32, 1031, generator=torch.Generator().manual_seed(0))
    stats = LinearStats({"text": torch.eye(1031)}, {"text": 1})
    q = (method := Trellis(feedback=feedback)).quantize(w, stats)
    assert not q.rotated
    assert TrellisWeight.decode(q.encode()) == q
    assert "without rotation: a prime factor is above 1024" in caplog.text
    assert method.quantize(w[:, :1030], LinearStats({"text": torch.eye(1030)}, {"text": 1})).rotated
    assert float((q.dequantize() - w).square().mean() / w.square().mean()) < 0.1
