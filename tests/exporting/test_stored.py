"""Types of GGUF: what gguf's own code reads back from the bytes is the packed weight, bit for bit."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch

from bivlm.errors import InputError
from bivlm.exporting.stored import check_choice, encode, exact_type, type_that_fits
from bivlm.quantizers.rtn import RTN
from bivlm.quantizers.sign import Sign
from bivlm.quantizers.trellis import Trellis

KINDS = gguf.GGMLQuantizationType


def normal(rows, columns, scale=0.05):
    return scale * torch.randn(rows, columns, generator=torch.Generator().manual_seed(3))


def read_q1_0(content, rows):
    """Q1_0 once more, block by block: a float16, then sixteen bytes of signs, low bits first."""
    out = []
    for block in content.reshape(-1, 18):
        scale = float(block[:2].view(np.float16)[0])
        out += [scale if block[2 + j // 8] >> j % 8 & 1 else -scale for j in range(128)]
    return torch.tensor(out).view(rows, -1)


def test_signs_in_groups_of_128_are_q1_0():
    packed = Sign(group_size=128).quantize(normal(6, 384), None).encode()
    weight = Sign(group_size=128).quantize(normal(6, 384), None).dequantize()
    content = encode(weight, "Q1_0")
    assert exact_type(packed) == "Q1_0"
    assert content.shape == (6, 3 * 18)
    assert torch.equal(read_q1_0(content, 6), weight)
    assert content.tobytes() == packed.tensors["blocks"].numpy().tobytes()  # the very bytes of `planes`


def ternary(**more):
    return RTN(alphabet=3, zero_point="middle", **{"group_size": 256, "scale_bits": 16, **more})


def test_three_levels_in_groups_of_256_are_tq2_0():
    quantized = ternary().quantize(normal(5, 512), None)
    weight = quantized.dequantize()
    content = encode(weight, "TQ2_0")
    assert exact_type(quantized.encode()) == "TQ2_0"
    assert content.shape == (5, 2 * 66)
    assert content.tobytes() == gguf.quantize(weight.numpy(), KINDS.TQ2_0).tobytes()
    assert np.array_equal(gguf.dequantize(content, KINDS.TQ2_0), weight.numpy())


def test_a_scale_for_the_whole_row_is_exact_too():
    assert exact_type(ternary(group_size=512).quantize(normal(5, 512), None).encode()) == "TQ2_0"
    assert exact_type(Sign(group_size=256).quantize(normal(5, 512), None).encode()) == "Q1_0"


@pytest.mark.parametrize(
    "quantizer",
    [
        Sign(group_size=64),
        Sign(group_size=128, mean=True),
        Sign(group_size=128, scale_bits=32),
        ternary(group_size=128),
        ternary(scale_bits=8),
        RTN(alphabet=3, group_size=256),
        RTN(bits=2, group_size=256),
        Trellis(feedback=False),
    ],
    ids=str,
)
def test_anything_else_is_not(quantizer):
    assert exact_type(quantizer.quantize(normal(4, 512), None).encode()) is None


def test_columns_that_make_no_whole_groups_are_not():
    assert exact_type(Sign(group_size=128).quantize(normal(4, 320), None).encode()) is None


def test_a_row_that_is_different_is_seen_wherever_it_is():
    quantized = Sign(group_size=128).quantize(normal(6, 256), None)
    weight = quantized.dequantize()
    weight[5, 200] *= 2
    with pytest.raises(ValueError, match="not all values are those of Q1_0"):
        encode(weight, "Q1_0")


def test_a_group_of_zeros_is_ternary():
    weight = ternary().quantize(normal(2, 256), None).dequantize()
    weight[1] = 0
    assert np.array_equal(gguf.dequantize(encode(weight, "TQ2_0"), KINDS.TQ2_0), weight.numpy())


@pytest.mark.parametrize(("kind", "largest"), [("F32", 0), ("F16", 5e-4), ("BF16", 4e-3), ("Q8_0", 8e-3)])
def test_the_bridge_rounds_little(kind, largest):
    weight = normal(4, 96)
    back = torch.from_numpy(gguf.dequantize(encode(weight, kind), KINDS[kind]).astype(np.float32))
    assert float((back - weight).abs().max()) <= largest * float(weight.abs().max())


def test_what_f16_cannot_hold():
    with pytest.raises(ValueError, match="it holds 7e\\+04, and F16 ends at 65504"):
        encode(torch.tensor([[7e4]]), "F16")


def test_rows_that_are_no_whole_blocks_become_f16():
    assert [type_that_fits("Q8_0", columns) for columns in (64, 80)] == ["Q8_0", "F16"]
    assert type_that_fits("BF16", 80) == "BF16"


@pytest.mark.parametrize(
    ("kind", "packed", "said"),
    [
        ("Q4_K", True, "would quantize the packed weights a second time"),
        ("IQ2_XXS", True, r"0.076 to 0.080 in Q4_K and doubles to 0.157 in Q2_K"),
        ("TQ2_0", True, "is taken by itself wherever"),
        ("Q4_K", False, "run llama.cpp's llama-quantize"),
        ("F8", False, "choose F16, BF16, F32 or Q8_0"),
    ],
)
def test_other_types_are_refused(kind, packed, said):
    with pytest.raises(InputError, match=said):
        check_choice(kind, packed)
