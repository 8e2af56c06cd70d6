"""The trellis with a rotation in blocks: what it costs, how many a width gets, and that it can be split."""

import pytest
import torch

from bivlm.errors import InputError
from bivlm.formats import TrellisWeight, slice_columns
from bivlm.job.recipe import build_quantizer, load_recipe
from bivlm.quantizers.trellis import Trellis
from bivlm.types import LinearStats


def case(out=64, columns=256, seed=0):
    """Correlated inputs, one of them ten times as strong."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(1000, columns, generator=random)
    x += torch.randn(1000, 8, generator=random) @ torch.randn(8, columns, generator=random)
    x[:, 5] *= 10
    moments = LinearStats({"text": x.T @ x / len(x)}, {"text": len(x)})
    return 0.05 * torch.randn(out, columns, generator=random), moments


def error(w, stats, **settings):
    difference = (w - Trellis(**settings).quantize(w, stats).dequantize()).double()
    hessian = stats.hessian.double()
    return float(((difference @ hessian) * difference).sum() / ((w.double() @ hessian) * w).sum())


@pytest.mark.parametrize("blocks", [2, 4, 8])
def test_blocks_cost_little(blocks):
    w, stats = case()
    assert error(w, stats, blocks=blocks) < 1.1 * error(w, stats, blocks=1)


@pytest.mark.parametrize("feedback", [True, False])
def test_a_weight_can_be_split_between_its_blocks(feedback):
    w, stats = case()
    quantized = Trellis(blocks=4, feedback=feedback).quantize(w, stats)
    assert (quantized.blocks, quantized.first_column) == (4, 0)
    assert float((quantized.dequantize() - w).square().mean() / w.square().mean()) < 0.3
    packed, x = quantized.encode(), torch.randn(2, 256, generator=torch.Generator().manual_seed(1))
    parts = [
        TrellisWeight.decode(slice_columns(packed, at, at + 64)).dequantize() for at in range(0, 256, 64)
    ]
    together = sum(x[:, 64 * i : 64 * i + 64] @ part.T for i, part in enumerate(parts))
    torch.testing.assert_close(together, x @ quantized.dequantize().T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("columns", "asked", "given"),
    [(256, 8, 8), (96, 8, 2), (96, 6, 6), (96, 7, 1), (72, 8, 1), (144, 8, 1), (160, 5, 5), (64, 64, 4)],
)
def test_a_width_has_as_many_blocks_as_it_can_be_cut_into(columns, asked, given):
    """Of the numbers that divide what is asked for, the largest that leaves blocks of whole runs."""
    assert Trellis(blocks=asked, feedback=False).quantize(case(16, columns)[0], None).blocks == given


def test_there_is_one_block_where_nothing_else_is_said():
    assert Trellis(feedback=False).quantize(case(16, 4096)[0], None).blocks == 1


def test_a_width_that_cannot_be_rotated_has_one_block():
    w = case(16, 1031)[0]
    quantized = Trellis(feedback=False, blocks=8).quantize(w, None)
    assert (quantized.rotated, quantized.blocks) == (False, 1)


def test_a_recipe_may_set_them():
    [rule] = load_recipe("trellis-2:blocks=8").rules
    assert build_quantizer(rule).blocks == 8


@pytest.mark.parametrize("blocks", ["0", "65", "2.5", "many"])
def test_other_numbers_are_refused(blocks):
    with pytest.raises(InputError, match="blocks"):
        load_recipe(f"trellis-2:blocks={blocks}")
