"""`slice_rows` and `slice_columns` of every format: the slices of a weight are the weight."""

from math import lcm

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bivlm.errors import InputError
from bivlm.formats import FORMATS, QuantizedWeight, format_named, slice_columns, slice_rows
from bivlm.formats.lowrank import factors_of
from bivlm.formats.rows import classes_of
from bivlm.formats.trellis import STRIP
from bivlm.kernels.table import kernel_for
from reliability.corpus import corpus
from trellis_weights import trellis_weight

EXACT = ("levels", "uniform", "planes", "raw")  # formats without a sum
BLOCKS = trellis_weight(150, 192, (2, 0, 3, 1, 4), blocks=4).encode()


def expanded(packed):
    format_named(packed.format).check_packed(packed)
    return format_named(packed.format).decode(packed).dequantize()


def steps(packed):
    """Where the rows and the columns of a weight may be cut: at multiples of these."""
    columns, sizes = packed.shape[1], packed.settings
    if packed.format == "rows":
        return steps_of_rows(packed)
    if packed.format == "lowrank":
        left, right = factors_of(packed).values()
        return steps(left)[0], steps(right)[1]
    if packed.format == "trellis":
        return STRIP, columns // sizes.get("blocks", 1) if sizes["rotated"] else 16
    group_size = sizes.get("group_size", 1)
    return 1, 1 if group_size == columns else group_size


def steps_of_rows(packed):
    """Of `rows`: at any row, if all of its classes can be, and between the groups of all of them."""
    found = [steps(part) for part in classes_of(packed).values() if part is not None]
    whole = any(rows > 1 for rows, _ in found) or None in classes_of(packed).values()
    return packed.shape[0] if whole else 1, lcm(*(columns for _, columns in found))


def same(packed, found, expected):
    if packed.format in EXACT or (packed.format == "trellis" and not packed.settings["rotated"]):
        return torch.equal(found, expected)
    size = float(expected.norm(dim=1).max())
    if packed.format == "lowrank":
        size = torch.stack([expanded(part).norm() for part in factors_of(packed).values()]).prod().item()
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=0, atol=2e-6 * size)


def cut(draw, size, step):
    """Two places among the multiples of a step, and the end."""
    places = [*range(0, size, step), size]
    start = draw(st.integers(0, len(places) - 2))
    return places[start], places[draw(st.integers(start + 1, len(places) - 1))]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_slice_expands_to_the_slice_of_what_the_weight_expands_to(data):
    format_ = data.draw(st.sampled_from(sorted(FORMATS)))
    names = [name for name, packed in corpus().items() if packed.format == format_]
    packed = corpus()[data.draw(st.sampled_from(names))]
    (rows, columns), (strip, group) = packed.shape, steps(packed)
    top, bottom = cut(data.draw, rows, strip)
    left, right = cut(data.draw, columns, group)
    whole = expanded(packed)
    assert same(packed, expanded(slice_rows(packed, top, bottom)), whole[top:bottom])
    part = slice_columns(packed, left, right)
    assert same(packed, expanded(part), whole[:, left:right])
    both = slice_rows(part, top, bottom)
    assert same(packed, expanded(both), whole[top:bottom, left:right])
    other = slice_columns(slice_rows(packed, top, bottom), left, right)
    assert format_named(packed.format).decode(both) == format_named(packed.format).decode(other)


@pytest.mark.parametrize("name", ["trellis 70 x 50, window 8, rotated True", "uniform of 4, free"])
def test_the_whole_is_a_slice_of_itself(name):
    packed = corpus()[name]
    kind = format_named(packed.format)
    for part in (slice_rows(packed, 0, packed.shape[0]), slice_columns(packed, 0, packed.shape[1])):
        assert kind.decode(part) == kind.decode(packed)
        assert part.settings == packed.settings


@pytest.mark.parametrize("window", [8, 12, 16])
@pytest.mark.parametrize("rows", [20, 64, 150])
def test_the_products_of_the_slices_add_up_to_that_of_the_whole(rows, window):
    packed = trellis_weight(rows, 192, (2, 0, 3, 1, 4), window, blocks=4).encode()
    x = torch.randn(3, 192, generator=torch.Generator().manual_seed(rows))
    whole = kernel_for("trellis", "cpu")(packed)(x, None)
    parts = [
        kernel_for("trellis", "cpu")(slice_columns(packed, a, b))(x[:, a:b], None)
        for a, b in ((0, 48), (48, 144), (144, 192))
    ]
    assert float((sum(parts) - whole).abs().max()) < 1e-5 * float(whole.abs().max())


def test_a_slice_has_the_bits_before_it_and_the_settings_of_its_blocks():
    """The first two bytes of a strip are those of the stream before the slice."""
    part = slice_columns(BLOCKS, 96, 192)
    assert (part.settings["blocks"], part.settings["first_column"]) == (2, 96)
    assert part.tensors["bits"].tolist() == BLOCKS.tensors["bits"].tolist()[6:]
    before = sum(16 * int(k) for k in BLOCKS.tensors["bits"][:6]) * STRIP // 8
    assert part.tensors["codes"][:2].tolist() == BLOCKS.tensors["codes"][before : before + 2].tolist()
    one = slice_columns(part, 48, 96)
    assert "blocks" not in one.settings
    assert one.settings["first_column"] == 144
    assert slice_columns(BLOCKS, 0, 48).settings == {
        name: value for name, value in BLOCKS.settings.items() if name != "blocks"
    }


UNROTATED = trellis_weight(70, 64, rotated=False).encode()
GROUPS = corpus()["uniform of 4, free"]
WRONG = {
    "no rows": (slice_rows, BLOCKS, 64, 64, r"the rows 64 … 64 are asked for; there are 150 of them"),
    "rows beyond the end": (slice_rows, BLOCKS, 0, 151, r"needs 0 <= start < stop <= 150"),
    "rows that are no integers": (slice_rows, BLOCKS, 0.0, 64, r"the rows 0.0 … 64 are asked for"),
    "a truth": (slice_rows, BLOCKS, False, 64, r"the rows False … 64"),
    "half a strip": (slice_rows, BLOCKS, 0, 32, r"150 rows can be cut only at multiples of 64"),
    "half a block": (slice_columns, BLOCKS, 0, 24, r"192 columns can be cut only at multiples of 48"),
    "a rotation in one block": (
        slice_columns, slice_columns(BLOCKS, 48, 96), 0, 16, r"this weight of 48 columns cannot be cut",
    ),
    "half a run": (slice_columns, UNROTATED, 8, 64, r"64 columns can be cut only at multiples of 16"),
    "half a group": (slice_columns, GROUPS, 0, 1, r"61 columns can be cut only at multiples of \d+"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "packed", "start", "stop", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_cut_is_refused_in_a_line(call, packed, start, stop, message):
    with pytest.raises(InputError, match=message) as caught:
        call(packed, start, stop)
    assert "\n" not in str(caught.value)


def test_a_format_that_does_not_say_how_it_is_cut_is_refused(monkeypatch):
    packed = next(packed for packed in corpus().values() if packed.format == "factors")
    for method in ("slice_rows", "slice_columns"):
        monkeypatch.setattr(FORMATS["factors"], method, getattr(QuantizedWeight, method))
    with pytest.raises(InputError, match="a weight in factors cannot be cut into rows"):
        slice_rows(packed, 0, 1)
    with pytest.raises(InputError, match="a weight in factors cannot be cut into columns"):
        slice_columns(packed, 0, 1)
