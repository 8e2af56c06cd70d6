"""A small file must not take much memory: what is read from it, and what is refused, is bounded by its bytes
(docs/format.md, "Memory").
"""

import os
import resource
import struct

import pytest
import torch

from bivlm.formats import PackedTensor, format_named
from bivlm.formats.encoding.checks import MOST_WEIGHTS_PER_BYTE
from bivlm.formats.encoding.trellis_checks import LARGEST_PRIME, can_rotate
from bivlm.kernels.table import kernel_for
from bivlm.machine import reset_peak_memory
from reliability.corpus import corpus
from reliability.fuzz import fork, sanitized
from reliability.tensor_verdict import verdict
from weights import factors, levels

PER_BYTE, ALWAYS = 1024, 64 << 20  # bytes that a reader may take for each packed byte, and in any case

pytestmark = pytest.mark.skipif(sanitized(), reason="the sanitizers take more memory")


def growth(call):
    """Resident memory that a call adds, in bytes, measured in a process of its own; -1 if it raises
    ValueError.
    """
    reading, writing = os.pipe()
    child = fork()
    if child == 0:
        torch.set_num_threads(1)
        for name in ("factors", "levels of 4, tail 0.03", "trellis 70 x 50, window 8, rotated True"):
            verdict(corpus()[name], seed=1)  # the code itself takes memory, once
        reset_peak_memory()  # what the tests before have freed would hide what the call takes
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            call()
            found = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
        except ValueError:
            found = -1
        finally:
            os.write(writing, struct.pack("q", found))
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as ended:
        answer = ended.read()
    os.waitpid(child, 0)
    return struct.unpack("q", answer)[0]


