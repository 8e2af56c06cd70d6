"""Weights of one input that are quantized together: q, k and v of a block, gate and up. What they share is
stored once, counted once, and there again when the folder is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import bivlm
from bivlm.checkpoint.modules import read_modules
from bivlm.checkpoint.shards import read_entries
from bivlm.checkpoint.verify import verify_folder
from bivlm.checkpoint.weight_files import weight_files
from bivlm.errors import InputError
from bivlm.job.run import quantize
from bivlm.packed.module import packed_modules
from bivlm.quantizers import QSVD
from bivlm.types import LinearStats
from tiny import tiny_checkpoint, tiny_samples

SAMPLES = tiny_samples(4)
RIGHT = "right_"
RECIPE = "qsvd-3:factors=gptq"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("groups")
    source = tiny_checkpoint("llava", work / "source")
    return quantize(source, work / "out", recipe=RECIPE, parts=["language"], data=SAMPLES)


def quantization_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())["quantization_config"]


def test_b_is_stored_once_for_q_k_and_v_and_for_gate_and_up(folder: Path) -> None:
    modules = read_modules(quantization_of(folder))
    entries = read_entries(weight_files(folder))
    for name, spec in modules.items():
        place, _, kind = name.rpartition(".")
        first = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}.get(kind)
        rights = [tensor for tensor in spec.tensors if tensor.startswith(RIGHT)]
        owner = name if first is None else f"{place}.{first}"
        for tensor in rights:
            assert spec.stored_at(tensor) == modules[owner].key + tensor
            assert (spec.key + tensor in entries) is (first is None)
        assert bool(spec.shared) is (first is not None)


def test_true_bits_count_it_once(folder: Path) -> None:
    report = json.loads((folder / "bivlm_report.json").read_text())
    modules, entries = read_modules(quantization_of(folder)), read_entries(weight_files(folder))
    keys = {spec.stored_at(tensor) for spec in modules.values() for tensor in spec.tensors}
    stored = sum(entries[key].nbytes for key in keys)
    assert sum(row["stored_bytes"] for row in report.values()) == stored
    assert {name: row["stored_bytes"] for name, row in report.items()} == {
        name: spec.nbytes for name, spec in modules.items()
    }


def test_a_loaded_model_has_it_in_memory_once_and_answers(folder: Path) -> None:
    verify_folder(folder)
    model, processor = bivlm.load(folder)
    modules = packed_modules(model)
    attention = {
        name.rpartition(".")[2]: module for name, module in modules.items() if ".0.self_attn" in name
    }
    assert attention["k_proj"].right_codes is attention["q_proj"].right_codes
    assert attention["v_proj"].right_codes is attention["q_proj"].right_codes
    assert isinstance(bivlm.answer(model, processor, SAMPLES[0].image, "what?", max_new_tokens=2), str)


@pytest.mark.slow
def test_a_model_that_is_saved_again_is_the_same(folder: Path, tmp_path: Path) -> None:
    model, processor = bivlm.load(folder)
    model.save_pretrained(tmp_path / "again")
    processor.save_pretrained(tmp_path / "again")
    again, _ = bivlm.load(tmp_path / "again")
    for name, module in packed_modules(model).items():
        assert torch.equal(packed_modules(again)[name].dequantize(), module.dequantize())


@pytest.mark.slow
def test_a_unit_that_is_read_back_is_what_was_written(folder: Path, tmp_path: Path) -> None:
    """A job that finds finished blocks goes on with the same weights: the same bytes."""
    source = folder.parent / "source"
    stop = Stopping(3)
    with pytest.raises(KeyboardInterrupt):
        quantize(source, tmp_path / "out", recipe=RECIPE, parts=["language"], data=SAMPLES, events=stop)
    out = quantize(source, tmp_path / "out", recipe=RECIPE, parts=["language"], data=SAMPLES)
    for path in sorted(folder.glob("*.safetensors")):
        assert (out / path.name).read_bytes() == path.read_bytes()


class Stopping(bivlm.Events):
    """Stops a job after some units."""

    def __init__(self, units: int) -> None:
        self.left = units

    def unit(self, *_: Any) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


WRONG = {
    "a tensor of nobody": (
        lambda own: {**own, "right_codes": "model.nobody.right_codes"},
        "not in the files",
    ),
    "another tensor": (
        lambda own: {**own, "right_codes": own["right_codes"].replace("right_codes", "left_scales")},
        "in config.json",
    ),
    "one that is not said": (lambda own: {"right_codes": own["right_codes"]}, "not in the files"),
    "a tensor that it has not": (lambda own: {"strange": "x"}, "shared is"),
    "no object": (lambda own: list(own), "shared is"),
    "no key": (lambda own: {**own, "right_codes": 3}, "shared is"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_a_share_that_is_none_is_refused(folder: Path, change: Callable[[Any], Any], message: str) -> None:
    quantization = quantization_of(folder)
    name = next(name for name, spec in quantization["modules"].items() if "shared" in spec)
    spec = quantization["modules"][name]
    changed = {**spec, "shared": change(spec["shared"])}
    entries = read_entries(weight_files(folder))

    def read() -> None:
        read_modules({**quantization, "modules": {name: changed}})[name].check_stored(entries)

    with pytest.raises((InputError, ValueError), match=message):
        read()


def test_weights_that_are_quantized_alone_share_nothing() -> None:
    method, stats = QSVD(rank=4, factors="raw"), LinearStats({"text": torch.eye(8)}, {"text": 9})
    weights = [torch.randn(6, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    alone = [method.quantize(weight, stats) for weight in weights]
    together = method.quantize_group(weights, stats)
    assert together[0].right == together[1].right
    assert alone[0].right != alone[1].right
