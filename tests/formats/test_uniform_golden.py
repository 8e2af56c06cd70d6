"""The worked examples of docs/format.md for `uniform`."""

import pytest
import torch

from bivlm.formats import UniformWeight
from bivlm.formats.encoding.numbers import Numbers
from worked_examples import Golden, check_document, check_read, check_written, half, octets

GOLDEN = {
    "Uniform example 1": Golden(
        weight=UniformWeight(
            codes=octets([[0, 1, 2, 1, 2, 2, 0], [2, 0, 1, 1, 0, 1, 2]]),
            alphabet=3,
            scales=Numbers(octets([2, 3, 1, 4]).view(2, 2, 1), half(0.5, 1).view(2, 1)),
            zero_points=octets([[1, 2], [0, 1]]),
            column_scale=half(),
            group_size=4,
            exponent=-1,
        ),
        expanded=[[-0.5, 0, 0.5, 0, 0, 0, -1.5], [1, 0, 0.5, 0.5, -2, 0, 2]],
        settings={
            "alphabet": 3,
            "group_size": 4,
            "exponent": -1,
            "scales": "uint8",
            "zero_point": "code",
            "column_scale": False,
        },
        tensors={
            "codes": (torch.uint8, (2, 2), "d2 02 26 07"),
            "scales": (torch.uint8, (2, 2, 1), "02 03 01 04"),
            "scale_unit": (torch.float16, (2, 1), "00 38 00 3c"),
            "zero_points": (torch.uint8, (2, 1), "07 03"),
        },
    ),
    "Uniform example 2": Golden(
        weight=UniformWeight(
            codes=octets([[3, 0, 1, 2, 3]]),
            alphabet=4,
            scales=Numbers(half(0.5, 2).view(1, 2, 1), half()),
            zero_points=half(1.5, 0.25).view(1, 2),
            column_scale=half(1, 2, 0.5, 1, 4),
            group_size=3,
            exponent=0,
        ),
        expanded=[[0.75, -1.5, -0.125, 3.5, 22]],
        settings={
            "alphabet": 4,
            "group_size": 3,
            "exponent": 0,
            "scales": "float16",
            "zero_point": "free",
            "column_scale": True,
        },
        tensors={
            "codes": (torch.uint8, (1, 2), "93 03"),
            "scales": (torch.float16, (1, 2, 1), "00 38 00 40"),
            "zero_points": (torch.float16, (1, 2), "00 3e 00 34"),
            "column_scale": (torch.float16, (5,), "00 3c 00 40 00 38 00 3c 00 44"),
        },
    ),
}

examples = pytest.mark.parametrize(("title", "golden"), GOLDEN.items(), ids=GOLDEN)


@examples
def test_the_bytes_that_are_written(title, golden):
    check_written(golden)


@examples
def test_the_weight_that_is_read(title, golden):
    check_read(golden)


@examples
def test_the_document_says_the_same(title, golden):
    check_document(title, golden)
