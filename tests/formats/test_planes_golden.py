"""The worked examples of docs/format.md for `planes`: the bytes typed in here, those in the document and
those written are the same.
"""

import pytest
import torch

from bivlm.formats import PlanesWeight
from bivlm.formats.encoding.numbers import Numbers
from worked_examples import Golden, check_document, check_read, check_written, half


def flags(*rows):
    return torch.tensor([[mark == "+" for mark in row] for row in rows])


def plain(signs, scales, **fields):
    """A weight of bare signs and scales, but for `fields`."""
    nothing = {
        "parts": 1,
        "salient_parts": 0,
        "partition": torch.zeros_like(signs),
        "salient": torch.zeros_like(signs[0]),
        "second_signs": torch.zeros_like(signs),
        "means": None,
        "column_scales": torch.zeros(0, 0, dtype=torch.float16),
        "tail_positions": torch.tensor([], dtype=torch.int64),
        "tail_codes": torch.tensor([], dtype=torch.uint8),
        "tail_scale": half(),
        "tail_zero": half(),
        "exponent": 0,
    }
    return PlanesWeight(**{**nothing, "signs": signs, "scales": scales, **fields})


def settings(**changes):
    bare = {
        "parts": 1,
        "salient_parts": 0,
        "salient_columns": 0,
        "group_size": 8,
        "exponent": 0,
        "scales": "float16",
        "means": "none",
    }
    return {**bare, "column_scales": False, "tail": 0, "tail_rice": 0, **changes}


GOLDEN = {
    "Plane example 1": Golden(
        weight=plain(flags("++-+---+----++++"), Numbers(half(0.5, 2).view(1, 2, 1), half()), group_size=8),
        expanded=[[0.5, 0.5, -0.5, 0.5, -0.5, -0.5, -0.5, 0.5, -2, -2, -2, -2, 2, 2, 2, 2]],
        settings=settings(),
        tensors={"blocks": (torch.uint8, (1, 2, 3), "00 38 8b 00 40 f0")},
    ),
    "Plane example 2": Golden(
        weight=plain(
            flags("++-+--"),
            Numbers(
                torch.tensor([[[1, 4, 8, 2], [2, 3, 6, 1]]], dtype=torch.uint8),
                half(0.25, 0.25, 0.5, 0.5)[None],
            ),
            parts=2,
            salient_parts=1,
            partition=flags("--+--+"),
            salient=flags("-+--+-")[0],
            second_signs=flags("----+-"),
            means=Numbers(
                torch.tensor([[[1, -1, 2], [0, 2, -4]]], dtype=torch.int8), half(0.125, 0.125, 0.125)[None]
            ),
            column_scales=torch.stack(
                [
                    half(1, 0, 0.5, 2, 0, 1),
                    half(1, 0, 1, 0.5, 0, 2),
                    half(0, 1, 0, 0, 0.5, 0),
                    half(0, 2, 0, 0, 1, 0),
                ]
            ),
            group_size=4,
            exponent=1,
        ),
        expanded=[[0.75, 4.5, -2.25, 1.25, -3, -2.5]],
        settings=settings(
            parts=2,
            salient_parts=1,
            salient_columns=2,
            group_size=4,
            exponent=1,
            scales="uint8",
            means="int8",
            column_scales=True,
        ),
        tensors={
            "signs": (torch.uint8, (1, 1), "0b"),
            "partition": (torch.uint8, (1, 1), "0a"),
            "salient": (torch.uint8, (1,), "12"),
            "second_signs": (torch.uint8, (1, 1), "02"),
            "scales": (torch.uint8, (1, 2, 4), "01 04 08 02 02 03 06 01"),
            "scale_unit": (torch.float16, (1, 4), "00 34 00 34 00 38 00 38"),
            "means": (torch.int8, (1, 2, 3), "01 ff 02 00 02 fc"),
            "mean_unit": (torch.float16, (1, 3), "00 30 00 30 00 30"),
            "column_scales": (
                torch.float16,
                (12,),
                "00 3c 00 38 00 40 00 3c 00 3c 00 3c 00 38 00 40 00 3c 00 38 00 40 00 3c",
            ),
        },
    ),
    "Plane example 3": Golden(
        weight=plain(
            flags("+--+-+", "--++--"),
            Numbers(half(0.5, 0.75).view(2, 1, 1), half()),
            tail_positions=torch.tensor([2, 6, 11]),
            tail_codes=torch.tensor([200, 7, 129], dtype=torch.uint8),
            tail_scale=half(0.0625, 0.125),
            tail_zero=half(100, 127.5),
            group_size=6,
        ),
        expanded=[[0.5, -0.5, 6.25, 0.5, -0.5, 0.5], [-15.0625, -0.75, 0.75, 0.75, -0.75, 0.1875]],
        settings=settings(group_size=6, tail=3),
        tensors={
            "signs": (torch.uint8, (2, 1), "29 2d"),
            "scales": (torch.float16, (2, 1, 1), "00 38 00 3a"),
            "tail_low": (torch.uint8, (0,), ""),
            "tail_high": (torch.uint8, (2,), "44 08"),
            "tail_bits": (torch.uint8, (3,), "e4 01 10"),
            "tail_scale": (torch.float16, (2,), "00 2c 00 30"),
            "tail_zero": (torch.float16, (2,), "40 56 f8 57"),
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
