"""Format 1, as an earlier release wrote it, and format 2, whose checksums cover settings and files too."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import bivlm
from bivlm.checkpoint.verify import accept_files, verify_folder
from bivlm.errors import InputError
from bivlm.eval.answer import inference
from bivlm.formats import FORMATS
from bivlm.job.run import quantize
from tiny import tiny_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden"


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


class TestFormat1:
    def test_it_loads_and_computes_the_same(self):
        inputs = load_file(GOLDEN / "format_1_logits.safetensors")
        expected = inputs.pop("logits")
        model, _ = bivlm.load(GOLDEN / "format_1")
        with inference(model):
            logits = model(**inputs).logits
        torch.testing.assert_close(logits, expected, rtol=0.02, atol=0.02)

    def test_it_has_every_format_of_its_time(self):
        config = json.loads((GOLDEN / "format_1" / "config.json").read_text())
        modules = config["quantization_config"]["modules"]
        later = {"lowrank", "raw", "rows"}
        assert {spec["format"] for spec in modules.values()} == set(FORMATS) - later
        assert config["quantization_config"]["format_version"] == 1

    def test_it_is_verified_as_far_as_its_checksums_go(self, tmp_path):
        folder = shutil.copytree(GOLDEN / "format_1", tmp_path / "old")
        assert verify_folder(folder).format_version == 1
        with pytest.raises(InputError, match="nothing to accept"):
            accept_files(folder)
        shard = sorted(folder.glob("*.safetensors"))[0]
        shard.write_bytes(shard.read_bytes()[:-1] + b"\x77")
        with pytest.raises(InputError, match="have changed"):
            verify_folder(folder)

    def test_it_can_be_overwritten(self, tmp_path):
        """But not with a file in it that bivlm did not write; it has no list of them, so the names tell."""
        folder = shutil.copytree(GOLDEN / "format_1", tmp_path / "old")
        source = tiny_checkpoint("llava", tmp_path / "source", torch.bfloat16)
        for name in ("notes.md", "todo.txt", "results.json", "thesis"):
            (folder / name).write_text("mine")
            with pytest.raises(InputError, match=f"{name} .*did not write"):
                quantize(source, folder, recipe="rtn-2", overwrite=True)
            (folder / name).unlink()
        quantize(source, folder, recipe="rtn-2", overwrite=True)
        assert verify_folder(folder).format_version == 2


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    work = tmp_path_factory.mktemp("originals")
    source = tiny_checkpoint("llava", work / "source", torch.bfloat16)
    return quantize(source, work / "packed", recipe="trellis-2:feedback=false")


@pytest.fixture
def packed(original, tmp_path):
    return shutil.copytree(original, tmp_path / "packed")


class TestFormat2:
    def refused(self, packed, match):
        for check in (bivlm.load, verify_folder, bivlm.inspect):
            with pytest.raises(InputError, match=match):
                check(packed)

    def test_all_is_counted(self, packed):
        found = verify_folder(packed)
        assert found.format_version == 2
        assert (
            found.files == len([path for path in packed.iterdir() if path.suffix in (".json", ".jinja")]) - 1
        )
        assert found.modules > 20

    @pytest.mark.parametrize("setting", ["seed", "rotated"])
    def test_a_changed_setting_of_a_module(self, setting, packed):
        def change(config):
            spec = next(iter(config["quantization_config"]["modules"].values()))
            spec["settings"][setting] ^= 1

        edit(packed / "config.json", change)
        self.refused(packed, r"config\.json has changed")
        accept_files(packed)  # the file is accepted, and the module's own checksum still finds the change
        self.refused(packed, "the settings of the module .* have changed")

    def test_a_changed_number_of_the_processor(self, packed):
        edit(
            packed / "processor_config.json",
            lambda content: content["image_processor"].update(image_std=[1.0, 1.0, 1.0]),
        )
        self.refused(packed, r"processor_config\.json has changed.*--accept")
        assert accept_files(packed) == ["processor_config.json"]
        verify_folder(packed)
        bivlm.load(packed)

    def test_a_changed_template(self, packed):
        (packed / "chat_template.jinja").write_text("{{ messages }}")
        self.refused(packed, r"chat_template\.jinja has changed")

    def test_a_missing_file(self, packed):
        (packed / "tokenizer.json").unlink()
        self.refused(packed, r"lacks tokenizer\.json")
        accept_files(packed)
        verify_folder(packed)

    def test_the_card_may_be_edited(self, packed):
        (packed / "README.md").write_text("# mine")
        verify_folder(packed)

    def test_a_module_that_is_gone(self, packed):
        def change(config):
            modules = config["quantization_config"]["modules"]
            modules.pop(next(iter(modules)))

        edit(packed / "config.json", change)
        accept_files(packed)
        self.refused(packed, "disagree about the module")

    @pytest.mark.parametrize("checksums", [None, [], "x", {"a": 1}, {"a": "123"}])
    @pytest.mark.parametrize("which", ["crc32", "modules", "files"])
    def test_damaged_checksums(self, which, checksums, packed):
        edit(
            packed / "model.safetensors.index.json",
            lambda index: index["metadata"]["bivlm"].update({which: checksums}),
        )
        self.refused(packed, "checksums are damaged")

    def test_plain_transformers_checks_modules_too(self, packed):
        import transformers

        def change(config):
            next(iter(config["quantization_config"]["modules"].values()))["settings"]["seed"] ^= 1

        edit(packed / "config.json", change)
        with pytest.raises(InputError, match="the settings of the module"):
            transformers.AutoModelForImageTextToText.from_pretrained(packed)

    def test_saved_again_by_transformers_there_are_no_checksums(self, packed, tmp_path, caplog):
        model, processor = bivlm.load(packed)
        model.save_pretrained(tmp_path / "again")
        processor.save_pretrained(tmp_path / "again")
        bivlm.load(tmp_path / "again")
        assert "no checksums" in caplog.text
        assert verify_folder(tmp_path / "again").format_version == 0
