"""Tensors of safetensors files as numpy's arrays: the same bytes that torch reads."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bivlm.checkpoint.shards import DTYPES, array_checksum, checksum, read_arrays, read_entries
from bivlm.errors import InputError


@pytest.fixture
def shard(tmp_path):
    """A tensor of every dtype that is read, with odd sizes, so that bytes lie at odd places."""
    numbers = torch.arange(15, dtype=torch.float32).view(3, 5)
    tensors = {
        f"{name}.{i}": numbers[: i + 1].to(getattr(torch, name)).clone()
        for name, _ in DTYPES.values()
        for i in (0, 2)
    }
    save_file(tensors | {"empty": torch.zeros(0, 4), "scalar": torch.tensor(2.5)}, tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def test_arrays_are_the_tensors(shard):
    entries, expected = read_entries([shard]), load_file(shard)
    found = read_arrays(entries.values())
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert (entries[key].dtype, entries[key].shape) == (tensor.dtype, tuple(tensor.shape))
        assert entries[key].nbytes == tensor.nbytes
        if tensor.dtype == torch.bfloat16:  # which numpy does not have
            assert torch.equal(found[key], tensor)
        else:
            assert np.array_equal(found[key], tensor.numpy())


def test_checksums_are_the_same(shard):
    raw = read_arrays(read_entries([shard]).values(), raw=True)
    assert {key: array_checksum(content) for key, content in raw.items()} == {
        key: checksum(tensor) for key, tensor in load_file(shard).items()
    }


def test_a_cut_file_is_refused(shard):
    entries = list(read_entries([shard]).values())
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(InputError, match="damaged or cut short"):
        read_arrays(entries)
