"""Families through the whole path with embedding and head packed as well (the contract of families has the
blocks alone): the same logits as the packed tensors give in the model they came from; interrupted jobs;
dtypes.
"""

from __future__ import annotations

import pytest
import torch
import transformers

import bivlm
from bivlm.data.images import open_image
from bivlm.families import family_of
from bivlm.families.experts import split_experts
from bivlm.job.plan import TablePlan
from bivlm.job.request import make_request
from bivlm.job.run import prepare, quantize
from bivlm.packed.embedding import replace_embedding
from bivlm.packed.linear import packed_linears, replace_linear
from bivlm.packed.module import packed_modules
from folders import assert_same_files
from tiny import KINDS, SCALED_EMBEDDING, TIED, each, tiny_checkpoint, tiny_samples
from told import Told

PRESETS = ("bivlm-paper", "bivlm")
EMBEDDED = "trellis-2:embeddings=3"  # embedding and head packed as well


def logits(model, processor, samples):
    inputs = family_of(model.config).inputs(
        processor, samples, [open_image(sample.image, sample.origin) for sample in samples], model.config
    )
    cast = {
        name: tensor.to(model.dtype) if tensor.is_floating_point() else tensor
        for name, tensor in inputs.items()
    }
    with torch.inference_mode():
        return model(**cast).logits


@pytest.mark.parametrize("preset", [EMBEDDED])
@pytest.mark.parametrize("kind", each(kind for kind in KINDS if kind not in SCALED_EMBEDDING))
def test_the_loaded_model_computes_what_the_packed_tensors_say(kind, preset, tmp_path):
    source = tiny_checkpoint(kind, tmp_path / "source", torch.bfloat16)
    out = quantize(source, tmp_path / "out", recipe=preset, data=tiny_samples(3))
    loaded, processor = bivlm.load(out)
    packed = packed_modules(loaded)
    planned = {
        linear.name: linear
        for linear in prepare(source, make_request(preset)).plan.weights
        if linear.quantizer is not None
    }
    assert set(packed) == set(planned)
    assert [linear.kind for linear in planned.values() if isinstance(linear, TablePlan)] == [
        "embedding",
        *(["embedding"] if kind == "gemma4_e2b" else []),  # a row per token for all blocks
        *([] if kind in TIED else ["head"]),
    ]

    expected = transformers.AutoModelForImageTextToText.from_pretrained(source, dtype=torch.bfloat16).eval()
    full = logits(expected, processor, tiny_samples(2))
    split_experts(expected)
    for name, module in packed.items():
        table = planned[name]
        if isinstance(table, TablePlan) and table.kind == "embedding":
            replace_embedding(expected, name, module.packed, table.head)
        else:
            replace_linear(expected, name, module.packed)
    assert torch.equal(
        logits(loaded, processor, tiny_samples(2)), logits(expected, processor, tiny_samples(2))
    )
    assert not torch.equal(full, logits(loaded, processor, tiny_samples(2)))
    kept = {
        name: tensor
        for name, tensor in expected.state_dict().items()
        if name.rpartition(".")[0] not in packed
    }
    stored = loaded.state_dict()
    for name, tensor in kept.items():
        assert torch.equal(stored[name], tensor), name


class _Stop(Exception):
    pass


OFTEN = {"llava": ("bivlm", EMBEDDED), "mllama": PRESETS, "qwen2_5_vl": ("bivlm-paper", EMBEDDED)}


@pytest.mark.parametrize(
    ("kind", "preset"),
    [
        pytest.param(kind, preset, marks=() if preset in often else pytest.mark.slow)
        for kind, often in OFTEN.items()
        for preset in (*PRESETS, EMBEDDED)
    ],
)
def test_an_interrupted_job_ends_with_the_same_bytes(kind, preset, tmp_path):
    source = tiny_checkpoint(kind, tmp_path / "source", torch.bfloat16)
    whole = quantize(source, tmp_path / "whole", recipe=preset, data=tiny_samples(2))
    out, shards = tmp_path / "out", len(prepare(source, make_request(preset)).plan.units)
    for stop_after in range(1, shards, 2):
        seen = []

        def stop(report, seen=seen, stop_after=stop_after):
            seen.append(report)
            if len(seen) == stop_after:
                raise _Stop

        with pytest.raises(_Stop):
            quantize(source, out, recipe=preset, data=tiny_samples(2), events=Told(stop))
        assert not (out / "config.json").exists()
        assert [report.resumed for report in seen] == [True] * max(stop_after - 2, 0) + [False] * min(
            stop_after, 2
        )
    quantize(source, out, recipe=preset, data=tiny_samples(2))
    assert_same_files(whole, out)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_other_dtypes_and_parts(dtype, tmp_path):
    source = tiny_checkpoint("llava_siglip", tmp_path / "source", dtype)  # embedding and head are tied
    out = quantize(source, tmp_path / "out", recipe="bivlm-paper", parts=["language"], settings={"bands": 1})
    loaded, processor = bivlm.load(out)
    assert loaded.dtype == dtype
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    assert all(name.startswith("model.language_model") for name in packed_linears(loaded))
    expected = transformers.AutoModelForImageTextToText.from_pretrained(source, dtype=dtype).eval()
    for name, linear in packed_linears(loaded).items():
        replace_linear(expected, name, linear.packed)
    assert torch.equal(
        logits(loaded, processor, tiny_samples(1)), logits(expected, processor, tiny_samples(1))
    )


def test_expanded_weights_give_the_same_logits(tmp_path):
    source = tiny_checkpoint("llava", tmp_path / "source")
    out = quantize(source, tmp_path / "out", recipe="bivlm-paper")
    plain, processor = bivlm.load(out)
    expanded, _ = bivlm.load(out, expand=True)
    one, other = (logits(model, processor, tiny_samples(2)) for model in (plain, expanded))
    assert float((one - other).abs().max() / other.abs().max()) < max(1e-5, 4 * torch.finfo(other.dtype).eps)
