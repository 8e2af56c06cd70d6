"""Sign binarization against its closed forms."""

import pytest
import torch

from bivlm.quantizers.sign import Sign
from bivlm.types import LinearStats


def weight(out=12, columns=40, seed=0):
    return torch.randn(out, columns, generator=torch.Generator().manual_seed(seed)) + 0.1


def stats(columns=40):
    random = torch.Generator().manual_seed(5)
    x = torch.randn(400, columns, generator=random) @ torch.randn(columns, columns, generator=random)
    return LinearStats({"text": x.T @ x / 400}, {"text": 400})


def loss(w, q, moment):
    return float((((w - q) @ moment) * (w - q)).sum())


@pytest.mark.parametrize("group_size", [8, 16, 100])
def test_scale_is_the_mean_magnitude_of_the_group(group_size):
    w = weight()
    q = Sign(group_size=group_size, scale_bits=32).quantize(w, None).dequantize()
    for start in range(0, 40, group_size):
        group = w[:, start : start + group_size]
        torch.testing.assert_close(
            q[:, start : start + group_size], group.abs().mean(1, keepdim=True) * group.sign()
        )


def test_with_mean_the_rest_is_binarized():
    w = weight() + 2
    q = Sign(group_size=16, mean=True, scale_bits=32).quantize(w, None).dequantize()
    group = w[:, 32:]
    centred = group - group.mean(1, keepdim=True)
    torch.testing.assert_close(
        q[:, 32:], group.mean(1, keepdim=True) + centred.abs().mean(1, keepdim=True) * centred.sign()
    )


def test_feedback_and_refit_each_lower_the_error_of_the_layer():
    w, given = weight(), stats()
    plain = Sign(group_size=16).quantize(w, given).dequantize()
    fed = Sign(group_size=16, compensate=True, refit=False).quantize(w, given).dequantize()
    refitted = Sign(group_size=16, compensate=True).quantize(w, given).dequantize()
    assert loss(w, refitted, given.hessian) <= loss(w, fed, given.hessian) < loss(w, plain, given.hessian)


def test_a_plain_plane_in_groups_of_128_is_one_tensor_of_18_byte_blocks():
    packed = Sign().quantize(0.02 * weight(4, 256), None).encode()
    assert {name: tuple(tensor.shape) for name, tensor in packed.tensors.items()} == {"blocks": (4, 2, 18)}
    assert packed.bits_per_weight() == 1.125


def test_the_paper_counts_the_signs_alone():
    assert Sign().paper_bits(Sign().quantize(weight(), None)) == 1.0
