"""What is too short, of another dtype or elsewhere is not handed to the library: it trusts pointers."""

import pytest
import torch

from bivlm.kernels.table import kernel_for
from bivlm.native.library import library, status
from bivlm.native.pointers import pointer
from bivlm.native.search import native_search
from weights import factors, levels

WRONG = {
    "shorter": (torch.zeros(7), "needs 8 of float32"),
    "longer": (torch.zeros(9), "needs 8 of float32"),
    "another dtype": (torch.zeros(8, dtype=torch.bfloat16), "bfloat16"),
    "with gaps": (torch.zeros(16)[::2], "not contiguous"),
    "expanded": (torch.zeros(1).expand(8), "not contiguous"),
    "on meta": (torch.zeros(8, device="meta"), "on meta"),
    "sparse": (torch.zeros(8).to_sparse(), "the library reads"),
}
present = pytest.mark.skipif(library() is None, reason=status().why)


@pytest.mark.parametrize(("tensor", "message"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_refused_by_name(tensor, message):
    with pytest.raises(ValueError, match=f"'x' .*{message}"):
        pointer("x", tensor, torch.float32, 8)


def test_the_address_is_that_of_the_first_element():
    tensor = torch.arange(10.0)[2:]
    assert pointer("x", tensor, torch.float32, 8) == tensor.data_ptr()


@present
@pytest.mark.parametrize("weight", [levels(12, 40), factors(12, 40, 16)], ids=["levels", "factors"])
@pytest.mark.parametrize("tokens", [2, 300])
def test_a_product_checks_its_input_and_its_bias(weight, tokens):
    product, x = kernel_for(weight.format, "cpu")(weight.encode()), torch.ones(tokens, 40)
    for bias in (torch.ones(11), torch.ones(13), torch.ones(1), torch.ones(12, device="meta")):
        with pytest.raises(ValueError, match="'bias'"):
            product(x, bias)
    for wrong in (x[:, :39], x[:, :1], torch.ones(())):
        with pytest.raises(ValueError, match="takes"):
            product(wrong, None)
    spread = torch.stack([torch.arange(12.0), torch.zeros(12)], 1)[:, 0]
    assert torch.equal(product(x, spread), product(x, torch.arange(12.0)))


@present
@pytest.mark.parametrize("name", ["w", "u", "table", "state"])
def test_the_search_checks_its_arguments(name):
    fitting = {
        "w": torch.zeros(16, 70),
        "u": torch.eye(16),
        "table": torch.zeros(256, dtype=torch.int8),
        "state": torch.zeros(2, dtype=torch.int32),
    }
    for wrong in (
        fitting[name][:-1] if name != "w" else fitting[name].double(),
        fitting[name].to(torch.float16),
    ):
        given = {**fitting, name: wrong}
        with pytest.raises(ValueError, match=f"'{name}'"):
            native_search(library(), given["w"], given["u"], 8, 2, given["table"], given["state"])
