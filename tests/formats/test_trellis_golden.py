"""The worked example of docs/format.md for `trellis`, and its tables: what is typed in here, in the document
and in the code are the same.
"""

import dataclasses
import re
import zlib

import pytest
import torch

from bivlm.formats import TrellisWeight
from bivlm.formats.encoding.rotation import signs_of
from bivlm.formats.encoding.trellis_code import FITTED, SPREAD, standard_tables
from bivlm.formats.trellis import pack_symbols
from worked_examples import DOCUMENT, Golden, check_document, check_read, check_written, half, octets

# Sixteen fields of each column
FIELDS = [
    "1200000000000331", "0000000000000320", "1220000000000102", "1020000000000211", "2220000000000023",
    "1110000000000320",
    "2020000000000213", "3230000000000311", "2200000000000003", "2320000000000110", "3130000000000212",
    "3210000000000200",
    "1210000000000021", "2300000000000020", "2200000000000222", "1300000000000213", "1010000000000101",
    "0100000000000101",
]  # fmt: skip
BITS = octets([2, 1])
EXAMPLE = Golden(
    weight=TrellisWeight(
        codes=pack_symbols(octets([[int(field) for field in column] for column in FIELDS]), BITS),
        columns=18,
        bits=BITS,
        row_scale=half(2, 1, -4),
        table=torch.zeros(0, 0, dtype=torch.int8),
        window=8,
        rotated=False,
        seed=0,
        exponent=4,
    ),
    expanded=[
        [-4, -52, -31, -28, -4, 67, -12, 9, -31, 14, 29, 9, 57, -31, -35, -16, -27, 37],
        [4, 2, -33.5, 8.5, 4, 2, 10, -41, 4, 8.5, -22.5, 27, 4, 4.5, -14, 24, 2.5, 4.5],
        [38, -102, -52, 24, -58, -122, 70, -106, 32, 8, -14, -30, -8, 8, -10, -56, -76, 72],
    ],
    settings={"window": 8, "rotated": False, "seed": 0, "exponent": 4, "fitted": False},
    tensors={
        "codes": (
            torch.uint8,
            (70,),
            (
                "00 00 09 00 00 7c 00 00 00 2c 29 00 00 84 21 00 00 58 2a 00 00 e0 15 00 00 2c 22 00 00 d8 3b"
                " 00 00 5c 0a 00 00 c0 2e 00 00 14 37 00 00 98 1b 00 00 08 19 00 00 60 0e 00 00 20 0a 00 00"
                " a8 0d 00 00 d8 05 a0 02 a0"
            ),
        ),
        "bits": (torch.uint8, (2,), "02 01"),
        "row_scale": (torch.float16, (3,), "00 40 00 3c 00 c4"),
    },
)


def section(heading="## `trellis`"):
    """The text below a heading up to the next of its rank."""
    rank = heading.partition(" ")[0]
    return DOCUMENT.read_text(encoding="utf-8").partition(f"\n{heading}")[2].partition(f"\n{rank} ")[0]


def test_the_bytes_that_are_written():
    check_written(EXAMPLE)


def test_the_weight_that_is_read():
    check_read(EXAMPLE)


def test_the_document_says_the_same():
    check_document("Trellis example", EXAMPLE)
    text = section("### Trellis example")
    assert re.findall(r"\b[0-3]{16}\b", text) == FIELDS
    weight = text.partition("    weight")[2].partition("\n\n")[0]
    assert [float(number) for number in weight.split()] == [
        number for row in EXAMPLE.expanded for number in row
    ]


def test_the_rotated_weight_of_the_document():
    rotated = dataclasses.replace(EXAMPLE.weight, rotated=True, seed=1)
    [(signs, first, last)] = re.findall(
        r"with seed 1, the signs are `([+-]+)`, and row 0 of the same tensors is (.*) … (.*)\.\n", section()
    )
    assert signs == "".join("+" if sign > 0 else "-" for sign in signs_of(1, 18).tolist())
    row = rotated.dequantize()[0].tolist()
    assert [float(number) for number in first.split()] == pytest.approx(row[:6], abs=2e-4)
    assert [float(number) for number in last.split()] == pytest.approx(row[-2:], abs=2e-4)


def test_the_tables_of_the_document():
    """Hexadecimal digits for a window of 8; the numbers of the formula for the others."""
    lines = re.findall(r"^    ([0-9a-f]{128})$", section("### The tables"), re.MULTILINE)
    assert ["".join(lines[4 * k : 4 * k + 4]) for k in range(4)] == list(FITTED)
    assert len(lines) == 16
    text = section("### The tables")
    [spreads] = re.findall(r"spread_K is ([\d., ]+) for K = 1, 2, 3, 4", text)
    assert [float(number) for number in spreads.split(", ")] == [SPREAD[k] for k in (1, 2, 3, 4)]
    for constant in (
        "0x9E3779B1",
        "0x2C1B3C6D",
        "0x297A2D39",
        "0x1B56C4E9",
    ):  # as test_trellis_code.py computes with them
        assert constant in text


def test_the_standard_tables_are_those_of_the_document_for_all_time():
    """A file without tables means these: checksums of the document for windows of 12 and 16."""
    rows = re.findall(
        r"^\| (12|16) \| `(\w+)` \| `(\w+)` \| `(\w+)` \| `(\w+)` \|$",
        section("### The tables"),
        re.MULTILINE,
    )
    assert [row[0] for row in rows] == ["12", "16"]
    for window, *checksums in rows:
        assert [
            f"{zlib.crc32(table.numpy().tobytes()):08x}" for table in standard_tables(int(window))
        ] == checksums
