"""Damaged and missing files, and folders that must not be written: one clear line each, and never half a
model that looks whole.
"""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import bivlm
from bivlm.checkpoint import output as job_module
from bivlm.checkpoint.place import JOB_FOLDER
from bivlm.checkpoint.source import SourceModel
from bivlm.errors import InputError
from bivlm.job.run import quantize
from tiny import tiny_checkpoint, tiny_model, tiny_processor, tiny_samples
from told import Told

PAPER = {"recipe": "bivlm-paper"}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    work = tmp_path_factory.mktemp("originals")
    source = tiny_checkpoint("llava", work / "source", torch.bfloat16)
    return source, quantize(source, work / "packed", **PAPER)


@pytest.fixture
def source(originals, tmp_path):
    return shutil.copytree(originals[0], tmp_path / "source")


@pytest.fixture
def packed(originals, tmp_path):
    return shutil.copytree(originals[1], tmp_path / "packed")


def flip_last_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


class TestPackedFolder:
    def test_flipped_byte_names_the_tensor(self, packed):
        flip_last_byte(sorted(packed.glob("*.safetensors"))[-1])
        with pytest.raises(InputError, match=r"the bytes of tensor \S+layers\.2\.\S+ have changed"):
            bivlm.load(packed)

    def test_truncated_shard(self, packed):
        path = sorted(packed.glob("*.safetensors"))[-1]
        path.write_bytes(path.read_bytes()[:-7])
        with pytest.raises(InputError, match="damaged or cut short"):
            bivlm.load(packed)

    def test_missing_shard(self, packed):
        sorted(packed.glob("*.safetensors"))[2].unlink()
        with pytest.raises(InputError, match="lacks model-00003"):
            bivlm.load(packed)

    def test_tensor_taken_out(self, packed):
        path = sorted(packed.glob("*.safetensors"))[-1]
        tensors = load_file(path)
        gone = next(key for key in tensors if key.endswith(".codes"))
        del tensors[gone]
        save_file(tensors, path, metadata={"format": "pt"})
        with pytest.raises(InputError, match=f"lacks the tensor {gone}"):
            bivlm.load(packed)

    def test_newer_version(self, packed):
        config = json.loads((packed / "config.json").read_text())
        config["quantization_config"]["format_version"] = 99
        (packed / "config.json").write_text(json.dumps(config))
        with pytest.raises(InputError, match="format version 99"):
            bivlm.load(packed)

    def test_unfinished_folder(self, packed):
        (packed / "config.json").unlink()
        (packed / JOB_FOLDER).mkdir()
        with pytest.raises(InputError, match="unfinished"):
            bivlm.load(packed)

    def test_it_cannot_be_quantized_again(self, packed, tmp_path):
        with pytest.raises(InputError, match="quantized already"):
            quantize(packed, tmp_path / "again", **PAPER)


class TestSource:
    def refused(self, source, out, match):
        with pytest.raises(InputError, match=match):
            quantize(source, out, **PAPER)
        assert not (out / "config.json").exists()

    def test_missing(self, tmp_path):
        self.refused(tmp_path / "nothing", tmp_path / "out", "there is no folder")

    def test_empty(self, tmp_path):
        (tmp_path / "empty").mkdir()
        self.refused(tmp_path / "empty", tmp_path / "out", "is empty")

    def test_without_config(self, source, tmp_path):
        (source / "config.json").unlink()
        self.refused(source, tmp_path / "out", r"has no config\.json")

    def test_pickled_weights_only(self, source, tmp_path):
        (source / "model.safetensors").rename(source / "pytorch_model.bin")
        self.refused(source, tmp_path / "out", r"no weights in safetensors \(only pytorch_model\.bin\)")

    def test_truncated(self, source, tmp_path):
        path = source / "model.safetensors"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        self.refused(source, tmp_path / "out", "damaged or cut short")

    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    def test_not_finite_is_named(self, value, source, tmp_path):
        tensors = load_file(source / "model.safetensors")
        key = next(key for key in tensors if key.endswith("layers.1.mlp.up_proj.weight"))
        tensors[key][3, 5] = value
        save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
        self.refused(source, tmp_path / "out", f"{key} holds 1 values that are NaN or infinite")

    def test_a_tensor_is_missing(self, source, tmp_path):
        tensors = load_file(source / "model.safetensors")
        del tensors[next(key for key in tensors if key.endswith("layers.1.mlp.up_proj.weight"))]
        save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
        self.refused(source, tmp_path / "out", r"lack model\.language_model\.layers\.1\.mlp\.up_proj\.weight")

    def test_unsupported_architecture(self, source, tmp_path):
        config = json.loads((source / "config.json").read_text())
        (source / "config.json").write_text(json.dumps({**config, "model_type": "resnet"}))
        self.refused(
            source, tmp_path / "out", r"'resnet' is not supported.*declared are .*llava.*docs/adding\.md"
        )

    def test_weight_of_zeros_is_fine(self, source, tmp_path):
        tensors = load_file(source / "model.safetensors")
        key = next(key for key in tensors if key.endswith("layers.1.mlp.up_proj.weight"))
        tensors[key].zero_()
        save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
        for recipe in ("bivlm-paper", "bivlm"):
            bivlm.load(quantize(source, tmp_path / recipe, recipe=recipe, data=tiny_samples(1)))

    def test_data_is_needed_and_there_is_none(self, source, tmp_path):
        with pytest.raises(InputError, match="and none was given"):
            quantize(source, tmp_path / "out", recipe="bivlm", data="none")
        assert not (tmp_path / "out").exists()


