"""`bivlm doctor` tells what is so: the library or why there is none, and for a model the kernel of every
linear.
"""

import json
import sys

import pytest
import torch

from bivlm import cli
from bivlm.doctor import diagnose
from bivlm.errors import InputError
from bivlm.formats import FORMATS
from bivlm.job.run import quantize
from bivlm.native import library as native
from tiny import tiny_checkpoint


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    work = tmp_path_factory.mktemp("doctor")
    tiny_checkpoint("llava", work / "source")
    return work / "source", quantize(work / "source", work / "packed", recipe="bivlm-paper")


def test_with_and_without_the_library(monkeypatch, tmp_path):
    found = native.Library(tmp_path / "lib.so", "avx2", **dict.fromkeys(native.FUNCTIONS, lambda *_: 0))
    monkeypatch.setattr(native, "_search", lambda: found)
    there = diagnose()
    assert (there.library, there.instruction_set) == (str(tmp_path / "lib.so"), "avx2")
    assert {row.format: row.kernel for row in there.kernels} == {
        **dict.fromkeys(FORMATS, "native"),
        "raw": "torch",
    }
    assert not any(row.why for row in there.kernels)
    monkeypatch.setattr(native, "_search", lambda: "it is gone")
    absent = diagnose()
    assert (absent.library, absent.instruction_set) == ("it is gone", None)
    assert {row.format: row.kernel for row in absent.kernels} == {
        **dict.fromkeys(FORMATS, "reference"),
        "raw": "torch",
    }
    assert {"python", "torch", "transformers", "bivlm"} == set(absent.versions)
    assert absent.memory_bytes > absent.memory_available_bytes > 0


def test_a_model(folders, monkeypatch):
    monkeypatch.setattr(native, "_search", lambda: "it is gone")
    source, packed = folders
    quantization = json.loads((packed / "config.json").read_text())["quantization_config"]
    modules = quantization["modules"]
    (row,) = diagnose(packed).linears
    assert (row.format, row.kernel, row.linears, row.why) == (
        "levels",
        "reference",
        len(modules),
        "it is gone",
    )
    with pytest.raises(InputError, match="not packed by bivlm"):
        diagnose(source)


def test_other_devices(monkeypatch):
    """None, two cards of which one is old, and Apple's."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (row,) = diagnose().devices
    assert (row.device, row.kernel) == ("cuda", "")
    assert row.why
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    (row,) = diagnose().devices
    assert (row.device, row.kernel, row.why) == ("mps", "reference", "there are no kernels for it")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"card {index}")
    monkeypatch.setattr("bivlm.kernels.gpu.why_reference", lambda device: "it is old" if device.index else "")
    assert [(row.device, row.name, row.kernel, row.why) for row in diagnose().devices] == [
        ("cuda:0", "card 0", "triton", ""),
        ("cuda:1", "card 1", "reference", "it is old"),
    ]


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_the_command(words, folders, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bivlm", "doctor", str(folders[1]), *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    text = capsys.readouterr().out
    assert "levels" in text
    if words:
        assert json.loads(text)["versions"]["bivlm"] == json.loads(json.dumps(diagnose().versions))["bivlm"]
