"""What is handed out: the wheel leaves the embedded model's weights out, and other packagings ask for what
pyproject.toml asks for.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import bivlm
from bivlm.errors import InputError
from bivlm.native import library
from bivlm.zoo import check_embedded_model

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RECIPE = yaml.safe_load((ROOT / "packaging" / "conda" / "recipe.yaml").read_text())


def test_the_conda_recipe_asks_for_the_same():
    asked = [re.sub(r"(?<=[\w])(?=[<>=])", " ", one, count=1) for one in PROJECT["project"]["dependencies"]]
    asked = [one.replace("torch ", "pytorch ") if one.startswith("torch ") else one for one in asked]
    assert RECIPE["requirements"]["run"] == [f"python {PROJECT['project']['requires-python']}", *asked]
    assert RECIPE["context"]["version"] == bivlm.__version__


def test_what_the_wheel_leaves_out_is_in_a_clone():
    (left_out,) = PROJECT["tool"]["scikit-build"]["wheel"]["exclude"]
    assert (ROOT / "src" / left_out).is_file()
    assert f"src/{left_out}" in (ROOT / ".dockerignore").read_text().split()


def test_without_the_weights_the_demo_says_where_they_are(tmp_path, monkeypatch):
    check_embedded_model()
    monkeypatch.setattr("bivlm.zoo.embedded_model", lambda: tmp_path)
    with pytest.raises(InputError, match="which wheels leave out; get a clone"):
        check_embedded_model()


def test_the_extras_of_the_image_are_extras():
    extras = re.findall(r"EXTRAS=([\w,]+)", (ROOT / "Dockerfile").read_text())
    assert extras
    assert {name for one in extras for name in one.split(",")} <= set(
        PROJECT["project"]["optional-dependencies"]
    )


def test_slow_kernels_are_told_once(monkeypatch, caplog):
    monkeypatch.setattr(library, "status", lambda: library.Status(False, None, "there is no file"))
    monkeypatch.delenv("BIVLM_KERNEL", raising=False)
    library.warn_of_reference.cache_clear()
    for _ in range(2):
        library.warn_of_reference()
    assert [record.getMessage() for record in caplog.records] == [
        "packed models run on the slow reference kernels: there is no file (`bivlm doctor` says more)"
    ]
    library.warn_of_reference.cache_clear()
    monkeypatch.setenv("BIVLM_KERNEL", "reference")
    library.warn_of_reference()
    assert len(caplog.records) == 1
    library.warn_of_reference.cache_clear()
