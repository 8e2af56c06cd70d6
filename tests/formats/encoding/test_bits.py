"""Bit streams against Python's big integers: one number whose bit k is bit k of the stream."""

from math import ceil, log2

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bivlm.formats.encoding import bits, streams

quick = settings(deadline=None, max_examples=60)


def as_bytes(number, count):
    return list(number.to_bytes(ceil(count / 8), "little"))


def fields_oracle(fields, width):
    return as_bytes(sum(field << (i * width) for i, field in enumerate(fields)), len(fields) * width)


@st.composite
def tables_of_fields(draw):
    width = draw(st.integers(1, 32))
    rows, count = draw(st.integers(1, 4)), draw(st.integers(0, 40))
    field = st.integers(0, 2**width - 1)
    return width, draw(
        st.lists(st.lists(field, min_size=count, max_size=count), min_size=rows, max_size=rows)
    )


@quick
@given(tables_of_fields())
def test_fields_lie_lowest_bit_first_and_come_back(case):
    width, fields = case
    stream = bits.pack_fields(torch.tensor(fields, dtype=torch.int64), width)
    assert stream.dtype == torch.uint8
    assert stream.is_contiguous()
    assert stream.tolist() == [fields_oracle(row, width) for row in fields]
    assert bits.unpack_fields(stream, width, len(fields[0])).tolist() == fields


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_fields_of_any_integer_dtype_and_stride(dtype):
    fields = torch.arange(24, dtype=dtype).view(8, 3).T  # not contiguous
    before = fields.clone()
    assert bits.pack_fields(fields, 5).tolist() == [fields_oracle(row, 5) for row in fields.tolist()]
    assert torch.equal(fields, before)


@pytest.mark.parametrize("field", [8, -1])
def test_a_field_that_does_not_fit_is_refused(field):
    with pytest.raises(ValueError, match="outside"):
        bits.pack_fields(torch.tensor([[1, field]]), 3)


@pytest.mark.parametrize("width", [0, 33])
def test_a_width_out_of_range_is_refused(width):
    with pytest.raises(ValueError, match="1 to 32"):
        bits.pack_fields(torch.zeros(1, 1, dtype=torch.int64), width)


def test_streams_that_no_pack_writes_are_refused():
    stream = bits.pack_fields(torch.tensor([[5, 2, 7]]), 3)  # 9 bits: 7 spare
    with pytest.raises(ValueError, match="take"):
        bits.unpack_fields(stream[:, :1], 3, 3)
    with pytest.raises(ValueError, match="not zero"):
        bits.unpack_fields(stream | torch.tensor([[0, 2]], dtype=torch.uint8), 3, 3)


def unary_oracle(numbers):
    text = "".join("0" * number + "1" for number in numbers)
    return as_bytes(int(text[::-1] or "0", 2), len(text))


@quick
@given(st.lists(st.integers(0, 30), max_size=40))
def test_unary(numbers):
    stream = bits.pack_unary(torch.tensor(numbers, dtype=torch.int64))
    assert stream.tolist() == unary_oracle(numbers)
    assert streams.unpack_unary(stream, len(numbers)).tolist() == numbers
    assert streams.unpack_unary(stream.numpy(), len(numbers)).tolist() == numbers


@pytest.mark.parametrize(("stream", "count"), [([0b101], 1), ([0b1], 2), ([0b101, 0], 2), ([0], 0), ([], 1)])
def test_unary_streams_that_no_pack_writes_are_refused(stream, count):
    with pytest.raises(ValueError, match=r"ones where|bytes where"):
        streams.unpack_unary(torch.tensor(stream, dtype=torch.uint8), count)


numbers_of_any_size = st.lists(st.one_of(st.integers(0, 7), st.integers(0, 3000)), max_size=40)


def rice_bytes(numbers, k):
    return ceil(len(numbers) * k / 8) + ceil(sum((number >> k) + 1 for number in numbers) / 8)


@quick
@given(numbers_of_any_size)
def test_rice_parameter_is_the_smallest_of_the_best(numbers):
    costs = [rice_bytes(numbers, k) for k in range(33)]
    assert bits.rice_parameter(torch.tensor(numbers, dtype=torch.int64)) == costs.index(min(costs))


@pytest.mark.parametrize("number", [2**33, 2**40 - 1])
def test_rice_codes_of_a_far_place_stay_small(number):
    numbers = torch.tensor([number])
    k = bits.rice_parameter(numbers)
    low, high = bits.pack_rice(numbers, k)
    assert low.numel() + high.numel() <= 40
    assert (streams.unpack_unary(high, 1) << k) + bits.unpack_fields(low[None], k, 1)[0] == number


@quick
@given(numbers_of_any_size, st.integers(0, 12))
def test_rice_streams(numbers, k):
    low, high = bits.pack_rice(torch.tensor(numbers, dtype=torch.int64), k)
    assert low.tolist() == (fields_oracle([number % 2**k for number in numbers], k) if k else [])
    assert high.tolist() == unary_oracle([number >> k for number in numbers])


@quick
@given(numbers_of_any_size, st.integers(0, 1000))
def test_the_rice_bound_holds_for_any_numbers_and_never_falls(numbers, slack):
    count, total = len(numbers), sum(numbers) + slack
    assert min(rice_bytes(numbers, k) for k in range(33)) <= streams.rice_bytes_bound(count, total)
    if total:
        assert streams.rice_bytes_bound(count, total) <= streams.rice_bytes_bound(count + 1, total - 1)


