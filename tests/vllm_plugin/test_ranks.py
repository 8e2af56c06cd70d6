"""The ranks of a tensor-parallel group together hold a packed weight, and their products make its product."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from bivlm.errors import InputError
from bivlm.formats import FORMATS, format_named
from bivlm.formats.raw import RawWeight
from bivlm.packed.module import prepared_bytes
from bivlm.vllm_plugin.ranks import HeldLinear, HeldRows, Outputs, Rows, prepared, split_inputs
from reliability.corpus import corpus
from trellis_weights import trellis_weight
from weights import Draw


def product(packed, x):
    return x @ format_named(packed.format).decode(packed).dequantize().T


def assert_near(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def weights_to_divide():
    """One of every format, with 128 rows or so and 192 columns."""
    made = corpus()
    first = {one: next(packed for packed in made.values() if packed.format == one) for one in sorted(FORMATS)}
    raw = RawWeight.of(Draw(128, 192).normal(128, 192)).encode()
    return {**first, "raw": raw, "trellis": trellis_weight(200, 192, (2, 0, 3, 1)).encode()}


@pytest.mark.parametrize("size", [1, 2, 4])
def test_separate_weights_are_cut_at_the_same_share(size):
    outputs = Outputs.of([64, 32, 32], [64 // size, 32 // size, 32 // size], size)
    assert outputs.owner == (0, 1, 2)
    rows = [outputs.rows(rank, size) for rank in range(size)]
    assert rows[-1] == [
        Rows(0, 64 - 64 // size, 64),
        Rows(1, 32 - 32 // size, 32),
        Rows(2, 32 - 32 // size, 32),
    ]


def test_fewer_heads_of_keys_than_ranks_are_held_twice():
    outputs = Outputs.of([64, 16, 16], [16, 8, 8], 4, replicas=2)
    assert [outputs.rows(rank, 4)[1] for rank in range(4)] == [
        Rows(1, 0, 8),
        Rows(1, 0, 8),
        Rows(1, 8, 16),
        Rows(1, 8, 16),
    ]
    assert [outputs.rows(rank, 4)[0].start for rank in range(4)] == [0, 16, 32, 48]


def test_a_weight_that_is_fused_in_the_checkpoint_is_cut_inside_every_output():
    outputs = Outputs.of([128], [32, 16, 16], 2)
    assert outputs.owner == (0, 0, 0)
    assert outputs.rows(1, 2) == [Rows(0, 32, 64), Rows(0, 80, 96), Rows(0, 112, 128)]
    assert Outputs.of([128], [64, 32, 32], 1).rows(0, 1) == [Rows(0, 0, 128)]


def test_some_outputs_may_be_one_weight():
    outputs = Outputs.of([128, 64], [32, 16, 16, 32], 2)
    assert outputs.owner == (0, 0, 0, 1)
    assert outputs.rows(0, 2)[-1] == Rows(1, 0, 32)


def test_a_weight_in_full_precision_is_one_output():
    outputs = Outputs.of([64, None, 32], [32, 16, 16], 2)
    assert outputs.owner == (0, 1, 2)
    assert outputs.rows(1, 2)[1] == Rows(1, 16, 32)


@pytest.mark.parametrize("stored", [[64, 32], [64, 32, 33], [200], [64, 32, 32, 32]])
def test_weights_that_do_not_fit_the_layer_are_refused(stored):
    with pytest.raises(InputError, match=r"rows, and vLLM's layer has the outputs \[64, 32, 32\]"):
        Outputs.of(stored, [64, 32, 32], 1)


@pytest.mark.parametrize("format_", sorted(FORMATS))
@pytest.mark.parametrize("size", [2, 3])
def test_rows_of_all_ranks_make_the_product(format_, size):
    packed = weights_to_divide()[format_]
    rows, columns = packed.shape
    x, bias = Draw(rows, size).normal(5, columns), Draw(size, 3).normal(rows)
    edges = [rows * rank // size for rank in range(size + 1)]
    found = [
        HeldLinear([packed], [Rows(0, start, stop)], torch.float32)(x, bias[start:stop])
        for start, stop in pairwise(edges)
    ]
    expected = product(packed, x) + bias
    assert_near(torch.cat(found, -1), expected)


@pytest.mark.parametrize(
    ("format_", "size"), [*((one, 2) for one in sorted(FORMATS)), ("trellis", 3), ("trellis", 4)]
)
def test_inputs_of_all_ranks_make_the_product(format_, size):
    packed = weights_to_divide()[format_]
    rows, columns = packed.shape
    x, bias = Draw(rows, size).normal(5, columns), Draw(size, 3).normal(rows)
    total, width = torch.zeros(5, rows), columns // size
    for rank in range(size):
        held = split_inputs(packed, rank, size, torch.float32)
        own = x if held.gathers else x[:, rank * width : (rank + 1) * width]
        total += held(own, bias if rank == 0 else None)
    expected = product(packed, x) + bias
    assert_near(total, expected)


def test_blocks_of_the_rotation_are_cut_and_one_block_is_gathered():
    whole, blocks = (trellis_weight(128, 192, blocks=count).encode() for count in (1, 2))
    assert split_inputs(whole, 1, 2, torch.float32).gathers
    assert split_inputs(whole, 1, 2, torch.float32).zeros == (64, 0)
    assert not split_inputs(blocks, 1, 2, torch.float32).gathers


def test_a_rank_holds_whole_strips_alone():
    packed = trellis_weight(256, 64).encode()
    part = HeldRows(packed, 96, 192, torch.float32)
    assert (part.weight.rows, part.skipped, part.count) == (128, 32, 96)
    index = torch.tensor([0, 95, 7])
    expected = format_named("trellis").decode(packed).dequantize()[96:192][index]
    torch.testing.assert_close(part.look_up(index), expected)


def test_packed_and_full_weights_stand_side_by_side():
    packed, plain = trellis_weight(64, 64).encode(), Draw(64, 1).normal(32, 64)
    x, bias = Draw(3, 3).normal(2, 64), Draw(4, 4).normal(96)
    held = HeldLinear([packed, plain], [Rows(0, 0, 64), Rows(1, 0, 32)], torch.float32)
    expected = torch.cat([product(packed, x), x @ plain.T], -1) + bias
    assert_near(held(x, bias), expected)


@pytest.mark.parametrize("format_", sorted(FORMATS))
def test_torchs_default_dtype_changes_nothing(format_):
    """vLLM prepares weights while it is the model's."""
    packed = weights_to_divide()[format_]
    x = Draw(3, 3).normal(2, packed.shape[1])
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = HeldLinear([packed], [Rows(0, 0, packed.shape[0] // 2)], torch.float32)(x, None)
    finally:
        torch.set_default_dtype(before)
    expected = HeldLinear([packed], [Rows(0, 0, packed.shape[0] // 2)], torch.float32)(x, None)
    assert torch.equal(found, expected)


def test_kernels_are_prepared_before_the_first_question():
    held = prepared(HeldRows(trellis_weight(64, 64).encode(), 0, 64, torch.float32), torch.device("cpu"))
    assert prepared_bytes(held) > 0
