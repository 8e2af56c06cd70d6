"""Values as bytes and back: what they hold, how their tensors lie, and which are the same."""

import pytest
import torch

from bivlm.crew.message import ALIGNED, as_it_lies, from_bytes, to_bytes


def place(tensor):
    return tensor.data_ptr() % ALIGNED


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.uint8])
def test_tensors_come_back_as_they_lay(dtype):
    whole = torch.randint(0, 2, (7, 11)).to(dtype)
    for tensor in (
        whole,
        whole.T,
        whole[:, 1:],
        whole[3],
        whole[::2, 5],
        whole[:0],
        torch.ones((), dtype=dtype),
    ):
        found = from_bytes(to_bytes({"at": [tensor]}))["at"][0]
        assert torch.equal(found, tensor)
        assert (found.dtype, found.stride(), place(found)) == (dtype, tensor.stride(), place(tensor))


def test_one_tensor_stays_one_and_views_share_their_memory():
    whole = torch.arange(12.0).reshape(3, 4)
    found = from_bytes(to_bytes((whole, {"again": whole}, whole[1:])))
    assert found[1]["again"] is found[0]
    found[0].zero_()
    assert not found[2].any()
    assert len(to_bytes([whole] * 1000)) < 4096


def test_what_is_no_tensor_comes_back():
    value = {"a": (1, None, "ä"), 2: [True, 0.1]}
    assert from_bytes(to_bytes(value)) == value


def test_a_copy_lies_like_its_original_and_is_another():
    whole = torch.arange(12.0).reshape(3, 4)
    view = whole[:, 1:]
    copied = as_it_lies(view)
    whole.zero_()
    assert copied.tolist() == [[1, 2, 3], [5, 6, 7], [9, 10, 11]]
    assert (copied.stride(), place(copied)) == (view.stride(), place(view))


def test_a_tensor_with_gradients_is_sent_without_them():
    weight = torch.ones(3, requires_grad=True)
    assert not from_bytes(to_bytes(weight * 2)).requires_grad
