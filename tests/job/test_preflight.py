"""What the preflight says is what happens: the same linears, at most its bits and bytes; and it says when a
preset takes more than it is meant to.
"""

from __future__ import annotations

import json
import math
from collections import namedtuple
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from bivlm.errors import InputError
from bivlm.eval.inspection import inspect
from bivlm.job import preflight as module
from bivlm.job.preflight import BITS_TOLERANCE, check_disk, purpose_warning
from bivlm.job.recipe import Recipe, Rule
from bivlm.job.request import make_request
from bivlm.job.run import prepare, quantize
from tiny import tiny_checkpoint
from tiny.language import tiny_language_model

RECIPE = Recipe(
    "two",
    (Rule("bivlm", settings={"bands": 2, "compensate": False, "granularity": "group", "group_size": 64}),),
    true_bits=2.0,
)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny_checkpoint("llava", tmp_path_factory.mktemp("preflight") / "source", torch.bfloat16)


@pytest.fixture(scope="module")
def prepared(source):
    return prepare(source, make_request(RECIPE, parts=["language", "vision"]))


def test_bits_are_the_bounds_over_all_weights(prepared):
    quantized = [linear for linear in prepared.plan.weights if linear.quantizer is not None]
    counts = [linear.shape[0] * linear.shape[1] for linear in quantized]
    bits = [
        linear.quantizer.bits_bound(linear.shape) * count
        for linear, count in zip(quantized, counts, strict=True)
    ]
    assert prepared.expected.bits == pytest.approx(sum(bits) / sum(counts))
    assert sum(row.weights for row in prepared.expected.rows if row.bits is not None) == sum(counts)
    assert sum(row.linears for row in prepared.expected.rows) == len(prepared.plan.weights)


def test_memory_is_the_process_one_block_its_moments_and_the_largest_tensor_outside(tmp_path):
    folder = tiny_language_model("qwen3_moe", tmp_path / "source", torch.bfloat16)

    def predicted(recipe: str) -> int:
        return prepare(folder, make_request(recipe)).expected.memory_bytes - module.PROCESS_BYTES

    source = prepare(folder, make_request("gptq-2")).source
    block = [name for name in source.entries if name.startswith("model.layers.0.")]
    weights = sum(source.entries[name].nbytes for name in block)
    widths = {source.entries[name].shape[-1] for name in block if "proj" in name}
    moments = sum(4 * width**2 for width in widths) + 8 * max(widths) ** 2
    assert len(widths) > 1
    least = weights + moments + source.conversion_bytes
    packed = weights // 4  # in a quarter of bfloat16's bits, at most
    working = 40 * max(math.prod(source.entries[name].shape) for name in block if "proj" in name)
    assert working > weights // 2  # of so small a block
    assert least <= predicted("gptq-2") <= max(weights, working) + moments + packed + source.conversion_bytes
    assert predicted("rtn-3") < predicted("gptq-2") < predicted("gptq-2:tuning=1")
    # a large embedding is in memory once, while it is written, and not on top of a block
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = torch.zeros(1 << 16, tensors[name].shape[1], dtype=torch.bfloat16)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 1 << 16}))
    large = tensors["lm_head.weight"].nbytes
    assert predicted("gptq-2") == predicted("rtn-3") == large + source.conversion_bytes


@pytest.mark.parametrize("kind", ["llava", "llava_siglip"])  # the second has embedding and head tied
def test_embeddings_are_counted(kind, tmp_path):
    source = tiny_checkpoint(kind, tmp_path / "source", torch.bfloat16)
    recipe = replace(RECIPE, embeddings=3)
    prepared = prepare(source, make_request(recipe))
    row = next(row for row in prepared.expected.rows if row.part == "embeddings")
    assert row.linears == (2 if kind == "llava" else 1) == len(prepared.plan.tables)
    out = quantize(source, tmp_path / "out", recipe=recipe)
    assert inspect(out).total.bits_per_weight <= prepared.expected.bits
    assert (
        sum(path.stat().st_size for path in out.glob("*.safetensors"))
        <= prepared.expected.bytes_after + 40_000
    )
    assert prepared.expected.bytes_after < prepare(source, make_request(RECIPE)).expected.bytes_after


def test_the_dearest_width_takes_the_most(prepared):
    by_width: dict[int, list[float]] = {}
    for linear in prepared.plan.weights:
        if linear.quantizer is not None:
            count = linear.shape[0] * linear.shape[1]
            bits, weights = by_width.setdefault(linear.shape[1], [0.0, 0.0])
            by_width[linear.shape[1]] = [
                bits + count * linear.quantizer.bits_bound(linear.shape),
                weights + count,
            ]
    means = {width: bits / weights for width, (bits, weights) in by_width.items()}
    assert len(means) > 1
    assert prepared.expected.dearest_bits == pytest.approx(max(means.values()))
    assert means[prepared.expected.dearest_columns] == pytest.approx(max(means.values()))


def test_the_job_stays_within_it(prepared, source, tmp_path):
    out = quantize(source, tmp_path / "out", recipe=RECIPE, parts=["language", "vision"])
    found = inspect(out)
    assert found.total.bits_per_weight <= prepared.expected.bits
    assert prepared.expected.bytes_before == found.folder_bytes_before
    tensors_after = sum(path.stat().st_size for path in out.glob("*.safetensors"))
    assert tensors_after <= prepared.expected.bytes_after + 40_000  # the headers of one shard per block


def test_a_preset_that_takes_more_than_it_is_meant_to_says_so(prepared):
    expected = prepared.expected
    assert expected.bits > BITS_TOLERANCE * 2.0, "rows this short must be dear, or this test shows nothing"
    warning = purpose_warning(expected, RECIPE)
    assert "two is meant for about 2 true bits" in warning
    assert f"up to {expected.bits:.2f}" in warning
    assert f"rows of {expected.dearest_columns} columns" in warning
    assert "\n" not in warning


def test_no_word_within_the_tolerance_and_without_a_promise(prepared):
    at_the_edge = replace(prepared.expected, bits=BITS_TOLERANCE * 2.0)
    assert purpose_warning(at_the_edge, RECIPE) == ""
    assert purpose_warning(replace(at_the_edge, bits=at_the_edge.bits * 1.001), RECIPE) != ""
    assert purpose_warning(prepared.expected, replace(RECIPE, true_bits=None)) == ""


def test_a_full_disk_is_told_before_the_work(prepared, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: usage(10, 10, 0))
    with pytest.raises(InputError, match="make room or choose another disk"):
        check_disk(tmp_path / "not" / "there" / "yet", prepared.expected)


def test_more_bands_take_more(source):
    one, five = (
        prepare(source, make_request("bivlm-paper", settings={"bands": bands})).expected for bands in (1, 5)
    )
    assert one.bits < five.bits
    assert one.bytes_after < five.bytes_after < one.bytes_before
