"""Embedding and head behind the walk: what reaches the head, what is done with it, and a tied weight that a
checkpoint holds twice.
"""

from dataclasses import replace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import bivlm
from bivlm.calibration.head import head_stats
from bivlm.calibration.propagation import propagated
from bivlm.checkpoint.shards import read_entries
from bivlm.checkpoint.weight_files import weight_files
from bivlm.data.images import open_image
from bivlm.families import family_of, load_processor
from bivlm.job import walk
from bivlm.job.run import quantize
from bivlm.packed.embedding import TiedHead
from bivlm.packed.linear import packed_linears, replace_linear
from bivlm.packed.module import expand_weights
from bivlm.quantizers import Trellis
from bivlm.types import LinearStats
from tiny import tiny_checkpoint, tiny_samples

RECIPE = "trellis-2:modality_weight=tokens,embeddings=3"
SAMPLES = [replace(sample, answers=()) for sample in tiny_samples(4)]  # prompts alone


@pytest.fixture(params=["llava", "mllama", "smolvlm"])
def kind(request):
    return request.param


def received_by_head(model, processor):
    """The inputs of the head at the text tokens of every sample, with ordinary hooks on the whole model."""
    rows, family = [], family_of(model.config)
    handle = model.lm_head.register_forward_pre_hook(lambda module, args: rows.append(args[0][0]))
    for sample in SAMPLES:
        inputs = family.inputs(processor, [sample], [open_image(sample.image, sample.origin)], model.config)
        cast = {
            name: tensor.to(model.dtype) if tensor.is_floating_point() else tensor
            for name, tensor in inputs.items()
        }
        with torch.inference_mode():
            model(**cast)
        rows[-1] = rows[-1][~family.visual_mask(model.config, inputs["input_ids"])[0]]
    handle.remove()
    return torch.cat(rows).float()


def test_the_head_is_calibrated_on_the_text_tokens_behind_the_packed_blocks(kind, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(walk, "head_stats", lambda *args: seen.append(head_stats(*args)) or seen[-1])
    source = tiny_checkpoint(kind, tmp_path / "source", torch.bfloat16)
    out = quantize(source, tmp_path / "out", recipe=RECIPE, data=SAMPLES)
    model = transformers.AutoModelForImageTextToText.from_pretrained(source, dtype=torch.bfloat16).eval()
    loaded, processor = bivlm.load(out)
    for name, linear in packed_linears(loaded).items():
        if name != "lm_head":
            expand_weights(replace_linear(model, name, linear.packed))  # as the walk multiplies
    rows = received_by_head(model, processor)
    [stats] = seen
    assert stats.tokens == {"text": len(rows)}
    torch.testing.assert_close(stats.hessian, rows.T @ rows / len(rows), rtol=1e-4, atol=1e-4)

    weight = (
        model.get_input_embeddings().weight if isinstance(loaded.lm_head, TiedHead) else model.lm_head.weight
    )
    packed = (
        loaded.get_input_embeddings() if isinstance(loaded.lm_head, TiedHead) else loaded.lm_head
    ).packed
    assert packed.tensors.keys() == Trellis(bits=3).quantize(weight, stats).encode().tensors.keys()
    for name, tensor in Trellis(bits=3).quantize(weight, stats).encode().tensors.items():
        assert torch.equal(packed.tensors[name], tensor)


def test_errors_of_the_blocks_are_propagated_to_the_head(tmp_path, monkeypatch):
    """The residual is that between the head's inputs in the full-precision model and in the packed one."""
    seen = []
    monkeypatch.setattr(walk, "head_stats", lambda *args: seen.append(head_stats(*args)) or seen[-1])
    source = tiny_checkpoint("llava", tmp_path / "source", torch.bfloat16)
    out = quantize(source, tmp_path / "out", recipe=f"{RECIPE},propagation=0.5", data=SAMPLES)
    model = transformers.AutoModelForImageTextToText.from_pretrained(source, dtype=torch.bfloat16).eval()
    loaded, processor = bivlm.load(out)
    exact, weight = received_by_head(model, processor), model.lm_head.weight
    for name, linear in packed_linears(loaded).items():
        if name != "lm_head":
            expand_weights(replace_linear(model, name, linear.packed))  # as the walk multiplies
    rows = received_by_head(model, processor)
    [stats] = seen
    expected = (exact - rows).T @ rows / len(rows)
    torch.testing.assert_close(
        stats.residual("tokens"), expected, rtol=2e-2, atol=2e-2 * float(expected.abs().max())
    )
    corrected = Trellis(bits=3).quantize(propagated(weight, stats, 0.5), stats).encode()
    assert all(
        torch.equal(tensor, loaded.lm_head.packed.tensors[name]) for name, tensor in corrected.tensors.items()
    )


def test_the_head_loses_less_with_what_reaches_it():
    """Inputs with a few strong directions, as a head has them: the same bits, and a third of the error at
    most.
    """
    random = torch.Generator().manual_seed(0)
    x = torch.randn(400, 96, generator=random) * torch.logspace(1, -1.5, 96)
    weight, stats = (
        torch.randn(330, 96, generator=random),
        LinearStats({"text": x.T @ x / 400}, {"text": 400}),
    )
    errors = [
        float(((weight - method.quantize(weight, stats).dequantize()) @ x.T).square().sum())
        for method in (Trellis(), Trellis(feedback=False))
    ]
    assert errors[0] < errors[1] / 3


def test_a_recipe_without_data_packs_the_head_without(tmp_path, monkeypatch):
    monkeypatch.setattr(walk, "head_stats", lambda *args: pytest.fail("nothing is calibrated here"))
    out = quantize(
        tiny_checkpoint("llava", tmp_path / "source"), tmp_path / "out", recipe="bivlm-paper:embeddings=6"
    )
    loaded, _ = bivlm.load(out)
    assert loaded.lm_head.format == loaded.get_input_embeddings().format == "uniform"


def test_all_blocks_run_for_the_head_even_where_one_part_is_packed(tmp_path):
    source = tiny_checkpoint("llava", tmp_path / "source", torch.bfloat16)
    out = quantize(source, tmp_path / "out", recipe=RECIPE, parts=["vision"], data=SAMPLES)
    loaded, _ = bivlm.load(out)
    assert {name.split(".")[1] for name in packed_linears(loaded) if name != "lm_head"} == {"vision_tower"}
    assert loaded.lm_head.packed.bits_per_weight() < 3.5


def test_a_tied_weight_that_the_checkpoint_holds_twice_is_written_once(tmp_path):
    source = tiny_checkpoint("llava_siglip", tmp_path / "source")
    once = quantize(source, tmp_path / "once", recipe=RECIPE, data=SAMPLES)
    tensors = load_file(source / "model.safetensors")
    embedding = next(key for key in tensors if key.endswith("embed_tokens.weight"))
    save_file(
        {**tensors, "lm_head.weight": tensors[embedding].clone()},
        source / "model.safetensors",
        metadata={"format": "pt"},
    )
    twice = quantize(source, tmp_path / "twice", recipe=RECIPE, data=SAMPLES)
    stored = [read_entries(weight_files(folder)) for folder in (once, twice)]
    assert stored[0].keys() == stored[1].keys()
    assert not any(key.endswith("embed_tokens.weight") or key.startswith("lm_head") for key in stored[1])
    model, _ = bivlm.load(twice)
    assert isinstance(model.lm_head, TiedHead)
    assert load_processor(twice) is not None
