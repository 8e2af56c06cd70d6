"""A packed folder goes to the hub whole, and comes back by its name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import bivlm
from bivlm.checkpoint.hub import hub_id_of
from bivlm.checkpoint.push import push
from bivlm.errors import InputError
from hub_stand_in import SHA, hub
from tiny import tiny_checkpoint

# huggingface_hub hands files to httpx in a way that is going out
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("push")
    bivlm.quantize(tiny_checkpoint("llava", folder / "model"), folder / "out", recipe="rtn-2")
    return folder / "out"


@pytest.fixture(autouse=True)
def reachable(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


def test_everything_arrives_but_what_is_hidden(packed):
    (packed / ".note").write_text("mine")
    with hub() as stand_in:
        address = push(packed, "me/tiny", private=True, token="t", endpoint=stand_in.address)
        assert address == f"{stand_in.address}/me/tiny"
        assert stand_in.private["me/tiny"]
        sent = stand_in.files["me/tiny"]
    here = {path.relative_to(packed).as_posix() for path in packed.rglob("*") if path.is_file()}
    assert set(sent) == here - {".note"}
    assert all(content == (packed / name).read_bytes() for name, content in sent.items())
    assert b"*.safetensors filter=lfs" in sent[".gitattributes"]
    (packed / ".note").unlink()


def test_a_branch_and_a_message(packed):
    with hub() as stand_in:
        push(packed, "me/tiny", revision="two bits", message="now", token="t", endpoint=stand_in.address)
        assert stand_in.branches == ["two bits"]


@pytest.mark.parametrize("name", ["tiny", "a/b/c", "", "me/"])
def test_a_name_that_is_none(packed, name):
    with pytest.raises(InputError, match="is no model id of the hub; give OWNER/NAME"):
        push(packed, name)


def test_what_is_not_packed_is_not_sent(packed, tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        push(tmp_path / "nowhere", "me/tiny")
    with pytest.raises(InputError, match="is not packed by bivlm"):
        push(packed.parent / "model", "me/tiny")


def test_the_hubs_refusal_is_one_line(packed):
    with hub() as stand_in:
        stand_in.refused.add("you/tiny")
        with pytest.raises(InputError, match=r"the hub refused you/tiny \(You don't have the rights"):
            push(packed, "you/tiny", token="t", endpoint=stand_in.address)


def test_a_hub_that_is_away(packed):
    with pytest.raises(InputError, match="the hub could not be reached"):
        push(packed, "me/tiny", token="t", endpoint="http://127.0.0.1:9")


def test_the_id_of_a_folder_in_the_cache(tmp_path):
    place = tmp_path / "models--me--tiny-2--vl" / "snapshots" / SHA
    place.mkdir(parents=True)
    assert hub_id_of(place) == "me/tiny-2--vl"
    assert hub_id_of(tmp_path) is None


@pytest.mark.slow
def test_it_comes_back_by_its_name(packed, tmp_path):
    with hub() as stand_in:
        push(packed, "me/tiny", token="t", endpoint=stand_in.address)
        script = "import bivlm; print(type(bivlm.load('me/tiny')[0]).__name__)"
        environment = {**os.environ, "HF_ENDPOINT": stand_in.address, "HF_HOME": str(tmp_path)}
        environment |= {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1].endswith("ForConditionalGeneration")
    assert list(Path(tmp_path).rglob("models--me--tiny"))
