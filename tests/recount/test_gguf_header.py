"""Headers of GGUF: the same account as ggml's own package gives, and words for everything broken."""

import random
import struct

import pytest

from bivlm.errors import InputError
from bivlm.recount.ggml_types import BLOCKS, NAMES
from bivlm.recount.gguf_header import read_gguf
from bivlm.recount.run import recount
from stored_headers import write_gguf

TEXT = {
    "token_embd.weight": ("Q3_K", (10, 256)),
    "blk.0.attn_q.weight": ("IQ1_S", (256, 256)),
    "blk.0.attn_norm.weight": ("F32", (256,)),
    "blk.0.ffn_down.weight": ("Q2_K", (256, 512)),
    "blk.0.ffn_up_exps.weight": ("TQ1_0", (4, 2, 256)),
    "output_norm.weight": ("F32", (256,)),
    "output.weight": ("Q6_K", (10, 256)),
}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_gguf(
        tmp_path_factory.mktemp("gguf") / "Made-7B-IQ1_S.gguf",
        "llama",
        TEXT,
        tokenizer_tokens=[f"token {n}" for n in range(40)],
        tokenizer_types=[1, 2, 3] * 20,
    )


def read(path):
    with path.open("rb") as file:
        return read_gguf(file, path.name, path.stat().st_size)


def test_ggmls_package_says_the_same(text):
    gguf = pytest.importorskip("gguf")
    reader = gguf.GGUFReader(text)
    header = read(text)
    assert {t.name: (t.dtype, t.shape, t.nbytes) for t in header.tensors.values()} == {
        t.name: (t.tensor_type.name, tuple(int(n) for n in reversed(t.shape)), int(t.n_bytes))
        for t in reader.tensors
    }
    assert {name: tensor.shape for name, tensor in header.tensors.items()} == {
        k: v[1] for k, v in TEXT.items()
    }
    assert header.metadata["general.architecture"] == "llama"
    assert header.metadata["tokenizer.tokens"][:2] == ["token 0", "token 1"]


def test_the_types_are_those_of_the_package():
    gguf = pytest.importorskip("gguf")
    sizes = {int(kind): (kind.name, *gguf.GGML_QUANT_SIZES[kind]) for kind in gguf.GGMLQuantizationType}
    assert {number: BLOCKS[number] for number in sizes if number in BLOCKS} == {
        number: size for number, size in sizes.items() if number in BLOCKS
    }
    assert set(BLOCKS) <= set(sizes)
    assert not set(BLOCKS) & set(NAMES)


def test_a_file_by_part(text):
    found = recount(text)[0]
    rows = {row.name: row for row in found.rows}
    assert set(rows) == {"language", "embedding", "head"}
    assert rows["embedding"].nbytes == 10 * 110
    assert rows["head"].nbytes == 10 * 210
    language = {"IQ1_S": 256 * 50, "Q2_K": 512 * 84, "TQ1_0": 8 * 54, "F32": 2 * 1024}
    assert rows["language"].stored_as == language
    assert rows["language"].weights == 256 * 256 + 256 * 512 + 4 * 2 * 256 + 2 * 256
    assert rows["language"].packed == 3
    assert found.claims[0].words == "IQ1_S"
    assert found.file_bytes == text.stat().st_size


def raw(tensors, data, *, pairs=b"", count=None, order="<", version=3, pair_count=0):
    """A GGUF file byte by byte: (name, dims, type, offset) of each tensor, and so many bytes of data."""
    text = b"GGUF" + struct.pack(
        f"{order}IQQ", version, count if count is not None else len(tensors), pair_count
    )
    text += pairs
    for name, dims, kind, offset in tensors:
        text += struct.pack(f"{order}Q", len(name)) + name.encode()
        text += struct.pack(f"{order}I{len(dims)}QIQ", len(dims), *dims, kind, offset)
    return text + bytes(-len(text) % 32) + bytes(data)


def written(tmp_path, content, name="a.gguf"):
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


def test_big_endian_and_the_second_version(tmp_path):
    tensors = [("blk.0.attn_q.weight", (64, 3), 1, 0)]
    for order, version in ((">", 3), ("<", 2)):
        header = read(written(tmp_path, raw(tensors, 384, order=order, version=version)))
        assert header.tensors["blk.0.attn_q.weight"].shape == (3, 64)
        assert header.tensors["blk.0.attn_q.weight"].nbytes == 384


