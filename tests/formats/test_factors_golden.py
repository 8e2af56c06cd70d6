"""The worked example of docs/format.md for `factors`: the bytes typed in here, those in the document and
those written are the same.
"""

import torch

from bivlm.formats import FactorsWeight
from worked_examples import Golden, check_document, check_read, check_written, half


def flags(*rows):
    return torch.tensor([[mark == "+" for mark in row] for row in rows])


EXAMPLE = Golden(
    weight=FactorsWeight(
        flags("+-+", "---"),
        flags("++--+", "-+++-", "+++--"),
        half(1, 3),
        half(1, 0.5, -2),
        half(1, 2, 1, 0.5, -1),
        -1,
    ),
    expanded=[[-0.25, -1.5, -1.75, 0.125, -1.75], [2.25, 1.5, 3.75, -1.125, 3.75]],
    settings={"rank": 3, "exponent": -1},
    tensors={
        "left_signs": (torch.uint8, (2, 1), "05 00"),
        "right_signs": (torch.uint8, (3, 1), "13 0e 07"),
        "row_scale": (torch.float16, (2,), "00 3c 00 42"),
        "middle_scale": (torch.float16, (3,), "00 3c 00 38 00 c0"),
        "column_scale": (torch.float16, (5,), "00 3c 00 40 00 3c 00 38 00 bc"),
    },
)


def test_the_bytes_that_are_written():
    check_written(EXAMPLE)


def test_the_weight_that_is_read():
    check_read(EXAMPLE)


def test_the_document_says_the_same():
    check_document("Factor example", EXAMPLE)
