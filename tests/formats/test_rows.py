"""`rows` against a loop over its definition, its exact size, and everything that it refuses."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bivlm.errors import InputError
from bivlm.formats import PackedTensor, RawWeight, RowsWeight
from bivlm.formats.rows import row_classes_nbytes
from bivlm.kernels.table import kernel_for
from weights import Draw, levels, raw, rows_of, uniform

COLUMNS = 24
KINDS = [
    None,
    lambda rows: uniform(rows, COLUMNS),
    lambda rows: uniform(rows, COLUMNS, alphabet=256, group_size=8, zero="code"),
    lambda rows: levels(rows, COLUMNS, alphabet=6, tail=0.1),
    lambda rows: raw(rows, COLUMNS),
    lambda rows: raw(rows, COLUMNS, torch.bfloat16),
]


@st.composite
def weights(draw):
    kinds = draw(st.lists(st.sampled_from(range(len(KINDS))), min_size=1, max_size=6, unique=True))
    if kinds == [0]:
        kinds.append(1)
    return rows_of(
        draw(st.integers(len(kinds), 40)), *(KINDS[k] for k in kinds), seed=draw(st.integers(0, 9))
    )


@settings(deadline=None, max_examples=40)
@given(weights())
def test_any_weight_follows_the_definition_comes_back_and_counts_every_byte(weight):
    expanded, seen = weight.dequantize(), [0] * len(weight.parts)
    for row, k in enumerate(weight.row_classes.tolist()):
        part = weight.parts[k]
        line = torch.zeros(COLUMNS) if part is None else part.dequantize()[seen[k]]
        assert torch.equal(expanded[row], line)
        seen[k] += 1
    packed = weight.encode()
    assert RowsWeight.decode(packed) == weight
    inside = sum(part.encode().nbytes for part in weight.parts if part is not None)
    assert packed.nbytes == inside + row_classes_nbytes(len(expanded), len(weight.parts))


@settings(deadline=None, max_examples=30)
@given(weights(), st.data())
def test_rows_are_cut_anywhere_but_where_nothing_is_left(weight, data):
    rows = len(weight.row_classes)
    start = data.draw(st.integers(0, rows - 1))
    stop = data.draw(st.integers(start + 1, rows))
    classes = weight.row_classes[start:stop].unique().tolist()
    if all(weight.parts[k] is None for k in classes):
        with pytest.raises(InputError, match=f"the rows {start} … {stop} are all dropped"):
            weight.slice_rows(start, stop)
        return
    part = weight.slice_rows(start, stop)
    assert len(part.parts) == len(classes)
    assert torch.equal(part.dequantize(), weight.dequantize()[start:stop])


@settings(deadline=None, max_examples=20)
@given(weights(), st.sampled_from([torch.float32, torch.bfloat16]), st.booleans())
def test_the_product_is_that_of_the_expanded_weight(weight, dtype, with_bias):
    draw = Draw(*weight.shape)
    x = draw.normal(3, COLUMNS).to(dtype)
    bias = draw.normal(weight.shape[0]).to(dtype) if with_bias else None
    product = kernel_for("rows", "cpu")(weight.encode())
    y = product(x, bias)
    expected = x.double() @ weight.dequantize().double().T + (0 if bias is None else bias.double())
    assert (y.dtype, y.shape) == (dtype, expected.shape)
    size = float(expected.abs().max()) + float(weight.dequantize().norm(dim=1).max()) * COLUMNS**0.5
    assert float((y.double() - expected).abs().max()) <= (1e-5 if dtype == torch.float32 else 2e-2) * size


def test_the_kernel_says_what_its_slowest_class_is():
    one = kernel_for("rows", "cpu")(rows_of(5, lambda rows: raw(rows, 8)).encode())
    assert (one.kernel, one.why) == ("torch", "")
    other = kernel_for("rows", "cpu")(rows_of(5, lambda r: raw(r, 8), lambda r: uniform(r, 8)).encode())
    assert other.kernel == kernel_for("uniform", "cpu")(uniform(5, 8).encode()).kernel


def octets(*numbers):
    return torch.tensor(numbers, dtype=torch.uint8)


ONE, TWO = raw(1, 8), raw(2, 8)
REFUSED = {
    "a class that no row has": (octets(0, 0), (TWO, ONE), "no row has the class 1"),
    "a class that is not there": (octets(0, 0, 2), (TWO, None), "'row_classes' holds 2; there are 2"),
    "a row of a class beyond the last": (octets(0, 0, 1), (TWO,), "'row_classes' holds 1; there are 1"),
    "all rows dropped": (octets(0, 0), (None,), "every row is dropped"),
    "two classes dropped": (octets(0, 1, 2), (ONE, None, None), "2 classes are dropped; at most one"),
    "rows of another number": (octets(0, 1, 1), (ONE, ONE), r"'class1' is \(1, 8\); needs \(2, 8\)"),
    "rows of other widths": (octets(0, 1), (ONE, raw(1, 9)), r"'class1' is \(1, 9\); needs \(1, 8\)"),
    "no classes": (octets(0), (), "'classes' is 0; needs 1 … 16"),
    "no rows": (octets(), (ONE,), r"'row_classes' is \[0\]; needs"),
    "classes in words": (octets(0).int(), (ONE,), "'row_classes' is int32"),
    "rows within rows": (octets(0), (RowsWeight(octets(0), (ONE,)),), "'class0' is a RowsWeight; needs a"),
    "no weight": (octets(0), (torch.ones(1, 8),), "'class0' is a Tensor; needs a weight"),
}


@pytest.mark.parametrize(("classes", "parts", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_held_is_refused_by_name(classes, parts, message):
    with pytest.raises(ValueError, match=f"rows: {message}"):
        RowsWeight(classes, parts)


def test_raw_numbers_are_finite_and_in_sixteen_bits():
    with pytest.raises(ValueError, match="raw: 'values' holds NaN or infinity"):
        RawWeight(torch.tensor([[torch.nan]]).half())
    with pytest.raises(ValueError, match="raw: 'values' is float32"):
        RawWeight(torch.ones(1, 1))
    assert RawWeight.of(torch.tensor([[1.001]])).values.dtype == torch.float16
    assert RawWeight.of(torch.tensor([[1e6]])).values.dtype == torch.bfloat16


PACKED = rows_of(6, lambda rows: uniform(rows, 16), None, lambda rows: raw(rows, 16)).encode()
ROWS0 = int(PACKED.settings["class0_rows"])


def changed(**settings):
    return dataclasses.replace(PACKED, settings={**PACKED.settings, **settings})


HOSTILE = {
    "more classes": (changed(classes=4), "needs .*'class3_rows'"),
    "fewer classes": (changed(classes=2), "the settings are "),
    "no classes": (changed(classes=0), "the settings are "),
    "classes beyond memory": (changed(classes=1 << 60), "the settings are "),
    "rows that no row has": (changed(class0_rows=ROWS0 + 1), "the rows of the classes are"),
    "no rows of a class": (changed(class0_rows=0), "'class0_rows' is 0"),
    "a container in a container": (changed(class0_format="rows"), "'class0_format' is 'rows'; needs one of"),
    "an unknown format": (changed(class2_format=["raw"]), "'class2_format' is "),
    "numbers of a dropped class": (changed(class1_alphabet=4), "'class1_alphabet' does not belong"),
    "a part's own setting": (changed(class0_alphabet=5), "uniform: 'class0_codes' is uint8"),
    "every class dropped": (
        PackedTensor("rows", (2, 8), {"row_classes": octets(0)}, {
            "classes": 1, "class0_rows": 2, "class0_format": "none"}),
        "every row is dropped",
    ),
    "a wide weight of few bytes": (
        dataclasses.replace(PACKED, shape=(6, 1 << 40)), "rows: ",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("packed", "message"), HOSTILE.values(), ids=HOSTILE)
def test_packed_weights_that_contradict_themselves_are_refused_by_name(packed, message):
    for call in (RowsWeight.check_packed, RowsWeight.decode, kernel_for("rows", "cpu")):
        with pytest.raises(ValueError, match=message):
            call(packed)


def test_the_error_of_a_part_names_the_tensor_of_the_file():
    values = PACKED.tensors["class2_values"].clone()
    values[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"^rows: raw: 'class2_values' holds NaN or infinity$"):
        RowsWeight.decode(dataclasses.replace(PACKED, tensors={**PACKED.tensors, "class2_values": values}))
