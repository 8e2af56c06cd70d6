"""The worked examples of docs/format.md: the bytes typed in here, the bytes in the document and the bytes
that are written are the same.
"""

import pytest
import torch

from bivlm.formats import LevelsWeight
from worked_examples import Golden, check_document, check_read, check_written, half, octets

GOLDEN = {
    "Example 1": Golden(
        weight=LevelsWeight(
            codes=octets([[0, 1, 2, 3, 4, 5, 5], [5, 4, 3, 2, 1, 0, 1]]),
            levels=half(0.25, 0.5, 1, 0.5, 1, 2).view(1, 2, 3),
            scale=torch.tensor(0.5),
            alphabet=6,
            symmetric=True,
            group_size=4,
            tail_positions=torch.tensor([], dtype=torch.int64),
            tail_codes=octets([]),
            tail_levels=half(0, 0, 0, 0),
            tail_scale=half(),
        ),
        expanded=[[-0.5, -0.25, -0.125, 0.125, 0.5, 1, 1], [0.5, 0.25, 0.125, -0.125, -0.5, -1, -0.5]],
        settings={"alphabet": 6, "symmetric": True, "group_size": 4, "tail": 0, "tail_rice": 0},
        tensors={
            "codes": (torch.uint8, (2, 3), "4e cf 05 89 08 01"),
            "levels": (torch.float16, (1, 2, 3), "00 34 00 38 00 3c 00 38 00 3c 00 40"),
            "scale": (torch.float32, (1,), "00 00 00 3f"),
        },
    ),
    "Example 2": Golden(
        weight=LevelsWeight(
            codes=octets([[1, 0, 1, 0, 1, 1, 0, 0, 1, 0], [0, 1, 1, 0, 0, 1, 0, 1, 0, 1]]),
            levels=half(0.5, 0.75).view(2, 1, 1),
            scale=torch.tensor(0.25),
            alphabet=2,
            symmetric=True,
            group_size=10,
            tail_positions=torch.tensor([3, 13, 18]),
            tail_codes=octets([3, 1, 2]),
            tail_levels=half(-2, -1, 1, 2),
            tail_scale=half(1.5, 1),
        ),
        expanded=[
            [0.125, -0.125, 0.125, 0.75, 0.125, 0.125, -0.125, -0.125, 0.125, -0.125],
            [-0.1875, 0.1875, 0.1875, -0.25, -0.1875, 0.1875, -0.1875, 0.1875, 0.25, 0.1875],
        ],
        settings={"alphabet": 2, "symmetric": True, "group_size": 10, "tail": 3, "tail_rice": 2},
        tensors={
            "codes": (torch.uint8, (2, 2), "3d 01 a6 03"),
            "levels": (torch.float16, (2, 1, 1), "00 38 00 3a"),
            "scale": (torch.float32, (1,), "00 00 80 3e"),
            "tail_low": (torch.uint8, (1,), "07"),
            "tail_high": (torch.uint8, (1,), "29"),
            "tail_levels": (torch.float16, (4,), "00 c0 00 bc 00 3c 00 40"),
            "tail_scale": (torch.float16, (2,), "00 3e 00 3c"),
            "tail_bits": (torch.uint8, (1,), "03"),
        },
    ),
    "Example 3": Golden(
        weight=LevelsWeight(
            codes=octets([[9, 8, 7, 1, 0, 0, 3]]),
            levels=half(-4, -3, -2, -1, 0, 1, 2, 3, 4, 5).view(1, 1, 10),
            scale=torch.tensor(1.0),
            alphabet=10,
            symmetric=False,
            group_size=7,
            tail_positions=torch.tensor([5]),
            tail_codes=octets([2]),
            tail_levels=half(-2, -1, 1, 2),
            tail_scale=half(8),
        ),
        expanded=[[5, 4, 3, -3, -4, 8, -1]],
        settings={"alphabet": 10, "symmetric": False, "group_size": 7, "tail": 1, "tail_rice": 0},
        tensors={
            "codes": (torch.uint8, (1, 4), "15 27 33 00"),
            "levels": (
                torch.float16,
                (1, 1, 10),
                "00 c4 00 c2 00 c0 00 bc 00 00 00 3c 00 40 00 42 00 44 00 45",
            ),
            "scale": (torch.float32, (1,), "00 00 80 3f"),
            "tail_low": (torch.uint8, (0,), ""),
            "tail_high": (torch.uint8, (1,), "20"),
            "tail_levels": (torch.float16, (4,), "00 c0 00 bc 00 3c 00 40"),
            "tail_scale": (torch.float16, (1,), "00 48"),
        },
    ),
    "Example 4": Golden(
        weight=LevelsWeight(
            codes=octets([[0, 2, 0, 1, 2], [1, 1, 0, 2, 0]]),
            levels=half(-1, 0, 1).view(1, 1, 3),
            scale=torch.tensor(0.5),
            alphabet=3,
            symmetric=False,
            group_size=5,
            tail_positions=torch.tensor([2, 9]),
            tail_codes=octets([]),
            tail_levels=half(0, 0, 0, 0),
            tail_scale=half(),
            tail_values=half(6, -5),
        ),
        expanded=[[-0.5, 0.5, 3, 0, 0.5], [0, 0, -0.5, 0.5, -2.5]],
        settings={
            "alphabet": 3,
            "symmetric": False,
            "group_size": 5,
            "tail": 2,
            "tail_rice": 0,
            "tail_kind": "values",
        },
        tensors={
            "codes": (torch.uint8, (2, 1), "c3 3a"),
            "levels": (torch.float16, (1, 1, 3), "00 bc 00 00 00 3c"),
            "scale": (torch.float32, (1,), "00 00 00 3f"),
            "tail_low": (torch.uint8, (0,), ""),
            "tail_high": (torch.uint8, (2,), "04 02"),
            "tail_values": (torch.float16, (2,), "00 46 00 c5"),
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