def test_a_type_of_a_fork_has_its_bytes_by_place(tmp_path):
    """IQ2_KT of ik_llama.cpp: 68 bytes for 256 weights and 4 a row; number 66 is nobody's here."""
    row = 2 * 68 + 4
    tensors = [
        ("blk.0.attn_q.weight", (512, 4), 153, 0),
        ("blk.0.attn_k.weight", (512, 4), 66, 4 * row + 16),
        ("blk.0.attn_v.weight", (4,), 0, 4 * row + 16 + 320),
    ]
    found = recount(written(tmp_path, raw(tensors, 4 * row + 16 + 320 + 16)))[0]
    assert found.rows[0].weights == 2 * 2048 + 4
    assert found.rows[0].stored_as == {"IQ2_KT": 4 * row + 16, "type 66": 320, "F32": 16}
    assert "IQ2_KT, a type of a fork" in found.remarks[0]
    assert "type 66" in found.remarks[1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"PK\x03\x04" + bytes(60), "is no GGUF file"),
        (b"", "cut short"),
        (raw([], 0, version=1), "GGUF of version 1; 2 and 3 are read"),
        (
            raw([("a", (64,), 1, 0), ("b", (64,), 1, 64)], 256),
            "tensor a overlaps the next one: 128 bytes in 64",
        ),
        (raw([("a", (64,), 1, 0)], 64), "tensor a ends after the file: 128 bytes in 64"),
        (raw([("a", (64,), 1, 4096)], 64), "tensor a begins at byte 4,096 of 64"),
        (raw([("a", (64,), 1, 8)], 256), "tensor a begins at byte 8"),
        (raw([("a", (64,), 1, 0), ("a", (64,), 1, 128)], 256), "tensor a is there twice"),
        (raw([("a", (100,), 10, 0)], 256), "rows of 100, and Q2_K has blocks of 256"),
        (raw([("a", (1,) * 9, 1, 0)], 32), "9 dimensions"),
        (raw([], 0, count=1 << 60), "it ends inside its header"),
        (raw([], 0, pair_count=1 << 60), "it ends inside its header"),
        (raw([], 0, pair_count=1, pairs=struct.pack("<QI", 0, 99)), "a value has the kind 99"),
        (
            raw([], 0, pair_count=1, pairs=struct.pack("<QIIQ", 0, 9, 4, 1 << 50) + bytes(64)),
            "more than 100,000,000 bytes",
        ),
        (
            raw([], 0, pair_count=1, pairs=struct.pack("<QI", 0, 9) + struct.pack("<IQ", 9, 1) * 99),
            "inside 9 arrays",
        ),
        (
            raw([], 0, pair_count=1, pairs=struct.pack("<Q17sII", 17, b"general.alignment", 4, 3)),
            "general.alignment is 3, and no power of two",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_impossible_header_is_refused(content, words, tmp_path):
    with pytest.raises(InputError) as refused:
        recount(written(tmp_path, content))
    assert words in str(refused.value)
    assert "a.gguf" in str(refused.value)


def test_a_file_that_is_cut_short_anywhere(tmp_path):
    pairs = struct.pack("<Q4sIQ3s", 4, b"name", 8, 3, b"abc")
    whole = raw([("a", (64,), 1, 0), ("b", (4,), 0, 128)], 144, pairs=pairs, pair_count=1)
    for length in range(0, len(whole), 3):
        with pytest.raises(InputError):
            recount(written(tmp_path, whole[:length]))


def test_a_broken_header_is_refused_or_counted(text, tmp_path):
    """Bytes changed at random: an InputError, or an account whose parts sum up; nothing else."""
    whole = text.read_bytes()
    header = len(whole) - sum(tensor.nbytes for tensor in read(text).tensors.values())
    rng, counted = random.Random(0), 0
    for _ in range(100):
        broken = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            broken[rng.randrange(header)] = rng.randrange(256)
        try:
            found = recount(written(tmp_path, broken))[0]
        except InputError:
            continue
        counted += 1
        assert found.total.nbytes == sum(row.nbytes for row in found.rows) <= len(whole)
    assert 0 < counted < 100
