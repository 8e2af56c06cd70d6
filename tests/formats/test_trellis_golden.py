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

# Sixteen fields of each column, as the document has them
BLOCK_FIELDS = [
    "0011000111011101",
    "1000011000100001",
    "0110100110010101",
    "1110100111000100",
    "0100110011101111",
    "1101001101000001",
    "1011100110100000",
    "0000100001111001",
    "1001111001100000",
    "0001100010111001",
    "0101100100111110",
    "0000111000000101",
    "0001011101101001",
    "0010000000001001",
    "0101010101101010",
    "1011111010111100",
    "0101001010001001",
    "1101010110110110",
    "0011101000101000",
    "1011111001011001",
    "0100001101000100",
    "0111000101000101",
    "1100011000000101",
    "0111100001001010",
    "0100111001111110",
    "1101110111110010",
    "0101111001001101",
    "1000100101110011",
    "0010111001110010",
    "0000110001000101",
    "1001111111011101",
    "0000000111000010",
]
BLOCKS = Golden(
    weight=TrellisWeight(
        codes=pack_symbols(
            octets([[int(field) for field in column] for column in BLOCK_FIELDS]), octets([1, 1])
        ),
        columns=32,
        bits=octets([1, 1]),
        row_scale=half(1, 2),
        table=torch.zeros(0, 0, dtype=torch.int8),
        window=8,
        rotated=True,
        seed=1,
        exponent=5,
        blocks=2,
    ),
    expanded=[
        [
            *(-35.25, -54.75, 41.25, -6.75, 32.25, -34.75, 1.25, -16.25),
            *(-4.25, 37.75, -19.75, 28.25, 17.75, -39.25, 13.25, 27.75),
            *(-24, -31.5, 69, 15.5, -14, 12.5, 46, -19.5, -40.5, 4, 58.5, 20, 31.5, -17, -18.5, 12),
        ],
        [
            *(-66.5, 63.5, -30.5, 0.5, -23.5, -6.5, -54.5, -176.5),
            *(-51.5, -22.5, 42.5, -16.5, 106.5, 11.5, -17.5, -91.5),
            *(3, -75, -5, -1, 33, 11, -53, -57, 44, 10, 8, 20, -34, 0, -108, 8),
        ],
    ],
    settings={"window": 8, "rotated": True, "seed": 1, "exponent": 5, "fitted": False, "blocks": 2},
    tensors={
        "codes": (
            torch.uint8,
            (66,),
            (
                "00 00 8c bb 61 84 96 a9 97 23 32 f7 cb 82 9d 05 10 9e 79 06 18 9d 9a 7c 70 a0 e8 96 04 90 aa"
                " 56 7d 3d 4a 91 ab 6d 5c 14 7d 9a c2 22 8e a2 63 a0 1e 52 72 7e bb 4f 7a b2 91 ce 74 4e 30"
                " a2 f9 bb 80 43"
            ),
        ),
        "bits": (torch.uint8, (2,), "01 01"),
        "row_scale": (torch.float16, (2,), "00 3c 00 40"),
    },
)
SLICE = Golden(
    weight=BLOCKS.weight.slice_columns(16, 32),
    expanded=[row[16:] for row in BLOCKS.expanded],
    settings={"window": 8, "rotated": True, "seed": 1, "exponent": 5, "fitted": False, "first_column": 16},
    tensors={
        "codes": (
            torch.uint8,
            (34,),
            (
                "7d 3d 4a 91 ab 6d 5c 14 7d 9a c2 22 8e a2 63 a0 1e 52 72 7e bb 4f 7a b2 91 ce 74 4e 30 a2 f9"
                " bb 80 43"
            ),
        ),
        "bits": (torch.uint8, (1,), "01"),
        "row_scale": (torch.float16, (2,), "00 3c 00 40"),
    },
)
GOLDEN = {"Trellis example": EXAMPLE, "Trellis blocks example": BLOCKS, "Trellis slice example": SLICE}


def section(heading="## `trellis`"):
    """The text below a heading up to the next of its rank."""
    rank = heading.partition(" ")[0]
    return DOCUMENT.read_text(encoding="utf-8").partition(f"\n{heading}")[2].partition(f"\n{rank} ")[0]


@pytest.mark.parametrize("title", GOLDEN)
def test_the_bytes_that_are_written(title):
    check_written(GOLDEN[title])


@pytest.mark.parametrize("title", GOLDEN)
def test_the_weight_that_is_read(title):
    check_read(GOLDEN[title])


@pytest.mark.parametrize("title", GOLDEN)
def test_the_tables_of_the_document(title):
    check_document(title, GOLDEN[title])


def test_the_fields_and_weights_of_the_document():
    text = section("### Trellis example")
    assert re.findall(r"\b[0-3]{16}\b", text) == FIELDS
    weight = text.partition("    weight")[2].partition("\n\n")[0]
    assert [float(number) for number in weight.split()] == [
        number for row in EXAMPLE.expanded for number in row
    ]


def test_the_blocks_of_the_document():
    text = section("### Trellis blocks example")
    assert re.findall(r"\b[01]{16}\b", text) == BLOCK_FIELDS
    [signs] = re.findall(r"signs ([+-]+ [+-]+)\n", text)
    assert signs.replace(" ", "") == "".join("+" if sign > 0 else "-" for sign in signs_of(1, 32).tolist())
    rows = text.partition("    row 0")[2].partition("\n\n")[0].replace("row 1", "")
    assert [float(number) for number in rows.split()] == [n for row in BLOCKS.expanded for n in row]


def test_the_rotated_weight_of_the_document():
    rotated = dataclasses.replace(EXAMPLE.weight, rotated=True, seed=1)
    [(signs, first, last)] = re.findall(
        r"with seed 1, the signs are `([+-]+)`, and row 0 of the same tensors is (.*) … (.*)\.\n", section()
    )
    assert signs == "".join("+" if sign > 0 else "-" for sign in signs_of(1, 18).tolist())
    row = rotated.dequantize()[0].tolist()
    assert [float(number) for number in first.split()] == pytest.approx(row[:6], abs=2e-4)
    assert [float(number) for number in last.split()] == pytest.approx(row[-2:], abs=2e-4)


def test_the_levels_of_the_document():
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