def trellis(rows, columns, *, k=0, rotated=False):
    """Streams of zeros: `k` bits for every column."""
    runs, held = -(-columns // 16), rows // 64 * 64 + -(-(rows % 64) // 16) * 16
    tensors = {
        "codes": torch.zeros(2 * -(-rows // 64) + k * columns * held // 8, dtype=torch.uint8),
        "bits": torch.full((runs,), k, dtype=torch.uint8),
        "row_scale": torch.ones(rows, dtype=torch.float16),
    }
    settings = {"window": 8, "rotated": rotated, "seed": 0, "exponent": 0, "fitted": False}
    return PackedTensor("trellis", (rows, columns), tensors, settings)


def signs(rows, columns, rank):
    """A product of two matrices of signs, all minus."""
    tensors = {
        "left_signs": torch.zeros(rows, -(-rank // 8), dtype=torch.uint8),
        "right_signs": torch.zeros(rank, -(-columns // 8), dtype=torch.uint8),
        "row_scale": torch.ones(rows, dtype=torch.float16),
        "middle_scale": torch.ones(rank, dtype=torch.float16),
        "column_scale": torch.ones(columns, dtype=torch.float16),
    }
    return PackedTensor("factors", (rows, columns), tensors, {"rank": rank, "exponent": 0})


def all_tail(values):
    """Every weight in the tail, with a code or a value, at a position right after the one before."""
    rows, columns = 64, 4096
    count = rows * columns
    tensors = {
        "codes": torch.zeros(rows, columns // 8, dtype=torch.uint8),
        "levels": torch.zeros(1, 1, 2, dtype=torch.float16),
        "scale": torch.ones(1),
        "tail_low": torch.zeros(0, dtype=torch.uint8),
        "tail_high": torch.full((count // 8,), 255, dtype=torch.uint8),
    }
    settings = {"alphabet": 2, "symmetric": False, "group_size": columns, "tail": count, "tail_rice": 0}
    if values:
        tensors["tail_values"] = torch.ones(count, dtype=torch.float16)
        return PackedTensor("levels", (rows, columns), tensors, {**settings, "tail_kind": "values"})
    tensors["tail_levels"] = torch.zeros(4, dtype=torch.float16)
    tensors["tail_scale"] = torch.zeros(rows, dtype=torch.float16)
    tensors["tail_bits"] = torch.zeros(count // 8, dtype=torch.uint8)
    return PackedTensor("levels", (rows, columns), tensors, settings)


def test_growth_is_measured():
    assert growth(lambda: torch.ones(25 << 20)) >= 95 << 20
    assert growth(lambda: {}.__len__()) < 8 << 20
    assert growth(lambda: int("x")) == -1


ABSURD = {
    "no bits for many columns": trellis(1 << 14, 1 << 18),
    "a prime width": trellis(16, 65521, k=1, rotated=True),
    "twice a prime width": trellis(16, 2 * 1031, k=1, rotated=True),
    "one product of many signs": signs(1 << 18, 1 << 18, 1),
}
WIDE = {
    "as many columns without bits as may be": trellis(64, 1 << 17),
    "one row of columns without bits": trellis(1, 1 << 21),
    "the largest prime": trellis(16, 1021, k=1, rotated=True),
    "a rank that is larger than the weight": signs(8, 8, 1 << 18),
    "a weight that is all tail": all_tail(values=False),
    "a weight that is all tail of values": all_tail(values=True),
    "a table for every weight": levels(64, 512, alphabet=16, group_size=1).encode(),
}


@pytest.mark.parametrize("packed", ABSURD.values(), ids=ABSURD)
def test_what_is_far_larger_than_its_file_is_refused(packed):
    weight = format_named(packed.format)
    for call in (weight.check_packed, weight.decode, kernel_for(packed.format, "cpu")):
        with pytest.raises(ValueError, match=r"for each of its bytes|a prime factor above 1024"):
            call(packed)


@pytest.mark.parametrize("packed", WIDE.values(), ids=WIDE)
def test_what_is_accepted_takes_memory_in_proportion(packed):
    """Beyond the weight, or its rows, in float32 and once more in eight bits."""
    most, row = PER_BYTE * packed.nbytes + ALWAYS, 5 * packed.shape[1]
    weight, x = format_named(packed.format), torch.ones(1, packed.shape[1])
    assert 0 <= growth(lambda: weight.check_packed(packed)) <= most
    assert 0 <= growth(lambda: weight.decode(packed).dequantize()) <= most + packed.shape[0] * row
    assert 0 <= growth(lambda: weight.unpack_rows(packed, torch.zeros(1, dtype=torch.int64))) <= most + row
    assert 0 <= growth(lambda: kernel_for(packed.format, "cpu")(packed)(x, None)) <= most


def test_weights_for_each_byte():
    """At the bound a weight is read; one column more, and it is refused."""
    rows, rank = 4096, 1
    columns = next(
        count
        for count in range(4096, 1 << 16)
        if rows * count > MOST_WEIGHTS_PER_BYTE * signs(rows, count, rank).nbytes
    )
    format_named("factors").check_packed(signs(rows, columns - 1, rank))
    with pytest.raises(ValueError, match=f"needs {-(-rows * columns // 1024)} bytes"):
        format_named("factors").check_packed(signs(rows, columns, rank))
    with pytest.raises(ValueError, match="for each of its bytes"):
        factors(rows, columns, rank)


REAL_WIDTHS = (
    64,
    576,
    896,
    1152,
    1280,
    1408,
    1536,
    1664,
    2048,
    2304,
    2560,
    3072,
    3420,
    3584,
    4096,
    4304,
    4864,
)
REAL_WIDTHS += (
    5120,
    5632,
    6144,
    6912,
    7168,
    8192,
    8960,
    11008,
    12288,
    13696,
    13824,
    14336,
    15360,
    16384,
    17920,
)
REAL_WIDTHS += (18432, 18944, 21504, 22016, 24576, 25600, 27648, 28672, 29568, 32768, 36864, 53248, 73728)


def test_the_widths_of_real_models_are_rotated():
    assert all(map(can_rotate, REAL_WIDTHS))
    assert all(map(can_rotate, (1, 2, 1021, 1021**2)))
    assert not any(map(can_rotate, (1031, 4 * 1031, 1031**2)))
    assert LARGEST_PRIME == 1024
