"""Folders that bring their own code: refused, and nothing of them run, unless the user trusts them; then
found, packed, loaded and asked like any other model.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import bivlm
from bivlm.checkpoint.hub import resolve_model
from bivlm.checkpoint.shards import read_json
from bivlm.cli import app
from bivlm.errors import InputError
from bivlm.eval.inspection import inspect
from bivlm.eval.structure import find_structure_of
from bivlm.families.found.record import read_record
from bivlm.packed.linear import packed_linears
from bivlm.types import Sample
from tiny import tiny_checkpoint, tiny_samples
from tiny.remote import RAN, glimpse, murmur

CODE = {"configuration_glimpse.py", "modeling_glimpse.py", "parts_glimpse.py", "processing_glimpse.py"}


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return glimpse(tmp_path_factory.mktemp("remote") / "glimpse")


@pytest.fixture(scope="module")
def packed(seeing: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "out"
    return bivlm.quantize(seeing, out, recipe="gptq-2", data=tiny_samples(3), trust_remote_code=True)


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the code makes when it is run."""
    monkeypatch.setenv(RAN, str(tmp_path / "ran"))
    return tmp_path / "ran"


def copied(folder: Path, place: Path) -> Path:
    """A copy that no other test has loaded."""
    return Path(shutil.copytree(folder, place))


def changed(folder: Path, name: str = "config.json", **fields: object) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_without_trust_nothing_is_run_and_the_option_is_named(
    seeing: Path, packed: Path, tmp_path: Path, ran: Path
):
    for folder in (copied(seeing, tmp_path / "a"), copied(packed, tmp_path / "b"), murmur(tmp_path / "c")):
        for use in (bivlm.load, find_structure_of, inspect, lambda one: bivlm.quantize(one, tmp_path / "o")):
            if folder.name == "b" and use is not bivlm.load:
                continue
            with pytest.raises(InputError, match=r"needs the code of its folder.*--trust-remote-code"):
                use(folder)
    result = CliRunner().invoke(app, ["ask", str(tmp_path / "b"), "Is it red?"])
    assert isinstance(result.exception, InputError)
    assert "--trust-remote-code" in str(result.exception)
    assert not ran.exists()


@pytest.mark.slow
def test_a_processor_of_its_own_needs_trust_as_well(tmp_path: Path, ran: Path):
    folder = tiny_checkpoint("llava", tmp_path / "llava", torch.bfloat16)
    (folder / "processing_mine.py").write_text(
        f"import os\nopen(os.environ['{RAN}'], 'w').close()\n"
        "from transformers import LlavaProcessor\nclass Mine(LlavaProcessor):\n    pass\n"
    )
    code = {"AutoProcessor": "processing_mine.Mine"}
    changed(folder, "processor_config.json", processor_class="Mine", auto_map=code)
    with pytest.raises(InputError, match=r"its processor needs the code of the folder.*--trust-remote-code"):
        bivlm.load(folder)
    assert not ran.exists()
    out = bivlm.quantize(folder, tmp_path / "out", recipe="rtn-3", trust_remote_code=True)
    assert read_json(out / "processor_config.json")["auto_map"] == code
    assert "auto_map" not in read_json(out / "config.json")
    assert type(bivlm.load(out, trust_remote_code=True)[1]).__name__ == "Mine"
    assert ran.exists()


@pytest.mark.slow
def test_a_class_of_transformers_is_used_even_if_the_folder_has_code(tmp_path: Path, ran: Path):
    folder = tiny_checkpoint("llava", tmp_path / "llava", torch.bfloat16)
    (folder / "mine.py").write_text(f"import os\nopen(os.environ['{RAN}'], 'w').close()\n")
    changed(folder, auto_map={"AutoConfig": "mine.A", "AutoModelForImageTextToText": "mine.B"})
    out = bivlm.quantize(folder, tmp_path / "out", recipe="rtn-3", trust_remote_code=True)
    assert "auto_map" not in read_json(out / "config.json")
    bivlm.load(out, trust_remote_code=True)
    assert not ran.exists()


def test_with_trust_it_is_found_packed_and_loaded(seeing: Path, packed: Path):
    structure = find_structure_of(seeing, trust_remote_code=True).structure
    assert [(stack.part, stack.path, stack.blocks) for stack in structure.stacks] == [
        ("vision", "eye.encoder.layers", 3),
        ("projector", "bridge", 1),
        ("language", "voice.layers", 3),
    ]
    assert structure.image_token_id == 3
    assert {path.name for path in packed.glob("*.py")} == CODE
    config = read_json(packed / "config.json")
    assert config["auto_map"] == read_json(seeing / "config.json")["auto_map"]
    assert "pixel_values" in config["quantization_config"]["family"]["takes"]
    assert "trust_remote_code=True" in (packed / "README.md").read_text()
    model, processor = bivlm.load(packed, trust_remote_code=True)
    assert len(packed_linears(model)) > 30
    sample = tiny_samples(1)[0]
    assert bivlm.answer(model, processor, sample.image, sample.question, max_new_tokens=3)
    assert inspect(packed, trust_remote_code=True).total.linears == len(packed_linears(model))
    assert bivlm.quantize(
        seeing, packed, recipe="gptq-2", data=tiny_samples(3), trust_remote_code=True
    )  # the job's own result: nothing to do


