"""Loading a processor from a folder, and the errors of folders and environments that lack something."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

from bivlm.errors import InputError
from bivlm.families import load_processor
from bivlm.families.processors import check_processor
from tiny import each, tiny_processor


@pytest.mark.parametrize("kind", each())
def test_what_was_saved_is_loaded(kind: str, tmp_path: Path):
    processor = tiny_processor(kind)
    processor.save_pretrained(tmp_path)
    loaded = load_processor(tmp_path)
    assert loaded.to_json_string() == processor.to_json_string()
    assert loaded.chat_template == processor.chat_template


@pytest.fixture
def llava(tmp_path: Path) -> Path:
    tiny_processor("llava").save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava"}))
    return tmp_path


@pytest.mark.parametrize("lost", ["processor_config.json", "tokenizer.json"])
def test_a_missing_file_is_told(llava: Path, lost: str):
    (llava / lost).unlink()
    with pytest.raises(InputError, match="files of its processor are missing or damaged"):
        load_processor(llava)


@pytest.mark.parametrize("damaged", ["processor_config.json", "tokenizer.json"])
def test_a_damaged_file_is_told_in_one_line(llava: Path, damaged: str):
    (llava / damaged).write_bytes((llava / damaged).read_bytes()[:100])
    with pytest.raises(InputError, match="files of its processor are missing or damaged") as caught:
        load_processor(llava)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_cannot_count_visual_tokens_is_told_which_fields_it_lacks(llava: Path):
    content = json.loads((llava / "processor_config.json").read_text())
    del content["patch_size"], content["vision_feature_select_strategy"]
    (llava / "processor_config.json").write_text(json.dumps(content))
    with pytest.raises(
        InputError,
        match=r"LlavaProcessor lacks patch_size and vision_feature_select_strategy.*processor_config\.json",
    ):
        load_processor(llava)


def test_code_in_a_checkpoint_is_not_run(llava: Path):
    content = json.loads((llava / "processor_config.json").read_text())
    content |= {"processor_class": "Mine", "auto_map": {"AutoProcessor": "mine.Mine"}}
    (llava / "processor_config.json").write_text(json.dumps(content))
    (llava / "mine.py").write_text("raise SystemExit('run')")
    with pytest.raises(InputError, match=r"needs the code of the folder.*--trust-remote-code"):
        load_processor(llava)


def test_a_tokenizer_is_no_processor():
    with pytest.raises(InputError, match="no processor of images and text"):
        check_processor(tiny_processor("llava").tokenizer)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, llava: Path):
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise ImportError(
            "Package `num2words` is required to run SmolVLM processor. Install it with `pip install"
            " num2words`."
        )

    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", refuse)
    with pytest.raises(InputError, match="pip install num2words"):
        load_processor(llava)


WITHOUT_TORCHVISION = """
import importlib.util, sys
find_spec = importlib.util.find_spec
def hide(name, package=None):
    return None if name.startswith("torchvision") else find_spec(name, package)
importlib.util.find_spec = hide
sys.modules["torchvision"] = None
"""
UNFIT_TORCHVISION = """
import pathlib, sys
package = pathlib.Path(sys.argv[1]) / "unfit" / "torchvision"
package.mkdir(parents=True)
(package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
sys.path.insert(0, str(package.parent))
"""
ASK = """
from pathlib import Path
from PIL import Image
from bivlm.errors import InputError
from bivlm.families import family_of, load_processor
from bivlm.types import Sample
for folder in ("llava", "qwen2_5_vl"):
    try:
        processor = load_processor(Path(sys.argv[1]) / folder)
        image = Image.new("RGB", (40, 40))
        inputs = family_of(folder).inputs(processor, [Sample(image, "Is it red?")], [image])
        print(folder, type(processor.image_processor).__name__, tuple(inputs["pixel_values"].shape))
    except InputError as error:
        print(folder, "InputError", error)
"""


def run(tmp_path: Path, code: str) -> list[str]:
    for kind in ("llava", "qwen2_5_vl"):
        tiny_processor(kind).save_pretrained(tmp_path / kind)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code + ASK, str(tmp_path)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_without_torchvision_llava_works_and_qwen_tells_what_to_install(tmp_path: Path):
    works, told = run(tmp_path, WITHOUT_TORCHVISION)
    assert works == "llava CLIPImageProcessorPil (1, 3, 32, 32)"
    assert told.startswith(f"qwen2_5_vl InputError {tmp_path}/qwen2_5_vl: its processor needs torchvision")


def test_with_a_torchvision_for_another_torch_everyone_is_told(tmp_path: Path):
    for line in run(tmp_path, UNFIT_TORCHVISION):
        assert "InputError" in line
        assert "needs torchvision, which is missing or does not go with the installed torch" in line
