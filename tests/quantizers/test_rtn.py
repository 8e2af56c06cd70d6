"""Round to nearest: the grid by hand, and every weight at its nearest grid point."""

import pytest
import torch

from bivlm.quantizers.rtn import RTN


def weight(seed=0):
    return 0.1 * torch.randn(6, 40, generator=torch.Generator().manual_seed(seed))


def test_without_a_search_it_is_the_textbook():
    w = torch.tensor([[-1.0, -0.4, 0.3, 2.0]])
    q = RTN(bits=2, group_size=4, zero_point="code", clip=False, scale_bits=32).quantize(w, None)
    assert q.codes.tolist() == [[0, 1, 1, 3]]
    assert q.zero_points.tolist() == [[1]]
    assert q.dequantize().tolist() == [[-1.0, 0.0, 0.0, 2.0]]


@pytest.mark.parametrize("zero_point", ["middle", "code", "free"])
def test_every_weight_lies_at_its_nearest_grid_point(zero_point):
    w = weight()
    q = RTN(bits=2, group_size=16, zero_point=zero_point).quantize(w, None)
    scale, columns = q.scales.expand()[..., 0], torch.arange(40) // 16
    zero = q.zero_points.float()[:, columns] if q.zero_points.numel() else torch.tensor(1.5)
    grid = (torch.arange(4)[:, None, None] - zero) * scale[:, columns]
    torch.testing.assert_close((w - q.dequantize()).abs(), (w - grid).abs().amin(0))


def test_the_search_lowers_the_error_and_eight_bits_are_nearly_exact():
    w = weight()
    plain, searched = (
        float((w - RTN(clip=clip).quantize(w, None).dequantize()).square().sum()) for clip in (False, True)
    )
    assert searched < plain
    assert float((w - RTN(bits=8).quantize(w, None).dequantize()).abs().max()) < 0.003


def test_codes_only_is_what_papers_count():
    assert RTN(bits=2).paper_bits(RTN(bits=2).quantize(weight(), None)) == 2.0
    assert RTN(alphabet=3).paper_bits(RTN(alphabet=3).quantize(weight(), None)) == pytest.approx(
        1.585, abs=1e-3
    )
