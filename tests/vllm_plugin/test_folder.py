"""Folders that the plug-in serves, those that it refuses, and what it needs of the installation."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from bivlm.errors import InputError
from bivlm.vllm_plugin.folder import packed_modules

LINEAR = {
    "key": "model.layers.0.mlp.down_proj.",
    "format": "uniform",
    "shape": [4, 8],
    "settings": {},
    "tensors": {"codes": ["uint8", [4]]},
}


def config(**more):
    modules = {"model.layers.0.mlp.down_proj": LINEAR}
    return {"quant_method": "bivlm", "format_version": 2, "modules": modules, **more}


def test_packed_modules_are_read():
    assert list(packed_modules(config())) == ["model.layers.0.mlp.down_proj"]
    assert list(packed_modules(config(keys="names"))) == ["model.layers.0.mlp.down_proj"]


def test_a_pruning_is_told(caplog):
    with caplog.at_level(logging.WARNING, "bivlm"):
        packed_modules(config(pruning={"pruner": "attention", "keep": 0.25}))
    assert [record.getMessage() for record in caplog.records] == [
        "this folder prunes visual tokens by default; vLLM does not: every visual token is read"
    ]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"format_version": 4}, "this checkpoint has format version 4, and this bivlm reads up to 3"),
        ({"keys": "letters"}, "keys is 'letters'; this bivlm knows 'names'"),
        ({"experts": "split", "format_version": 3}, "the experts of this folder are packed"),
        ({"modules": {"a": {**LINEAR, "format": "octal"}}}, "uses the format 'octal', which this bivlm"),
        ({"modules": {"a": {**LINEAR, "rank": 3}}}, "its field 'rank' is not known"),
        (
            {"modules": {"m.experts.[0-3].down_proj": {**LINEAR, "key": "m.experts.[0-3].down_proj."}}},
            "the experts of this folder are packed",
        ),
    ],
)
def test_what_cannot_be_served_is_one_sentence(more, said):
    with pytest.raises(InputError, match=said) as raised:
        packed_modules(config(**more))
    assert "\n" not in str(raised.value)


WITHOUT = """
import importlib.abc, pkgutil, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {"transformers", "accelerate", "datasets", "pydantic", "scipy", "PIL",
                                      "rich", "greenlet", "psutil", "filelock", "tqdm", "typer"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
import bivlm.vllm_plugin
for name in ("folder", "names", "ranks", "stored"):
    __import__(f"bivlm.vllm_plugin.{name}")
others = sorted(n for n in sys.modules if n.startswith("bivlm.") and n.split(".")[1] in
                {"families", "quantizers", "job", "data", "calibration", "eval", "cli", "loading", "serving"})
print(others)
"""


def test_it_imports_without_transformers_and_the_rest_of_bivlm():
    found = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found.stderr


def test_its_import_alone_is_light():
    told = "import sys, bivlm.vllm_plugin; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True)
    assert found.stdout.strip() == "False", found.stderr
