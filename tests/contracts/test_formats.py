"""Every format of the table keeps these promises. A format that is listed without an example, or that lies in
a file but not in the table, fails.
"""

import dataclasses
import json
import re
import struct
from pathlib import Path

import pytest
import safetensors.torch
import torch

import bivlm.formats
from bivlm.formats import (
    FORMATS,
    FactorsWeight,
    LevelsWeight,
    LowrankWeight,
    PackedTensor,
    PlanesWeight,
    QuantizedWeight,
    RawWeight,
    RowsWeight,
    TrellisWeight,
    UniformWeight,
)
from bivlm.formats.checks import CHECKS
from bivlm.formats.encoding.numbers import Numbers
from bivlm.formats.trellis import column_bits, pack_symbols

SPECIFICATION = Path(__file__).parents[2] / "docs" / "format.md"


def factors(rows, columns, rank, *, exponent=0):
    random = torch.Generator().manual_seed(rows * columns + rank)

    def normal(*shape):
        return torch.randn(*shape, generator=random)

    return FactorsWeight(
        left_signs=normal(rows, rank) > 0,
        right_signs=normal(rank, columns) > 0,
        row_scale=normal(rows).half(),
        middle_scale=normal(rank).half(),
        column_scale=normal(columns).half(),
        exponent=exponent,
    )


