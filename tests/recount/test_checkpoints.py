"""Which files are a model: shards and indexes, splits of GGUF, the tower's own file, and what is refused."""

import json

import pytest

from bivlm.errors import InputError
from bivlm.recount.run import recount
from stored_headers import write_gguf, write_safetensors

TEXT = {"token_embd.weight": ("Q4_0", (4, 32)), "blk.0.attn_q.weight": ("Q2_K", (2, 256))}
TOWER = {"v.blk.0.attn_q.weight": ("F16", (4, 32)), "mm.0.weight": ("Q8_0", (2, 32))}


def indexed(folder, *, lost=()):
    """Two shards, their index, and a file that the index does not name."""
    weight_map = {}
    for number in (1, 2):
        name = f"model-0000{number}-of-00002.safetensors"
        write_safetensors(folder / name, {f"model.layers.{number}.mlp.up_proj.weight": ("BF16", (4, number))})
        weight_map[f"model.layers.{number}.mlp.up_proj.weight"] = name
    write_safetensors(folder / "consolidated.safetensors", {"layers.0.w": ("BF16", (2, 2))})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    for name in lost:
        (folder / name).unlink()
    return folder


def test_the_index_names_the_shards(tmp_path):
    (found,) = recount(indexed(tmp_path))
    assert (found.files, found.total.weights) == (2, 12)
    assert "consolidated.safetensors" in found.remarks[0]


def test_a_missing_shard_is_named(tmp_path):
    indexed(tmp_path, lost=["model-00002-of-00002.safetensors"])
    with pytest.raises(InputError, match=r"lacks model-00002-of-00002\.safetensors \(1 of 2 shards"):
        recount(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"weight_map": {"a": 3}}',
        '{"weight_map": {}}',
        '{"weight_map": {"a": "../x.safetensors"}}',
    ],
)
def test_an_index_that_is_damaged(content, tmp_path):
    (indexed(tmp_path) / "model.safetensors.index.json").write_text(content)
    with pytest.raises(InputError, match="model"):
        recount(tmp_path)


def test_a_single_file_is_counted_alone(tmp_path):
    (found,) = recount(indexed(tmp_path) / "consolidated.safetensors")
    assert (found.files, found.total.weights) == (1, 4)


def test_a_tensor_in_two_files(tmp_path):
    for name in ("a.safetensors", "b.safetensors"):
        write_safetensors(tmp_path / name, {"model.norm.weight": ("F16", (2,))})
    with pytest.raises(InputError, match=r"model\.norm\.weight is in a\.safetensors and in b\.safetensors"):
        recount(tmp_path)


def test_a_gguf_with_its_tower(tmp_path):
    write_gguf(tmp_path / "m-Q2_K.gguf", "llama", TEXT)
    write_gguf(tmp_path / "mmproj-m-F16.gguf", "clip", TOWER)
    (found,) = recount(tmp_path)
    assert [row.name for row in found.rows] == ["vision", "projector", "language", "embedding"]
    assert found.total.weights == 4 * 32 + 2 * 32 + 512 + 128
    assert found.claims[0].words == "Q2_K"
    assert "the head is the embedding's weight, stored once" in found.remarks


def test_several_models_and_towers(tmp_path):
    for name in ("m-Q2_K.gguf", "m-IQ1_S.gguf"):
        write_gguf(tmp_path / name, "llama", TEXT)
    for name in ("mmproj-F16.gguf", "mmproj-Q8_0.gguf"):
        write_gguf(tmp_path / name, "clip", TOWER)
    found = recount(tmp_path)
    assert [one.name.rpartition("/")[2] for one in found] == [
        *("m-IQ1_S.gguf", "m-Q2_K.gguf", "mmproj-F16.gguf", "mmproj-Q8_0.gguf"),
    ]
    assert "2 mmproj files" in found[0].remarks[0]
    both = recount(tmp_path, mmproj="mmproj-F16.gguf")
    assert [(len(one.rows), one.files) for one in both] == [(4, 2), (4, 2)]
    (chosen,) = recount(tmp_path, files="*IQ1_S*")
    assert chosen.claims[0].bits == 1
    with pytest.raises(InputError, match=r"no mmproj file x\.gguf; there: mmproj-F16\.gguf"):
        recount(tmp_path, mmproj="x.gguf")
    with pytest.raises(InputError, match=r"no weights in safetensors or GGUF that match \*Q9\*"):
        recount(tmp_path, files="*Q9*")


def test_a_split_gguf(tmp_path):
    for number, (name, entry) in enumerate(TEXT.items(), 1):
        write_gguf(
            tmp_path / "Q2_K" / f"m-Q2_K-0000{number}-of-00002.gguf", "llama", {name: entry}, split_count=2
        )
    for given in (tmp_path, tmp_path / "Q2_K" / "m-Q2_K-00001-of-00002.gguf"):
        (found,) = recount(given)
        assert (found.files, found.total.weights) == (2, 640)
    (tmp_path / "Q2_K" / "m-Q2_K-00002-of-00002.gguf").unlink()
    with pytest.raises(InputError, match="has 1 of 2 shards"):
        recount(tmp_path)


def test_a_gguf_is_known_by_its_first_bytes(tmp_path):
    blob = write_gguf(tmp_path / "m.gguf", "llama", TEXT).rename(tmp_path / "sha256-0a1b2c")
    (found,) = recount(blob)
    assert found.total.weights == 640


def test_several_formats_in_one_folder(tmp_path):
    write_safetensors(tmp_path / "model.safetensors", {"model.norm.weight": ("F16", (2,))})
    write_gguf(tmp_path / "m-Q2_K.gguf", "llama", TEXT)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    found = recount(tmp_path)
    assert [one.total.weights for one in found] == [2, 640]
    assert found[0].remarks == ("not opened: pytorch_model.bin (a pickle can run code)",)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "qmodel.pt", "consolidated.00.pth"])
def test_a_pickle_is_never_opened(name, tmp_path, monkeypatch):
    (tmp_path / name).write_bytes(b"\x80\x02")
    monkeypatch.setattr("pathlib.Path.open", None)
    for given in (tmp_path, tmp_path / name):
        with pytest.raises(InputError, match=f"has {name}, which is a pickle"):
            recount(given)


def test_nothing_to_count(tmp_path):
    with pytest.raises(InputError, match=r"no weights in safetensors or GGUF \(no such file\)"):
        recount(tmp_path)
    (tmp_path / "model.onnx").touch()
    with pytest.raises(InputError, match=r"only model\.onnx"):
        recount(tmp_path)
    with pytest.raises(InputError, match="is no file, no folder"):
        recount(tmp_path / "not there")


def test_a_config_that_is_no_json(tmp_path):
    write_safetensors(tmp_path / "model.safetensors", {"model.norm.weight": ("F16", (2,))})
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json is no valid JSON"):
        recount(tmp_path)
