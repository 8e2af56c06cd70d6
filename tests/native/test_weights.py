"""What is handed to the native library: tensors in place where they can be, the rest made once, and every
byte of it counted. No library needed.
"""

import ctypes

import numpy as np
import pytest
import torch

from bivlm.formats import PackedTensor
from bivlm.formats.encoding import bits
from bivlm.native.weights import prepare, prepare_factors
from made_weights import made_planes
from weights import NATIVE, factors, levels, planes, uniform

SINGLE = {name: weight for name, weight in NATIVE.items() if weight.format != "factors"}


def memory(address, dtype, count):
    """Numbers where a pointer points."""
    size = count * np.dtype(dtype).itemsize
    return np.frombuffer(ctypes.string_at(address, size), dtype)


def dense_codes(prepared):
    """The codes as a reader of the struct finds them, one bit at a time."""
    struct = prepared.struct
    codes = np.zeros((struct.rows, struct.columns), np.uint8)
    stream = memory(struct.codes, np.uint8, struct.rows * struct.row_bytes).reshape(
        struct.rows, struct.row_bytes
    )
    for column in range(struct.columns):
        group, inside = divmod(column, struct.group_size)
        byte, place = (group * struct.group_bytes + 2, inside) if struct.group_bytes else (0, column)
        for bit in range(place * struct.bits, (place + 1) * struct.bits):
            codes[:, column] |= (stream[:, byte + bit // 8] >> bit % 8 & 1) << (bit - place * struct.bits)
    return codes


@pytest.mark.parametrize(
    "weight",
    [w for w in SINGLE.values() if w.shape[1] < 1000],
    ids=[n for n, w in SINGLE.items() if w.shape[1] < 1000],
)
def test_codes_are_fields_of_whole_bits(weight):
    prepared = prepare(weight.encode())
    struct = prepared.struct
    codes = (weight.signs if weight.format == "planes" else weight.codes).numpy().astype(np.uint8)
    found = dense_codes(prepared)
    if weight.format == "planes" and weight.tail_codes.numel():  # the lowest bits of the tail's codes
        codes.reshape(-1)[weight.tail_positions.numpy()] = weight.tail_codes.numpy() & 1
    if weight.format == "levels" and weight.tail_codes.numel():  # where entries have values it is 0
        codes = codes.copy()
        codes.reshape(-1)[weight.tail_positions.numpy()] = weight.tail_codes.numpy() >> (weight.alphabet < 4)
    assert (struct.rows, struct.columns) == weight.shape
    assert struct.bits == max(1, int(np.ceil(np.log2(getattr(weight, "alphabet", 2)))))
    assert np.array_equal(found, codes)


@pytest.mark.parametrize("name", [name for name in NATIVE if "levels" in name and "tail" in name])
def test_the_tail_is_listed_by_row(name):
    weight = NATIVE[name]
    prepared = prepare(weight.encode())
    struct, columns = prepared.struct, weight.shape[1]
    start = memory(struct.tail_start, np.int64, struct.rows + 1)
    entries = memory(struct.tail_entries, np.uint32 if struct.tail_wide else np.uint16, start[-1])
    found = [
        (row * columns + int(e >> 2), int(e & 3))
        for row in range(struct.rows)
        for e in entries[start[row] : start[row + 1]]
    ]
    assert struct.tail_wide == (columns > 16384)
    codes = weight.tail_codes.tolist() or [0] * len(found)
    assert found == list(zip(weight.tail_positions.tolist(), codes, strict=True))
    if "values" in name:
        assert (struct.tail_levels, struct.tail_scale) == (None, None)
        values = memory(struct.tail_values, np.float16, len(found))
        assert np.array_equal(values, weight.tail_values.numpy())
        return
    assert struct.tail_values is None
    assert memory(struct.tail_levels, np.float32, 4).tolist() == weight.tail_levels.float().tolist()
    assert np.array_equal(memory(struct.tail_scale, np.float16, struct.rows), weight.tail_scale.numpy())


def test_numbers_and_zero_points():
    weight = uniform(9, 40, alphabet=8, group_size=16, bits=8, zero="code", column_scale=True, exponent=-3)
    prepared = prepare(weight.encode())
    struct = prepared.struct
    assert struct.scale == 2.0**-3
    assert (struct.scales.dtype, struct.zero_kind, struct.groups) == (3, 1, 3)
    assert np.array_equal(
        memory(struct.scales.values, np.uint8, 27), weight.scales.stored.reshape(-1).numpy()
    )
    assert np.array_equal(memory(struct.scales.unit, np.float16, 9), weight.scales.unit.reshape(-1).numpy())
    assert np.array_equal(memory(struct.zeros, np.uint8, 27), weight.zero_points.reshape(-1).numpy())
    assert np.array_equal(memory(struct.column_scale, np.float16, 40), weight.column_scale.numpy())


IN_PLACE = {
    "levels": (levels(8, 64, alphabet=4), 0),
    "levels of 7, whole bits all the same": (levels(8, 64, alphabet=7), 0),
    "levels of 6": (levels(8, 64, alphabet=6), 8 * 64 * 3 // 8),
    "tail": (levels(8, 64, tail=0.125), 8 * 9 + 2 * 64 + 4 * 4),
    "tail of values": (levels(8, 64, tail=0.125, values=True), 8 * 9 + 2 * 64),
    "uniform": (uniform(8, 64, zero="free", column_scale=True), 0),
    "zero codes": (uniform(8, 64, zero="code", group_size=16), 8 * 4),
    "blocks": (planes(8, 64, group_size=32), 0),
    "signs": (planes(8, 65, group_size=32, bits=8, signed=True), 0),
    "planes": (made_planes(8, 65, 32, parts=2, salient_parts=1, salient=(2, 40), means=True), 0),
    "column scales": (made_planes(8, 65, 32, parts=2, column_scales=True), 2 * 4 * 128),
    "tail of planes": (made_planes(8, 700, 64, tail=(0, 1, 699, 5000)), 2 * 8 * 9 + 4 + 2),
}


@pytest.mark.parametrize(("weight", "added"), IN_PLACE.values(), ids=IN_PLACE)
def test_added_bytes(weight, added):
    packed = weight.encode()
    prepared = prepare(packed)
    assert prepared.added_bytes == added
    places = {tensor.untyped_storage().data_ptr() for tensor in packed.tensors.values()}
    assert (prepared.kept[0].untyped_storage().data_ptr() in places) == (
        packed.settings.get("alphabet", 2) != 6
    )


def test_the_tail_of_planes_is_steps_by_row():
    """A step from entry to entry, with zeros for 255 columns each where it is larger than a byte."""
    columns, tail = 600, (0, 255, 599, 600 + 256, 1800 + 510, 1800 + 511)
    prepared = prepare(made_planes(4, columns, 64, tail=tail).encode())
    struct = prepared.struct.planes.contents
    step_start = memory(struct.tail_step_start, np.int64, 5).tolist()
    steps = memory(struct.tail_steps, np.uint8, step_start[-1]).tolist()
    assert memory(struct.tail_start, np.int64, 5).tolist() == [0, 3, 4, 4, 6]
    assert step_start == [0, 4, 6, 6, 10]
    assert steps == [1, 255, 0, 89, 0, 2, 0, 0, 1, 1]


def test_column_scales_lie_by_sign_and_part():
    weight = made_planes(3, 70, 70, parts=2, salient_parts=1, salient=(1, 69), column_scales=True)
    prepared = prepare(weight.encode())
    struct = prepared.struct.planes.contents
    found = torch.from_numpy(memory(struct.column_scales, np.float16, 4 * 128).reshape(4, 128).copy())
    ordinary, kinds = ~weight.salient, weight.column_scales
    for part in range(2):
        assert torch.equal(found[part, :70][ordinary], kinds[part, ordinary])
        assert torch.equal(found[part, :70][weight.salient], kinds[2, weight.salient])
        assert torch.equal(found[2 + part, :70][weight.salient], kinds[3, weight.salient])
        assert bool((found[2 + part, :70][ordinary] == 1).all())
    assert bool((found[:, 70:] == 1).all())


def test_factors_are_two_planes():
    left, right = prepare_factors(factors(6, 17, 40, exponent=-7).encode())
    assert (left.shape, right.shape) == ((6, 40), (40, 17))
    assert (left.struct.scale, right.struct.scale) == (2.0**-7, 1.0)
    assert left.added_bytes == right.added_bytes == 0


def test_tensors_that_are_not_contiguous_are_copied():
    packed = uniform(8, 64, group_size=16).encode()
    spread = {name: torch.stack([tensor, tensor], -1)[..., 0] for name, tensor in packed.tensors.items()}
    prepared = prepare(PackedTensor(packed.format, packed.shape, spread, packed.settings))
    assert np.array_equal(dense_codes(prepared), dense_codes(prepare(packed)))
    assert prepared.added_bytes == packed.nbytes


@pytest.mark.parametrize("name", ["codes", "levels", "scale", "tail_scale"])
def test_a_tensor_of_the_wrong_shape_is_refused(name):
    """The library trusts its pointers, so nothing too short may reach it."""
    packed = levels(8, 64, tail=0.1).encode()
    cut = {**packed.tensors, name: packed.tensors[name][..., :-1]}
    with pytest.raises(ValueError, match=f"levels: '{name}'"):
        prepare(PackedTensor(packed.format, packed.shape, cut, packed.settings))


def test_a_tensor_that_is_elsewhere_is_refused():
    packed = uniform(8, 64).encode()
    away = {name: tensor.to("meta") for name, tensor in packed.tensors.items()}
    with pytest.raises(ValueError, match="on meta, and the input on the CPU"):
        prepare(PackedTensor(packed.format, packed.shape, away, packed.settings))


@pytest.mark.parametrize("values", [False, True])
@pytest.mark.parametrize("alphabet", [8, 3])
def test_a_tail_code_that_cannot_be_is_refused(alphabet, values):
    packed = levels(4, 64, alphabet=alphabet, tail=0.1, values=values).encode()
    codes = bits.pack_symbols(torch.full((4, 64), alphabet - 1, dtype=torch.uint8), alphabet)
    with pytest.raises(ValueError, match="under a tail entry"):
        prepare(
            PackedTensor(packed.format, packed.shape, {**packed.tensors, "codes": codes}, packed.settings)
        )
