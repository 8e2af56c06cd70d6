"""Headers of safetensors: the same tensors as the library finds, and words for everything broken."""

import json
import random

import pytest
from safetensors import safe_open

from bivlm.errors import InputError
from bivlm.recount.run import recount
from bivlm.recount.safetensors_header import BITS, read_safetensors
from stored_headers import BYTES, write_header, write_safetensors
from tiny import tiny_checkpoint


def read(path):
    with path.open("rb") as file:
        return read_safetensors(file, path.name, path.stat().st_size)


def entry(dtype="F16", shape=(2, 2), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_the_library_finds_the_same(tmp_path):
    folder = tiny_checkpoint("qwen2_vl", tmp_path / "model")
    header = read(folder / "model.safetensors")
    with safe_open(folder / "model.safetensors", "pt") as shard:
        assert set(header.tensors) == set(shard.keys())
        for name, tensor in header.tensors.items():
            part = shard.get_slice(name)
            assert (tensor.dtype, list(tensor.shape)) == (part.get_dtype(), part.get_shape())
            stored = shard.get_tensor(name)
            assert tensor.nbytes == stored.numel() * stored.element_size()


def test_sizes_of_dtypes():
    assert {dtype: BITS[dtype] // 8 for dtype in BYTES} == BYTES


def test_an_unknown_dtype_has_its_bytes(tmp_path):
    path = write_header(tmp_path / "a.safetensors", {"w": entry("F5_E3M1", (4, 2), (0, 5))}, 5)
    tensor = read(path).tensors["w"]
    assert (tensor.dtype, tensor.nbytes, tensor.numel) == ("F5_E3M1", 5, 8)


@pytest.mark.parametrize(
    ("header", "data", "words"),
    [
        ({"a": entry(), "b": entry(offsets=(4, 12))}, 12, "the tensors a and b overlap"),
        ({"a": entry(), "b": entry(offsets=(12, 20))}, 20, "4 bytes before tensor b belong to no tensor"),
        ({"a": entry()}, 6, "its tensors have 8 bytes, and after the header there are 6"),
        ({"a": entry()}, 9, "its tensors have 8 bytes, and after the header there are 9"),
        ({"a": entry(shape=(2, 3))}, 8, "F16 of the shape [2, 3] has 12"),
        ({"a": entry(offsets=(8, 0))}, 8, "impossible"),
        ({"a": entry(shape=(-1, -4))}, 8, "impossible"),
        ({"a": entry(shape=(2, 2.0))}, 8, "impossible"),
        ({"a": entry(dtype=3)}, 8, "impossible"),
        ({"a": {"dtype": "F16"}}, 8, "has no dtype, shape and data_offsets"),
        ({"a": 5}, 8, "has no dtype, shape and data_offsets"),
        ([1], 0, "no JSON object"),
        ({"__metadata__": [1], "a": entry()}, 8, "__metadata__ is no object"),
    ],
)
def test_an_impossible_header_is_refused(header, data, words, tmp_path):
    path = write_header(tmp_path / "a.safetensors", header, data)
    with pytest.raises(InputError) as refused:
        read(path)
    assert words in str(refused.value)
    assert "a.safetensors is damaged" in str(refused.value)


def test_a_header_longer_than_the_file_or_the_limit(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    with pytest.raises(InputError, match="its header would have 1,099,511,627,776 bytes, the file has 10"):
        read(path)
    with path.open("wb") as file:  # a file with a hole: no bytes on the disk
        file.write((200_000_000).to_bytes(8, "little"))
        file.truncate(300_000_000)
    with pytest.raises(InputError, match="at most 100,000,000 are read"):
        read(path)


def test_a_file_that_is_cut_short_anywhere(tmp_path):
    whole = write_safetensors(
        tmp_path / "a.safetensors", {"a": ("F16", (2, 2)), "b": ("I8", (3,))}
    ).read_bytes()
    for length in range(0, len(whole), 3):
        (tmp_path / "b.safetensors").write_bytes(whole[:length])
        with pytest.raises(InputError):
            recount(tmp_path / "b.safetensors")


def test_a_broken_header_is_refused_or_counted(tmp_path):
    """Bytes changed at random: an InputError, or an account whose parts sum up; nothing else."""
    entries = {
        f"model.layers.{n}.mlp.up_proj.{end}": ("I32", (4, 8))
        for n in range(2)
        for end in ("qweight", "qzeros")
    }
    tensors = {**entries, "model.layers.0.mlp.up_proj.scales": ("F16", (4, 8)), "w": ("F16", (3,))}
    whole = write_safetensors(tmp_path / "a.safetensors", tensors, {"a": "b"}).read_bytes()
    rng, counted = random.Random(0), 0
    header = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(150):
        broken = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            broken[rng.randrange(header)] = (
                rng.choice(b'0123456789[]{}",:\x00\xff') if rng.random() < 0.9 else 255
            )
        (tmp_path / "a.safetensors").write_bytes(broken)
        try:
            found = recount(tmp_path / "a.safetensors")[0]
        except InputError:
            continue
        counted += 1
        assert found.total.nbytes == sum(row.nbytes for row in found.rows)
        json.dumps(found.to_dict())
    assert 0 < counted < 150