class TestOut:
    def test_not_empty(self, source, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.tex").write_text("years of work")
        with pytest.raises(InputError, match="is not empty"):
            quantize(source, tmp_path / "out", **PAPER)
        with pytest.raises(InputError, match="bivlm did not write"):
            quantize(source, tmp_path / "out", overwrite=True, **PAPER)
        assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"

    def test_overwrite_replaces_a_packed_folder(self, source, packed):
        with pytest.raises(InputError, match="is not empty"):
            quantize(source, packed, settings={"bands": 1}, **PAPER)
        quantize(source, packed, overwrite=True, settings={"bands": 1}, **PAPER)
        assert bivlm.inspect(packed).total.bits_per_weight < 2

    def test_unfinished_work_of_another_job(self, source, tmp_path):
        def stop(report):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            quantize(source, tmp_path / "out", events=Told(stop), **PAPER)
        with pytest.raises(InputError, match=r"another job \(its recipe differ"):
            quantize(source, tmp_path / "out", settings={"bands": 2}, **PAPER)

    def test_the_models_own_folder(self, source):
        with pytest.raises(InputError, match="own folder"):
            quantize(source, source, overwrite=True, **PAPER)

    def test_a_file(self, source, tmp_path):
        (tmp_path / "out").write_text("")
        with pytest.raises(InputError, match="is a file"):
            quantize(source, tmp_path / "out", **PAPER)

    def test_a_second_process(self, source, tmp_path):
        def start_again(report):
            with pytest.raises(InputError, match="another process"):
                quantize(source, tmp_path / "out", **PAPER)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            quantize(source, tmp_path / "out", events=Told(start_again), **PAPER)
        quantize(source, tmp_path / "out", **PAPER)

    def test_a_full_disk_keeps_what_is_whole(self, source, originals, tmp_path, monkeypatch):
        write, written = job_module.write_shard, []

        def full_after_three(path, tensors):
            if len(written) == 3:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            written.append(path)
            write(path, tensors)

        monkeypatch.setattr(job_module, "write_shard", full_after_three)
        with pytest.raises(InputError, match="the disk is full; make room, then run the same command again"):
            quantize(source, tmp_path / "out", **PAPER)
        assert sorted((tmp_path / "out").glob("*.safetensors")) == written
        monkeypatch.setattr(job_module, "write_shard", write)
        out = quantize(source, tmp_path / "out", **PAPER)
        for path in originals[1].glob("*.safetensors"):
            assert path.read_bytes() == (out / path.name).read_bytes()


@pytest.fixture(scope="module")
def unbounded(tmp_path_factory):
    """A Gemma 4 that clips nowhere."""
    model = tiny_model("gemma4", torch.bfloat16)
    for name, buffer in model.named_buffers():
        if name.endswith(("_min", "_max")):
            buffer.fill_(torch.inf if name.endswith("_max") else -torch.inf)
    folder = tmp_path_factory.mktemp("bounds") / "source"
    model.save_pretrained(folder)
    tiny_processor("gemma4").save_pretrained(folder)
    return folder


class TestBounds:
    """Gemma 4 clips at numbers that are stored with the weights, and that may be infinite."""

    def test_infinite_ones_are_those_of_the_model(self, unbounded):
        source = SourceModel(unbounded)
        read = source.read(list(source.entries))
        assert sum(bool(tensor.isinf().any()) for tensor in read.values()) > 12

    @pytest.mark.slow
    def test_they_are_packed_with_the_rest(self, unbounded, tmp_path):
        model, _ = bivlm.load(bivlm.quantize(unbounded, tmp_path / "out", recipe="rtn-3"))
        bounds = [buffer for name, buffer in model.named_buffers() if name.endswith("output_max")]
        assert bounds
        assert all(bool(bound.isposinf()) for bound in bounds)

    @pytest.mark.parametrize(
        ("ending", "value"),
        [("input_max", torch.nan), ("input_max", -torch.inf), ("input_layernorm.weight", torch.inf)],
    )
    def test_nothing_else_may_be_infinite(self, ending, value, unbounded, tmp_path):
        source = Path(shutil.copytree(unbounded, tmp_path / "source"))
        tensors = load_file(source / "model.safetensors")
        key = next(key for key in tensors if key.endswith(ending))
        tensors[key].view(-1)[0] = value
        save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
        model = SourceModel(source)
        with pytest.raises(InputError, match=f"{key} holds 1 values that are NaN or infinite"):
            model.read(list(model.entries))
