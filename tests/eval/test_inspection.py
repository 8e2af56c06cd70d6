"""The account of bits is that of the files: recomputed here from the safetensors headers alone."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from bivlm.cli.tables import inspection_table
from bivlm.errors import InputError
from bivlm.eval.inspection import inspect, layer_of
from bivlm.job.run import quantize
from tiny import tiny_checkpoint


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    work = tmp_path_factory.mktemp("inspect")
    tiny_checkpoint("llava", work / "source")
    return work / "source", quantize(work / "source", work / "packed", recipe="bivlm-paper")


def packed_bytes(folder: Path) -> dict[str, int]:
    """Bytes of the packed tensors by linear, from the files."""
    modules = json.loads((folder / "config.json").read_text())["quantization_config"]["modules"]
    found = {}
    for name, spec in modules.items():
        found[name] = 0
        for path in folder.glob("*.safetensors"):
            with safe_open(path, "pt") as shard:
                for key in shard.keys():  # noqa: SIM118 - a safetensors file is no dict
                    if key.startswith(spec["key"]) and not key.endswith(".bias"):
                        tensor = shard.get_tensor(key)
                        found[name] += tensor.numel() * tensor.element_size()
    return found


def test_bits_are_those_of_the_files(folders):
    _, packed = folders
    expected = packed_bytes(packed)
    inspection = inspect(packed)
    assert inspection.total.bytes_after == sum(expected.values())
    assert inspection.total.bits_per_weight == pytest.approx(
        8 * sum(expected.values()) / inspection.total.weights
    )
    assert (
        sum(row.bytes_after for row in inspection.layers)
        == sum(row.bytes_after for row in inspection.parts)
        == inspection.total.bytes_after
    )
    assert {row.name for row in inspection.parts} == {"vision", "projector", "language"}


def test_blocks_of_the_rotation_are_counted(folders, tmp_path):
    source, _ = folders
    packed = quantize(source, tmp_path / "packed", recipe="trellis-2:feedback=false,blocks=2")
    modules = json.loads((packed / "config.json").read_text())["quantization_config"]["modules"]
    assert {spec["settings"]["blocks"] for spec in modules.values()} == {2}
    inspection = inspect(packed)
    assert inspection.blocks == {2: len(modules)}
    text = str(inspection_table(inspection, layers=False).caption)
    assert f"inputs can be split among devices: {len(modules)} linears in 2" in text


@pytest.mark.parametrize("kind", ["llava", "llava_siglip"])  # the second has embedding and head tied
def test_packed_embeddings_are_a_part_of_their_own(kind, tmp_path):
    source = tiny_checkpoint(kind, tmp_path / "source")
    packed = quantize(source, tmp_path / "packed", recipe="bivlm-paper:embeddings=3")
    expected, inspection = packed_bytes(packed), inspect(packed)
    row = next(row for row in inspection.parts if row.name == "embeddings")
    names = [name for name in expected if name.endswith(("embed_tokens", "lm_head"))]
    assert row.linears == len(names) == (1 if kind == "llava_siglip" else 2)
    assert row.bytes_after == sum(expected[name] for name in names)
    assert row.bytes_before == 4 * row.weights
    assert inspection.total.bytes_after == sum(expected.values())


def test_folder_sizes_count_every_file(folders):
    source, packed = folders
    inspection = inspect(packed)
    assert inspection.folder_bytes_before == sum(path.stat().st_size for path in source.iterdir())
    assert inspection.folder_bytes_after == sum(path.stat().st_size for path in packed.iterdir())


def test_a_full_precision_folder_is_refused(folders):
    with pytest.raises(InputError, match="not quantized by bivlm"):
        inspect(folders[0])


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.language_model.layers.3.mlp.up_proj", "model.language_model.layers.3"),
        ("model.multi_modal_projector.linear_1", "model.multi_modal_projector"),
        ("model.visual.merger.mlp.0", "model.visual.merger.mlp.0"),
    ],
)
def test_layer_of(name, layer):
    assert layer_of(name) == layer