@pytest.mark.slow
def test_a_language_model_with_its_own_code(tmp_path: Path):
    folder, samples = murmur(tmp_path / "murmur"), [Sample(None, "Is it red?", ("red",))] * 3
    out = bivlm.quantize(folder, tmp_path / "out", recipe="gptq-2", data=samples, trust_remote_code=True)
    model, tokenizer = bivlm.load(out, trust_remote_code=True)
    assert type(model).__name__ == "MurmurForCausalLM"
    assert isinstance(bivlm.answer(model, tokenizer, None, "Is it red?", max_new_tokens=3), str)


@pytest.mark.slow
def test_a_model_that_reads_images_may_be_offered_as_a_causal_language_model(tmp_path: Path):
    folder = glimpse(tmp_path / "causal", "AutoModelForCausalLM")
    report = find_structure_of(folder, trust_remote_code=True)
    assert [stack.part for stack in report.structure.stacks] == ["vision", "projector", "language"]
    assert report.structure.family.reads_images


def test_code_that_cannot_be_used_is_told(seeing: Path, tmp_path: Path):
    def refusal(change: object) -> str:
        place = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        folder = copied(seeing, place)
        assert callable(change)
        change(folder)
        with pytest.raises(InputError) as caught:
            find_structure_of(folder, trust_remote_code=True)
        return str(caught.value)

    code = read_json(seeing / "config.json")["auto_map"]
    elsewhere = {name: f"someone/code--{place}" for name, place in code.items()}
    assert "another repository, someone/code, which is not fetched" in refusal(
        lambda folder: changed(folder, auto_map=elsewhere)
    )
    assert "its code parts_glimpse.py is not in the folder" in refusal(
        lambda folder: (folder / "parts_glimpse.py").unlink()
    )
    assert "its code offers AutoConfig, AutoModel; bivlm builds" in refusal(
        lambda folder: changed(folder, auto_map={"AutoConfig": code["AutoConfig"], "AutoModel": "a.B"})
    )
    assert "needs MODULE.CLASS" in refusal(
        lambda folder: changed(folder, auto_map={**code, "AutoConfig": "../evil.Config"})
    )
    assert "its code cannot be imported (" in refusal(
        lambda folder: (folder / "parts_glimpse.py").write_text("import nobody_has_this\n")
    )


def test_a_record_names_arguments_and_nothing_else(packed: Path):
    record = read_json(packed / "config.json")["quantization_config"]["family"]
    assert read_record("glimpse", record).takes == tuple(record["takes"])
    for takes in (["a b"], [3], "pixel_values"):
        with pytest.raises(InputError, match="takes is"):
            read_record("glimpse", {**record, "takes": takes})


@pytest.mark.slow
def test_a_fresh_process_loads_it_with_trust_alone(packed: Path, tmp_path: Path):
    """By bivlm's command line, and by plain transformers, whose logits are the same."""
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}

    def bivlm_(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from bivlm.cli import main; main()", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    refused = bivlm_("ask", str(packed), "Is it red?")
    assert refused.returncode == 2
    assert "--trust-remote-code" in refused.stderr
    assert not list((tmp_path / "modules").rglob("*glimpse*"))
    answered = bivlm_("ask", str(packed), "Is it red?", "--trust-remote-code", "--max-new-tokens", "2")
    assert answered.returncode == 0, answered.stderr
    model, processor = bivlm.load(packed, trust_remote_code=True)
    inputs = processor(text=["Is it red?"], return_tensors="pt")
    with torch.inference_mode():
        torch.save((dict(inputs), model(**inputs).logits), tmp_path / "expected.pt")
    script = f"""
import torch, transformers, bivlm.packed.hf
inputs, expected = torch.load({str(tmp_path / "expected.pt")!r})
model = transformers.AutoModelForImageTextToText.from_pretrained({str(packed)!r}, trust_remote_code=True)
with torch.inference_mode():
    assert torch.equal(model(**inputs).logits, expected)
transformers.AutoProcessor.from_pretrained({str(packed)!r}, trust_remote_code=True)
try:
    transformers.AutoModelForImageTextToText.from_pretrained({str(packed)!r}, trust_remote_code=False)
except ValueError:
    print("refused")
"""
    found = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert found.stdout == "refused\n", found.stderr


@pytest.mark.slow
def test_the_command_line_packs_inspects_and_measures_it(seeing: Path, tmp_path: Path):
    data = tmp_path / "data.jsonl"
    images = [sample.image for sample in tiny_samples(4)]
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")  # type: ignore[union-attr]
    rows = [
        {"image": f"{number}.png", "question": "Is it red?", "answer": "red"} for number in range(len(images))
    ]
    data.write_text("\n".join(map(json.dumps, rows)))
    out = tmp_path / "out"
    for words in (
        ["inspect", str(seeing), "--structure"],
        ["quantize", str(seeing), str(out), "--preset", "gptq-2", "--data", str(data)],
        ["inspect", str(out)],
        ["eval", str(out), "--data", str(data), "--reference", str(seeing), "--max-new-tokens", "2"],
        ["prune", str(out), "--data", str(data), "--out", str(tmp_path / "study"), "--keep", "0.5"],
        ["doctor", str(out)],
    ):
        refused = CliRunner().invoke(app, words)
        assert isinstance(refused.exception, InputError)
        done = CliRunner().invoke(app, [*words, "--trust-remote-code"])
        assert done.exit_code == 0, (words, done.output, done.exception)


def test_code_is_downloaded_with_trust_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    asked = []

    def snapshot(_: str, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    for trusted in (False, True):
        resolve_model("someone/glimpse", trusted)
    assert ["*.py" in patterns for patterns in asked] == [False, True]