def levels(rows, columns, tail, values=False):
    """Six symmetric levels per row and group of four columns; the first `tail` of every third weight in the
    tail, with codes or with `values`.
    """
    random = torch.Generator().manual_seed(rows * columns + tail)
    positions = torch.arange(0, rows * columns, 3)[:tail]
    codes = torch.randint(0, 6, (rows, columns), generator=random, dtype=torch.uint8)
    codes.view(-1)[positions] = 0
    group_size = min(4, columns)
    coded = 0 if values else len(positions)
    return LevelsWeight(
        codes=codes,
        levels=torch.rand(rows, -(-columns // group_size), 3, generator=random).sort(-1).values.half(),
        scale=torch.tensor(0.03),
        alphabet=6,
        symmetric=True,
        group_size=group_size,
        tail_positions=positions,
        tail_codes=torch.randint(0, 4, (coded,), generator=random, dtype=torch.uint8),
        tail_levels=torch.linspace(-2, 2, 4).half() if coded else torch.zeros(4).half(),
        tail_scale=torch.rand(rows if coded else 0, generator=random).half(),
        tail_values=torch.randn(len(positions) if values else 0, generator=random).half(),
    )


def planes(rows, columns, group_size, *, parts=1, salient_parts=0, bits=16, rich=False, tail=0, exponent=0):
    """Signs and parts at random; every third column salient where there are salient parts; `rich` adds means
    and column scales.
    """
    random = torch.Generator().manual_seed(rows * columns + 10 * parts + salient_parts + tail)

    def normal(*shape):
        return torch.randn(*shape, generator=random)

    salient = (torch.arange(columns) % 3 == 1) & (salient_parts > 0)
    count, groups = parts + 2 * salient_parts, -(-columns // group_size)
    mask = torch.cat([(~salient).expand(parts, -1), salient.expand(2 * salient_parts, -1)])
    positions = torch.arange(0, rows * columns, 3)[:tail]
    signs = normal(rows, columns) > 0
    signs.view(-1)[positions] = False
    return PlanesWeight(
        signs=signs,
        parts=parts,
        salient_parts=salient_parts,
        partition=(normal(rows, columns) > 0) & torch.where(salient, salient_parts == 2, parts == 2),
        salient=salient,
        second_signs=(normal(rows, columns) > 0) & salient,
        scales=Numbers.of(normal(rows, groups, count), bits, signed=True),
        means=Numbers.of(normal(rows, groups, parts + salient_parts), bits, signed=True) if rich else None,
        column_scales=(
            torch.where(mask, normal(count, columns), 0.0).half() if rich else torch.zeros(0, 0).half()
        ),
        tail_positions=positions,
        tail_codes=torch.randint(0, 256, (len(positions),), generator=random, dtype=torch.uint8),
        tail_scale=normal(rows if tail else 0).half(),
        tail_zero=normal(rows if tail else 0).half(),
        group_size=group_size,
        exponent=exponent,
    )


def uniform(rows, columns, group_size, *, alphabet=4, bits=16, zero="middle", column_scale=False, exponent=0):
    random = torch.Generator().manual_seed(rows * columns + alphabet)
    groups = -(-columns // group_size)
    points = {
        "middle": torch.zeros(0).half(),
        "code": torch.randint(0, alphabet, (rows, groups), generator=random, dtype=torch.uint8),
        "free": torch.randn(rows, groups, generator=random).half(),
    }
    return UniformWeight(
        codes=torch.randint(0, alphabet, (rows, columns), generator=random, dtype=torch.uint8),
        alphabet=alphabet,
        scales=Numbers.of(torch.rand(rows, groups, 1, generator=random), bits),
        zero_points=points[zero],
        column_scale=(
            (torch.rand(columns, generator=random) + 0.5).half() if column_scale else torch.zeros(0).half()
        ),
        group_size=group_size,
        exponent=exponent,
    )


def trellis(rows, columns, bits, *, window=8, rotated=True, fitted=False, exponent=0, blocks=1):
    """Symbols at random; `bits` of the runs over and over."""
    random = torch.Generator().manual_seed(rows * columns + window)
    run_bits = torch.tensor([bits[run % len(bits)] for run in range(-(-columns // 16))], dtype=torch.uint8)
    symbols = torch.randint(0, 256, (columns, -(-rows // 16) * 16), generator=random, dtype=torch.uint8)
    symbols &= ((1 << column_bits(run_bits, columns)) - 1).to(torch.uint8)[:, None]
    return TrellisWeight(
        codes=pack_symbols(symbols, run_bits),
        columns=columns,
        bits=run_bits,
        row_scale=torch.rand(rows, generator=random).half(),
        table=(
            torch.randint(-128, 128, (4, 1 << window), generator=random, dtype=torch.int8)
            if fitted
            else torch.zeros(0, 0, dtype=torch.int8)
        ),
        window=window,
        rotated=rotated,
        seed=3,
        exponent=exponent,
        blocks=blocks,
    )


def raw(rows, columns, dtype=torch.float16):
    random = torch.Generator().manual_seed(rows * columns)
    return RawWeight(torch.randn(rows, columns, generator=random).to(dtype))


def rows_of(classes, *parts):
    return RowsWeight(torch.tensor(classes, dtype=torch.uint8), parts)


# Per format: a plain weight, the smallest, and the one that writes every optional tensor that one alphabet
# can.
EXAMPLES = {
    "factors": [factors(5, 9, 3), factors(1, 1, 1), factors(4, 17, 21, exponent=-7)],
    "levels": [levels(5, 9, 0), levels(1, 1, 0), levels(8, 21, 30), levels(7, 20, 30, values=True)],
    "lowrank": [
        LowrankWeight(uniform(5, 4, 4), uniform(4, 9, 9, alphabet=16, zero="free")),
        LowrankWeight(raw(1, 1), raw(1, 1)),
        LowrankWeight(trellis(5, 17, [2, 1]), levels(17, 21, 30)),
        LowrankWeight(raw(4, 6, torch.bfloat16), uniform(6, 8, 4, bits=8, column_scale=True)),
    ],
    "planes": [
        planes(3, 32, 16),
        planes(1, 1, 1, bits=32),
        planes(4, 17, 5, parts=2, salient_parts=2, bits=8, rich=True, exponent=-7),
        planes(8, 21, 8, tail=30),
    ],
    "raw": [raw(3, 5), raw(1, 1), raw(4, 3, torch.bfloat16)],
    "rows": [
        rows_of([0, 1, 1, 0, 1], uniform(2, 9, 4), uniform(3, 9, 9, alphabet=16, zero="free")),
        rows_of([0], raw(1, 1)),
        rows_of(
            [2, 0, 1, 3, 0, 1, 2, 4],
            uniform(2, 21, 8, alphabet=16, bits=8, column_scale=True),
            None,
            levels(2, 21, 8),
            raw(1, 21, torch.bfloat16),
            trellis(1, 21, [2, 1]),
        ),
    ],
    "trellis": [
        trellis(20, 40, [2]),
        trellis(1, 1, [1]),
        trellis(130, 70, [2, 0, 3, 1, 4], window=12, rotated=False, exponent=-7),
        trellis(70, 33, [1, 2], fitted=True),
        trellis(70, 96, [1, 2, 0], blocks=3).slice_columns(32, 96),
    ],
    "uniform": [
        uniform(3, 32, 16),
        uniform(1, 1, 1, alphabet=256, bits=32, zero="code"),
        uniform(4, 17, 5, alphabet=3, bits=8, zero="code", column_scale=True, exponent=-7),
        uniform(8, 21, 21, alphabet=8, zero="free", column_scale=True),
    ],
}

CONTAINERS = ("lowrank", "rows")  # their parts have the tensors and settings of other formats
PART_OF_A_CONTAINER = re.compile(r"(class\d+|left|right)_")

cases = pytest.mark.parametrize(
    "weight", [pytest.param(w, id=f"{name}-{i}") for name, ws in EXAMPLES.items() for i, w in enumerate(ws)]
)


def copy_of(weight):
    return {
        f.name: v.clone() if isinstance(v := getattr(weight, f.name), torch.Tensor) else v
        for f in dataclasses.fields(weight)
    }


def refusal(call, packed):
    """The message of the ValueError that a call raises; empty if there is none."""
    try:
        call(packed)
    except ValueError as error:
        return str(error)
    return ""


def test_the_table_is_complete():
    files = {path.stem for path in Path(bivlm.formats.__file__).parent.glob("*.py")}
    helpers = {"__init__", "base", "checks", "grouped", "nested", "table"}
    assert files - helpers == set(FORMATS) == set(EXAMPLES) == set(CHECKS)
    assert all(issubclass(kind, QuantizedWeight) and kind.format == name for name, kind in FORMATS.items())
    assert all(isinstance(weight, FORMATS[name]) for name, weights in EXAMPLES.items() for weight in weights)


@cases
def test_decode_is_the_exact_inverse_of_encode(weight):
    packed = weight.encode()
    decoded = FORMATS[packed.format].decode(packed)
    assert decoded == weight
    assert torch.equal(decoded.dequantize(), weight.dequantize())


@cases
def test_rows_can_be_unpacked_alone(weight):
    packed, whole = weight.encode(), weight.dequantize()
    rows = len(whole)
    for index in ([rows - 1], [0, rows - 1], list(range(rows)), []):
        found = type(weight).unpack_rows(packed, torch.tensor(index, dtype=torch.int64))
        assert (found.dtype, found.shape) == (torch.float32, (len(index), whole.shape[1]))
        torch.testing.assert_close(found, whole[index], rtol=1e-5, atol=1e-5 * float(whole.abs().max()))


@cases
def test_encoding_is_deterministic_and_leaves_the_weight_alone(weight):
    before = copy_of(weight)
    first, second = weight.encode(), weight.encode()
    weight.dequantize()
    assert safetensors.torch.save(dict(first.tensors)) == safetensors.torch.save(dict(second.tensors))
    assert first.settings == second.settings
    assert type(weight)(**before) == weight


@cases
def test_decoding_leaves_the_packed_tensors_alone(weight):
    packed = weight.encode()
    before = safetensors.torch.save(dict(packed.tensors))
    type(weight).decode(packed).dequantize()
    assert safetensors.torch.save(dict(packed.tensors)) == before


@cases
def test_a_weight_survives_the_file(weight):
    """safetensors and JSON keep everything that decoding needs, and the file's data are exactly the bytes
    that we count.
    """
    packed = weight.encode()
    file = safetensors.torch.save(dict(packed.tensors))
    (header,) = struct.unpack_from("<Q", file)
    assert len(file) - 8 - header == packed.nbytes
    settings = json.loads(json.dumps(packed.settings))
    assert (
        FORMATS[packed.format].decode(
            PackedTensor(packed.format, packed.shape, safetensors.torch.load(file), settings)
        )
        == weight
    )


@cases
def test_the_weight_is_finite_float32_of_its_shape(weight):
    expanded = weight.dequantize()
    assert expanded.shape == weight.shape == weight.encode().shape
    assert expanded.dtype == torch.float32
    assert bool(expanded.isfinite().all())


@cases
def test_missing_strange_and_misshapen_tensors_are_refused_by_name(weight):
    packed, decode = weight.encode(), type(weight).decode
    for name, tensor in packed.tensors.items():
        others = {other: value for other, value in packed.tensors.items() if other != name}
        broken = {
            "absent": others,
            "of another dtype": {**others, name: tensor.to(torch.float64)},
            "of another shape": {**others, name: tensor[None]},
        }
        for tensors in broken.values():
            with pytest.raises(ValueError, match=f"'{name}'"):
                decode(dataclasses.replace(packed, tensors=tensors))
    with pytest.raises(ValueError, match="'stranger'"):
        decode(dataclasses.replace(packed, tensors={**packed.tensors, "stranger": torch.zeros(1)}))


@cases
def test_the_check_refuses_what_decode_refuses(weight):
    """It accepts what `encode` writes, and is of one mind with `decode` about bytes that changed."""
    packed, refused = weight.encode(), 0
    type(weight).check_packed(packed)
    for name, tensor in packed.tensors.items():
        for place in {0, tensor.nbytes // 2, tensor.nbytes - 2} if tensor.nbytes > 1 else ():
            raw = tensor.clone().view(-1).view(torch.uint8)
            raw[place : place + 2] = 255  # NaN, where it is a float16
            changed = {**packed.tensors, name: raw.view(tensor.dtype).view(tensor.shape)}
            given = PackedTensor(packed.format, packed.shape, changed, packed.settings)
            found = [refusal(call, given) for call in (type(weight).check_packed, type(weight).decode)]
            assert found[0] == found[1], name
            refused += bool(found[0])
    assert refused, "no changed byte is refused"


# a setting that only some weights have: without it they are read as the others, whose tensors are not there
WITHOUT = {
    "tail_kind": "'tail_levels' is missing",
    "blocks": "'first_column' is 32; needs a multiple of 64",
    "first_column": "a bit before the stream of a strip is not zero",
}


@cases
def test_missing_settings_are_refused_by_name(weight):
    packed = weight.encode()
    for name in packed.settings:
        settings = {other: value for other, value in packed.settings.items() if other != name}
        message = WITHOUT.get(name, f"needs .*'{name}'")
        with pytest.raises(ValueError, match=message):
            type(weight).decode(dataclasses.replace(packed, settings=settings))


@cases
def test_nothing_can_be_changed_or_is_equal_to_something_else(weight):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(weight, dataclasses.fields(weight)[0].name, None)
    assert weight != object()


@pytest.mark.parametrize("name", FORMATS)
def test_the_specification_names_every_tensor_and_setting(name):
    _, _, section = SPECIFICATION.read_text(encoding="utf-8").partition(f"\n## `{name}`\n")
    section = section.partition("\n## ")[0]
    for packed in (weight.encode() for weight in EXAMPLES[name]):
        words = (*packed.tensors, *packed.settings)
        of_parts = [word for word in words if PART_OF_A_CONTAINER.match(word)] if name in CONTAINERS else []
        assert [word for word in words if word not in of_parts and f"`{word}`" not in section] == []
