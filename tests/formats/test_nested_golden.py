"""The worked examples of docs/format.md for `lowrank`, `raw` and `rows`: the bytes typed in here, those in
the document and those written are the same.
"""

import pytest
import torch

from bivlm.formats import LowrankWeight, RawWeight, RowsWeight, UniformWeight
from bivlm.formats.encoding.numbers import Numbers
from worked_examples import Golden, check_document, check_read, check_written, half, octets

NOTHING = torch.zeros(0, dtype=torch.float16)
RAW = Golden(
    weight=RawWeight(torch.tensor([[1, -2, 0.5], [3, 0, -0.0078125]], dtype=torch.bfloat16)),
    expanded=[[1, -2, 0.5], [3, 0, -0.0078125]],
    settings={"stored": "bfloat16"},
    tensors={"values": (torch.bfloat16, (2, 3), "80 3f 00 c0 00 3f 40 40 00 00 00 bc")},
)
ROWS = Golden(
    weight=RowsWeight(
        octets([2, 0, 1, 0]),
        (
            UniformWeight(
                octets([[0, 1, 2], [3, 3, 0]]),
                4,
                Numbers(half(1, 2).view(2, 1, 1), NOTHING),
                NOTHING,
                NOTHING,
                3,
                0,
            ),
            None,
            RawWeight(half(0.5, -2, 1)[None]),
        ),
    ),
    expanded=[[0.5, -2, 1], [-1.5, -0.5, 0.5], [0, 0, 0], [3, 3, -3]],
    settings={
        "classes": 3,
        "class0_rows": 2,
        "class0_format": "uniform",
        "class0_alphabet": 4,
        "class0_group_size": 3,
        "class0_exponent": 0,
        "class0_scales": "float16",
        "class0_zero_point": "middle",
        "class0_column_scale": False,
        "class1_rows": 1,
        "class1_format": "none",
        "class2_rows": 1,
        "class2_format": "raw",
        "class2_stored": "float16",
    },
    tensors={
        "row_classes": (torch.uint8, (1,), "0b"),
        "class0_codes": (torch.uint8, (2, 1), "24 0f"),
        "class0_scales": (torch.float16, (2, 1, 1), "00 3c 00 40"),
        "class2_values": (torch.float16, (1, 3), "00 38 00 c0 00 3c"),
    },
)
LOWRANK = Golden(
    weight=LowrankWeight(RawWeight(half(2, -1)[:, None]), RawWeight(half(1, -2, 0.5)[None])),
    expanded=[[2, -4, 1], [-1, 2, -0.5]],
    settings={
        "rank": 1,
        "left_format": "raw",
        "left_stored": "float16",
        "right_format": "raw",
        "right_stored": "float16",
    },
    tensors={
        "left_values": (torch.float16, (2, 1), "00 40 00 bc"),
        "right_values": (torch.float16, (1, 3), "00 3c 00 c0 00 38"),
    },
)
EXAMPLES = {"Lowrank example": LOWRANK, "Raw example": RAW, "Rows example": ROWS}

examples = pytest.mark.parametrize(("title", "golden"), EXAMPLES.items(), ids=EXAMPLES)


@examples
def test_the_bytes_that_are_written(title, golden):
    check_written(golden)


@examples
def test_the_weight_that_is_read(title, golden):
    check_read(golden)


@examples
def test_the_document_says_the_same(title, golden):
    check_document(title, golden)
