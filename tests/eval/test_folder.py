"""What an evaluation leaves on the disk."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

import bivlm
from bivlm.errors import InputError
from bivlm.eval import folder as module
from bivlm.eval.folder import PICTURES, RECORDS, RESULT, check_free, model_size, write_evaluation
from bivlm.eval.records import Record
from bivlm.eval.run import EvalResult, evaluate
from bivlm.zoo import embedded_model
from tiny import tiny_model, tiny_processor, tiny_samples

SIZE = {"weight_bytes": 10, "true_bits": None, "parts": []}


@pytest.fixture(scope="module")
def result() -> EvalResult:
    return evaluate(tiny_model("llava"), tiny_processor("llava"), tiny_samples(3), max_new_tokens=2)


def test_every_question_is_a_line_and_the_result_says_what_was_asked(result: EvalResult, tmp_path: Path):
    out = tmp_path / "new" / "results"
    write_evaluation(out, result, {"model": "mödel", "seed": 3}, tiny_samples(3), SIZE)
    assert sorted(path.name for path in out.iterdir()) == [PICTURES, RECORDS, RESULT]
    digests = {record.image for record in result.records}
    assert {path.stem for path in (out / PICTURES).iterdir()} == digests
    lines = (out / RECORDS).read_text(encoding="utf-8").splitlines()
    assert tuple(Record.from_dict(json.loads(line)) for line in lines) == result.records
    content = json.loads((out / RESULT).read_text(encoding="utf-8"))
    assert content["size"] == SIZE
    assert content["asked"] == {"model": "mödel", "seed": 3}
    assert content["result"] == json.loads(json.dumps(result.to_dict()))
    assert "records" not in content["result"]
    assert {"processor", "torch", "transformers", "bivlm"} <= content["machine"].keys()


def test_a_folder_with_something_in_it_is_left_alone(result: EvalResult, tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    for out, message in ((tmp_path, "is not empty"), (tmp_path / "file", "is a file")):
        with pytest.raises(InputError, match=message):
            check_free(out)
        with pytest.raises(InputError, match=message):
            write_evaluation(out, result, {}, tiny_samples(3), SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    check_free(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_full_disk_leaves_no_result(result: EvalResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(path: Path, content: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_text", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
        write_evaluation(tmp_path / "out", result, {}, tiny_samples(3), SIZE)
    assert not list((tmp_path / "out").iterdir())


def test_the_size_is_that_of_the_files(tmp_path: Path):
    full = model_size(embedded_model())
    assert full == {
        "weight_bytes": (embedded_model() / "model.safetensors").stat().st_size,
        "true_bits": None,
        "parts": [],
    }
    bivlm.quantize(embedded_model(), tmp_path / "packed", recipe="sign-1", parts=["projector"])
    small, found = model_size(tmp_path / "packed"), bivlm.inspect(tmp_path / "packed")
    assert small["true_bits"] == found.total.bits_per_weight
    (part,) = small["parts"]
    assert (part["name"], part["nbytes"]) == ("projector", found.total.bytes_after)
    assert small["weight_bytes"] == sum(
        file.stat().st_size for file in (tmp_path / "packed").glob("*.safetensors")
    )