def test_the_radix_table_is_sound_and_never_worse_than_whole_bits():
    assert list(bits.RADIX) == [*range(2, 17), 32, 64, 128, 256]
    for alphabet, (symbols, width) in bits.RADIX.items():
        assert alphabet**symbols <= 2**width
        assert log2(alphabet) <= width / symbols <= ceil(log2(alphabet))


def symbols_oracle(row, alphabet):
    symbols, width = bits.RADIX[alphabet]
    words = [
        sum(digit * alphabet**i for i, digit in enumerate(row[at : at + symbols]))
        for at in range(0, len(row), symbols)
    ]
    return fields_oracle(words, width)


@st.composite
def tables_of_symbols(draw):
    alphabet = draw(st.sampled_from(list(bits.RADIX)))
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 40))
    symbol = st.integers(0, alphabet - 1)
    return alphabet, draw(
        st.lists(st.lists(symbol, min_size=columns, max_size=columns), min_size=rows, max_size=rows)
    )


@quick
@given(tables_of_symbols())
def test_symbols(case):
    alphabet, symbols = case
    packed = bits.pack_symbols(torch.tensor(symbols, dtype=torch.uint8), alphabet)
    assert packed.tolist() == [symbols_oracle(row, alphabet) for row in symbols]
    assert bits.unpack_symbols(packed, alphabet, len(symbols[0])).tolist() == symbols
    assert packed.shape[1] == bits.symbols_bytes(len(symbols[0]), alphabet)


@pytest.mark.parametrize("alphabet", bits.RADIX)
def test_blocks_of_rows_do_not_show(alphabet, monkeypatch):
    symbols = (torch.arange(7 * 13).view(7, 13) % alphabet).to(torch.uint8)
    whole = bits.pack_symbols(symbols, alphabet)
    monkeypatch.setattr(streams, "_BLOCK", 2 * 13)
    assert torch.equal(bits.pack_symbols(symbols, alphabet), whole)
    assert torch.equal(bits.unpack_symbols(whole, alphabet, 13), symbols)


def test_an_alphabet_of_two_is_a_sign_plane_as_in_ggml():
    row = [1, 0, 0, 1, 0, 0, 0, 0, 0, 1]
    assert bits.pack_symbols(torch.tensor([row], dtype=torch.uint8), 2).tolist() == [[0b00001001, 0b00000010]]


@pytest.mark.parametrize(
    "alphabet", [alphabet for alphabet, (n, width) in bits.RADIX.items() if alphabet**n < 2**width]
)
def test_a_word_that_no_symbols_make_is_refused(alphabet):
    symbols, width = bits.RADIX[alphabet]
    good = bits.pack_fields(torch.tensor([[alphabet**symbols - 1]]), width)
    assert bits.unpack_symbols(good, alphabet, symbols).tolist() == [[alphabet - 1] * symbols]
    with pytest.raises(ValueError, match="a word is"):
        bits.unpack_symbols(bits.pack_fields(torch.tensor([[alphabet**symbols]]), width), alphabet, symbols)


def refusal(call, *arguments):
    """The message of the ValueError that a call raises; empty if there is none."""
    try:
        call(*arguments)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("alphabet", bits.RADIX)
def test_a_check_refuses_what_unpacking_refuses(alphabet, monkeypatch):
    """Every byte of a short row with every value, as tensors and as arrays, and the same in blocks of one
    row.
    """
    for columns in (1, 3, 7, 11):
        row = bits.symbols_bytes(columns, alphabet)
        for place in range(row):
            rows = torch.zeros(256, row, dtype=torch.uint8)
            rows[:, place] = torch.arange(256).byte()
            expected = [refusal(bits.unpack_symbols, stream[None], alphabet, columns) for stream in rows]
            for some in (rows, rows.numpy()):
                check = [refusal(streams.check_symbols, one[None], alphabet, columns) for one in some]
                assert check == expected
                with monkeypatch.context() as patch:
                    patch.setattr(streams, "_BLOCK", 1)
                    assert bool(refusal(streams.check_symbols, some, alphabet, columns)) == any(expected)


@pytest.mark.parametrize("alphabet", bits.RADIX)
def test_single_symbols(alphabet):
    symbols = torch.randint(0, alphabet, (9, 41), generator=torch.Generator().manual_seed(0)).byte()
    row, column = torch.arange(9).repeat_interleave(41), torch.arange(41).repeat(9)
    packed = bits.pack_symbols(symbols, alphabet)
    found = streams.symbols_at(packed, alphabet, row, column)
    assert found.dtype == torch.int64
    assert torch.equal(found, symbols.flatten().long())
    found = streams.symbols_at(packed.numpy(), alphabet, row.numpy(), column.numpy())
    assert found.tolist() == symbols.flatten().tolist()
    assert streams.symbols(packed.numpy(), alphabet, 41).tolist() == symbols.tolist()


def test_a_symbol_after_the_last_column_is_refused():
    packed = bits.pack_symbols(torch.tensor([[1, 2, 3, 4, 5, 1]], dtype=torch.uint8), 6)
    with pytest.raises(ValueError, match="after the last column"):
        bits.unpack_symbols(packed, 6, 5)


def test_a_symbol_outside_the_alphabet_is_refused():
    with pytest.raises(ValueError, match="alphabet of 6"):
        bits.pack_symbols(torch.tensor([[1, 6]], dtype=torch.uint8), 6)
