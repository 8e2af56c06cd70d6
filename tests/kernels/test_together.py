"""Several products together give the numbers of each alone, bit for bit: weights of unlike formats and
settings, few rows and many, rows that are the same memory, any dtype, instruction set, number of threads.
"""

import pytest
import torch

from bivlm.kernels import together
from bivlm.kernels.table import kernel_for
from bivlm.kernels.together import Part, multiply
from bivlm.native.library import library, status
from made_weights import made_planes
from trellis_weights import trellis_weight
from weights import Draw, factors, levels, planes, uniform

OUT, IN = 72, 160
WEIGHTS = [
    trellis_weight(OUT, IN),
    trellis_weight(OUT, IN, (3, 1)),
    levels(OUT, IN, symmetric=True),
    trellis_weight(OUT, IN, (2, 0, 4), window=12),
    levels(OUT, IN, alphabet=8, group_size=32, tail=0.02),
    uniform(OUT, IN, group_size=32, zero="code"),
    uniform(OUT, IN, column_scale=True),
    planes(OUT, IN, group_size=32),
    made_planes(OUT, IN, 32, parts=2, salient_parts=1, salient=(3, 70, 159), means=True, column_scales=True),
    factors(OUT, IN, 40),
    trellis_weight(OUT, IN, rotated=False),
]
pytestmark = pytest.mark.skipif(library() is None, reason=status().why)


def drawn(rows, dtype, int8=False, weights=WEIGHTS):
    """The parts, with every second one's bias, and their input."""
    draw = Draw(sum(rows), IN)
    parts = []
    for i, (weight, count) in enumerate(zip(weights, rows, strict=True)):
        packed = weight.encode()
        bias = draw.normal(OUT).to(dtype) if i % 2 else None
        parts.append(Part(kernel_for(packed.format, "cpu")(packed), bias, count, int8))
    return parts, draw.normal(sum(rows), IN).to(dtype)


def alone(parts, x):
    some = x.split([part.rows for part in parts])
    return torch.cat([part.product(own, part.bias, part.int8) for part, own in zip(parts, some, strict=True)])


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_the_same_bits(dtype, int8, instruction_set):
    for rows in ([1] * len(WEIGHTS), [1 + i % 4 for i in range(len(WEIGHTS))]):
        parts, x = drawn(rows, dtype, int8)
        assert torch.equal(multiply(parts, x, OUT), alone(parts, x))


def test_one_row_for_all(instruction_set):
    parts, x = drawn([1] * len(WEIGHTS), torch.bfloat16)
    shared = x[:1].expand(len(parts), -1)
    assert torch.equal(multiply(parts, shared, OUT), alone(parts, shared.contiguous()))
    turned = x.T.contiguous().T  # of which neighbours are not neighbours in memory
    assert torch.equal(multiply(parts, turned, OUT), alone(parts, x))


def test_many_rows(monkeypatch):
    """Some weights have more rows than their library's product takes; the others are made in several
    calls.
    """
    calls = []
    rows = [16, 1, 15, 2, 1100, 3, 12, 1, 1, 1, 1500]
    parts, x = drawn(rows, torch.float32)
    expected = alone(parts, x)
    made = together._batches

    def batches(*given):
        calls.append([len(some) for some in made(*given)])
        return made(*given)

    monkeypatch.setattr(together, "_batches", batches)
    monkeypatch.setattr(together, "SCRATCH_BYTES", 17 * IN * together.INPUT_BYTES)
    assert torch.equal(multiply(parts, x, OUT), expected)
    assert sorted(calls) == [[1, 4], [2, 1]]


def test_any_number_of_threads_gives_the_same(threads):
    weights = [trellis_weight(1000, IN, (k,)) for k in (1, 2, 3)] * 2
    parts = [Part(kernel_for("trellis", "cpu")(weight.encode()), None, 3, False) for weight in weights]
    x, found = Draw(4).normal(18, IN), []
    for count in (1, 2, 3):
        threads(count)
        found.append(multiply(parts, x, 1000))
    assert all(torch.equal(y, found[0]) for y in found)


def test_inputs_that_are_refused():
    parts, x = drawn([1], torch.float32, weights=WEIGHTS[:1])
    with pytest.raises(ValueError, match="takes"):
        multiply(parts, x[:, 1:], OUT)
    with pytest.raises(ValueError, match="the library reads the CPU's memory"):
        multiply(parts, x.to("meta"), OUT)
