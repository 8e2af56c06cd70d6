"""`lowrank` against its definition, what it counts, and everything that it refuses."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bivlm.formats import FactorsWeight, LowrankWeight, RawWeight
from bivlm.formats.lowrank import shared_tensors
from bivlm.kernels.table import kernel_for
from weights import Draw, factors, levels, raw, rows_of, uniform

KINDS = {
    "uniform": lambda rows, columns: uniform(rows, columns, alphabet=16, zero="free"),
    "levels": lambda rows, columns: levels(rows, columns, alphabet=6, symmetric=True),
    "raw": raw,
    "factors": lambda rows, columns: factors(rows, columns, 3),
}


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_any_weight_is_the_product_comes_back_and_multiplies(data):
    rows, rank, columns = (data.draw(st.integers(1, 30)) for _ in range(3))
    left, right = (data.draw(st.sampled_from(sorted(KINDS))) for _ in range(2))
    weight = LowrankWeight(KINDS[left](rows, rank), KINDS[right](rank, columns))
    one, other = weight.left.dequantize().double(), weight.right.dequantize().double()
    size = float(one.norm() * other.norm())
    assert float((weight.dequantize() - one @ other).abs().max()) <= 1e-6 * size
    packed = weight.encode()
    assert LowrankWeight.decode(packed) == weight
    assert packed.nbytes == weight.left.encode().nbytes + weight.right.encode().nbytes
    x = Draw(rows, columns).normal(2, columns)
    y = kernel_for("lowrank", "cpu")(packed)(x, torch.ones(rows))
    assert (
        float((y - 1 - x.double() @ (one @ other).T).abs().max()) <= 1e-5 * size * columns**0.5 + 2e-7
    )  # of the 1


def test_what_several_weights_have_in_common_is_found():
    right = uniform(4, 16)
    one, two = (LowrankWeight(raw(rows, 4), right).encode() for rows in (5, 7))
    same = LowrankWeight(raw(2, 4), uniform(4, 16)).encode()  # other tensors of the same bytes
    other = LowrankWeight(raw(5, 4), uniform(4, 16, alphabet=8)).encode()
    found = shared_tensors({"q": one, "k": two, "o": other, "v": same, "up": uniform(5, 16).encode()})
    owned = {"right_codes": "q", "right_scales": "q"}
    assert found == {"q": {}, "k": owned, "o": {}, "v": owned, "up": {}}


REFUSED = {
    "two ranks": ((raw(3, 4), raw(5, 6)), "'left' has 4 columns and 'right' 5 rows"),
    "a container inside": ((raw(3, 4), rows_of(4, lambda n: raw(n, 6))), "'right' is a RowsWeight; needs"),
    "no weight": ((raw(3, 4), torch.ones(4, 6)), "'right' is a Tensor; needs a weight"),
    "numbers that overflow": (
        (RawWeight(torch.full((1, 1), 1e38).bfloat16()), RawWeight(torch.full((1, 1), 1e38).bfloat16())),
        "the product of 'left' and 'right' overflows",
    ),
    "a factor of far more numbers than bytes": (
        (raw(1, 4000), FactorsWeight(*(
            tensor for tensor in (
                torch.ones(4000, 1, dtype=torch.bool), torch.ones(1, 4000, dtype=torch.bool),
                torch.ones(4000).half(), torch.ones(1).half(), torch.ones(4000).half())), 0)),
        "'right' is .4000, 4000. in .* bytes; a factor has at most 256 numbers",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("parts", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_held_is_refused_by_name(parts, message):
    with pytest.raises(ValueError, match=f"lowrank: {message}"):
        LowrankWeight(*parts)


PACKED = LowrankWeight(uniform(5, 4), raw(4, 16)).encode()
HOSTILE = {
    "another rank": ({"rank": 5}, "lowrank: "),
    "no rank": ({"rank": 0}, "'rank' is 0"),
    "a rank of true": ({"rank": True}, "'rank' is True"),
    "a rank beyond memory": ({"rank": 1 << 60}, "'rank' is "),
    "a container in a container": ({"right_format": "lowrank"}, "'right_format' is 'lowrank'; needs one of"),
    "an alphabet that there is not": ({"left_alphabet": 17}, "lowrank: uniform: 'left_alphabet' is 17"),
    "a stranger": ({"middle_scale": 1}, "the settings are "),
}


@pytest.mark.parametrize(("changes", "message"), HOSTILE.values(), ids=HOSTILE)
def test_packed_weights_that_contradict_themselves_are_refused_by_name(changes, message):
    packed = dataclasses.replace(PACKED, settings={**PACKED.settings, **changes})
    for call in (LowrankWeight.check_packed, LowrankWeight.decode, kernel_for("lowrank", "cpu")):
        with pytest.raises(ValueError, match=message):
            call(packed)
