"""The account of bits is that of the files: recomputed here from the safetensors headers alone. It is the
same whether the parts are read from config.json or looked up in the model's family.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open

from bivlm import families
from bivlm.checkpoint import parts
from bivlm.checkpoint.verify import accept_files
from bivlm.cli.tables import inspection_table
from bivlm.errors import InputError
from bivlm.eval import inspection as inspection_module
from bivlm.eval.inspection import inspect, layer_of
from bivlm.job.run import quantize
from bivlm.types import EMBEDDINGS, PARTS
from tiny import each, tiny_checkpoint
from tiny.language import tiny_language_model
from tiny.vision import seeing_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden"
MIXED = Path(__file__).parents[1] / "reliability" / "mixed.toml"  # a recipe with several formats


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


def edited(packed, place, change, *, accepted=True):
    """A copy of a packed folder with another text of config.json, which is taken as right if it is
    `accepted`.
    """
    folder = shutil.copytree(packed, place)
    config = folder / "config.json"
    config.write_text(change(config.read_text()))
    if accepted:
        accept_files(folder)
    return folder


def other_checksum(text):
    """A config.json of the same size whose record of the parts cannot be believed."""
    return text.replace(json.loads(text)["quantization_config"]["stacks"]["crc32"], "0" * 8)


def without_record(text):
    content = json.loads(text)
    del content["quantization_config"]["stacks"]
    return json.dumps(content)


@pytest.fixture
def roads(tmp_path, monkeypatch):
    """Inspect a folder by both roads; returns what the quick one found, after it found the same."""

    def inspected(packed):
        slow = inspect(edited(packed, tmp_path / f"{packed.name}-slow", other_checksum))
        with monkeypatch.context() as patched:
            patched.delattr(inspection_module, "_looked_up")
            quick = inspect(packed)
        assert quick == slow
        return quick

    return inspected


class TestBothRoads:
    @pytest.mark.parametrize("kind", each())
    def test_vision_language_models(self, roads, kind, tmp_path):
        source = tiny_checkpoint(kind, tmp_path / "source")
        assert len(roads(quantize(source, tmp_path / "packed", recipe="rtn-2")).parts) > 1

    @pytest.mark.parametrize("model_type", ["olmo", "gemma3_text", "qwen3_moe"])
    def test_language_models(self, roads, model_type, tmp_path):
        source = tiny_language_model(model_type, tmp_path / "source")
        found = roads(quantize(source, tmp_path / "packed", recipe="rtn-2"))
        assert [row.name for row in found.parts] == ["language"]
        assert bool(found.experts) == (model_type == "qwen3_moe")

    @pytest.mark.parametrize("kind", ["sam", "clip_vision_model"])
    def test_vision_only_models(self, roads, kind, tmp_path):
        source = seeing_checkpoint(kind, tmp_path / "source")
        found = roads(quantize(source, tmp_path / "packed", recipe="rtn-2"))
        assert {row.name for row in found.parts} == {"vision"} | ({"projector"} if kind == "sam" else set())

    def test_a_family_that_was_found(self, roads, tmp_path, monkeypatch):
        monkeypatch.delitem(families._TABLE.built_in, "qwen2_vl")
        monkeypatch.setattr(families, "FOUND", {})
        source = tiny_checkpoint("qwen2_vl", tmp_path / "source")
        assert len(roads(quantize(source, tmp_path / "packed", recipe="rtn-2")).parts) == 3

    @pytest.mark.parametrize("kind", ["llava", "llava_siglip"])  # the second has embedding and head tied
    def test_packed_embeddings(self, roads, kind, tmp_path):
        source = tiny_checkpoint(kind, tmp_path / "source")
        packed = quantize(source, tmp_path / "packed", recipe="rtn-2", embeddings=3)
        assert {row.name for row in roads(packed).parts} >= {"embeddings", "language"}

    def test_some_parts_alone(self, roads, folders, tmp_path):
        packed = quantize(folders[0], tmp_path / "packed", recipe="rtn-2", parts=["vision"])
        assert [row.name for row in roads(packed).parts] == ["vision"]

    def test_many_formats(self, roads, folders, tmp_path):
        roads(quantize(folders[0], tmp_path / "packed", recipe=MIXED))


class TestTheRecordIsNotBelieved:
    @pytest.fixture
    def looked_up(self, monkeypatch):
        """The folders whose family was looked up."""
        found, own = [], inspection_module._looked_up

        def spy(folder, trust_remote_code):
            found.append(folder)
            return own(folder, trust_remote_code)

        monkeypatch.setattr(inspection_module, "_looked_up", spy)
        return found

    def test_of_a_folder_as_it_was_packed_it_is(self, folders, looked_up):
        inspect(folders[1])
        assert not looked_up

    def test_a_folder_that_was_packed_before_there_was_one(self, folders, looked_up, tmp_path):
        old = edited(folders[1], tmp_path / "old", without_record)
        found, now = inspect(old), inspect(folders[1])
        assert looked_up == [old]
        assert replace(found, folder_bytes_after=0) == replace(now, folder_bytes_after=0)

    def test_format_1(self, looked_up):
        assert {row.name for row in inspect(GOLDEN / "format_1").parts} == {*PARTS, EMBEDDINGS}
        assert looked_up

    @pytest.mark.parametrize(
        "change",
        [
            lambda text: text.replace('"model_type": "llava"', '"model_type": "llava" '),
            lambda text: json.dumps(json.loads(text) | {"note": "mine"}),
            lambda text: text.replace('"vision",', '"language",', 1),
        ],
        ids=["spaces", "a field", "the record"],
    )
    def test_an_edited_config(self, change, folders, looked_up, tmp_path):
        folder = edited(folders[1], tmp_path / "edited", change, accepted=False)
        with pytest.raises(InputError, match=r"config.json has changed"):
            inspect(folder)
        accept_files(folder)
        found, now = inspect(folder), inspect(folders[1])
        assert replace(found, folder_bytes_after=0) == replace(now, folder_bytes_after=0)
        # other spaces are no other content
        assert bool(looked_up) == (json.loads((folder / "config.json").read_text()) != config_of(folders[1]))

    @pytest.mark.parametrize(
        "paths",
        [
            {},
            [["vision"]],
            [["vision", 3]],
            [["sound", "model"]],
            [["language", "model.language_model.layers"]],  # without the others
        ],
    )
    def test_a_record_of_another_form(self, paths, folders, looked_up, tmp_path):
        """Even with its own checksum."""
        folder = edited(folders[1], tmp_path / "odd", lambda text: with_paths(text, paths))
        assert inspect(folder).parts == inspect(folders[1]).parts
        assert looked_up == [folder]

    def test_an_adapter_beside_the_weights_is_refused(self, folders, looked_up, tmp_path):
        folder = shutil.copytree(folders[1], tmp_path / "packed")
        (folder / "adapter_config.json").write_text("{}")
        with pytest.raises(InputError, match="holds an adapter"):
            inspect(folder)
        assert not looked_up

    def test_bytes_that_have_changed_are_refused(self, folders, looked_up, tmp_path):
        folder = shutil.copytree(folders[1], tmp_path / "packed")
        shard = sorted(folder.glob("*.safetensors"))[-1]
        shard.write_bytes(shard.read_bytes()[:-1] + b"\x55")
        with pytest.raises(InputError, match="have changed since they were written"):
            inspect(folder)
        assert not looked_up


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def with_paths(text, paths):
    """A config.json with other paths in its record, and their checksum."""
    content = json.loads(text)
    record = content["quantization_config"]["stacks"]
    record["paths"] = paths
    record["crc32"] = parts._checksum(content)
    return json.dumps(content)
