"""What the project's own papers promise: one version, commands and links that exist, and no code run from a
model's folder.
"""

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import bivlm
from bivlm.data.samples import read_samples
from tiny import tiny_checkpoint

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
CODE_BLOCK = re.compile(r"^```.*?^```", flags=re.MULTILINE | re.DOTALL)


def test_one_version():
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), flags=re.MULTILINE)
    released = re.search(r"^## \[(\d.*)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert cited[1] == released[1] == bivlm.__version__
    assert importlib.metadata.version("bivlm") == bivlm.__version__, "install the package again"


def test_importing_bivlm_imports_neither_torch_nor_transformers():
    heavy = "print([name for name in ('torch', 'transformers', 'numpy', 'pydantic') if name in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", f"import sys, bivlm; {heavy}"], capture_output=True, text=True
    )
    assert found.stdout.strip() == "[]", found.stderr


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_somewhere(page):
    text = CODE_BLOCK.sub("", page.read_text())
    for link in re.findall(r"\]\((?!https?:)([^)#\s]+)[^)]*\)", text):
        assert (page.parent / link).exists(), link


def test_make_targets_of_contributing_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    told = re.findall(r"(?:^|`)make ([a-z- ]+)", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)
    assert {target for words in told for target in words.split()} <= targets


def test_the_reference_has_every_public_name():
    reference = (ROOT / "docs" / "reference" / "api.md").read_text()
    documented = set(re.findall(r"^::: bivlm\.(\w+)$", reference, flags=re.MULTILINE))
    assert documented == set(bivlm.__all__) - {"__version__"}


def test_code_in_a_model_folder_is_not_run(tmp_path):
    """SECURITY.md: what a folder's `auto_map` names is never imported."""
    model = tiny_checkpoint("llava", tmp_path / "model", torch.bfloat16)
    (model / "remote.py").write_text(f"open({str(tmp_path / 'was_run')!r}, 'w')\n")
    for name, classes in {
        "config.json": ("AutoConfig", "AutoModelForImageTextToText"),
        "processor_config.json": ("AutoProcessor", "AutoImageProcessor"),
        "tokenizer_config.json": ("AutoProcessor",),
    }.items():
        content = json.loads((model / name).read_text())
        content["auto_map"] = {key: f"remote.{key}" for key in classes}
        (model / name).write_text(json.dumps(content))
    out = bivlm.quantize(model, tmp_path / "out", recipe="rtn-2")
    image = read_samples("easy-vqa", split="test", limit=1)[0].image
    for folder in (model, out):
        loaded, processor = bivlm.load(folder)
        bivlm.answer(loaded, processor, image, "what is it?", max_new_tokens=2)
    assert not (out / "remote.py").exists()
    assert not (tmp_path / "was_run").exists()
