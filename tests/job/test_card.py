"""The data at the beginning of a model card: what the hub reads."""

from __future__ import annotations

import shutil

import pytest
import yaml
from huggingface_hub import ModelCard

import bivlm
from tiny import tiny_checkpoint

OWN = """---
license: other
license_name: mine
license_link: LICENSE
language: [en, de]
datasets: [me/pictures]
tags: [multimodal, bivlm]
base_model: me/parent
---
# The source
"""


def front_of(folder):
    return ModelCard.load(folder / "README.md").data.to_dict()


def test_a_local_folder_names_no_base_model(tmp_path):
    source = tiny_checkpoint("llava", tmp_path / "model")
    (source / "README.md").write_text(OWN)
    front = front_of(bivlm.quantize(source, tmp_path / "out", recipe="rtn-2"))
    assert "base_model" not in front
    assert front == {
        "license": "other",
        "license_name": "mine",
        "license_link": "LICENSE",
        "language": ["en", "de"],
        "datasets": ["me/pictures"],
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["multimodal", "bivlm", "quantized"],
    }


def test_a_folder_of_the_hubs_cache_names_its_id(tmp_path):
    place = tmp_path / "models--me--tiny" / "snapshots" / ("a" * 40)
    place.parent.mkdir(parents=True)
    shutil.move(tiny_checkpoint("llava", tmp_path / "model"), place)
    out = bivlm.quantize(place, tmp_path / "out", recipe="rtn-2")
    front = front_of(out)
    assert (front["base_model"], front["base_model_relation"]) == ("me/tiny", "quantized")
    assert "# me/tiny, packed by bivlm" in (out / "README.md").read_text()


@pytest.mark.parametrize("text", ["no data", "---\n- a\n- b\n---\n", "---\nlicense: [\n---\n", ""])
def test_a_card_that_cannot_be_read_carries_nothing(tmp_path, text):
    source = tiny_checkpoint("llava", tmp_path / "model")
    (source / "README.md").write_text(text)
    out = bivlm.quantize(source, tmp_path / "out", recipe="rtn-2")
    front = yaml.safe_load((out / "README.md").read_text().split("---")[1])
    assert front["tags"] == ["bivlm", "quantized"]
