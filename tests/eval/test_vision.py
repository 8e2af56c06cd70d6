"""Vision-only models from full precision to packed, measured, and saved again."""

from dataclasses import replace

import pytest
import torch

import bivlm
from bivlm.errors import InputError
from bivlm.eval.vision import (
    Mean,
    Seen,
    compared,
    mask_iou,
    measure_vision,
    see_all,
    true_masks,
    vision_family,
)
from bivlm.families import family_of
from bivlm.packed.module import packed_modules
from tiny import tiny_checkpoint
from tiny.vision import ALL, MASKS, marked_samples, seeing_checkpoint

QUICK = ("sam", "siglip_vision_model")
EACH = [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in ALL]


def samples_for(kind, count=3):
    return [sample if kind in MASKS else replace(sample, marks=None) for sample in marked_samples(count)]


@pytest.mark.parametrize("kind", EACH)
def test_packed_loaded_measured_and_saved_again(kind, tmp_path):
    samples = samples_for(kind)
    source = seeing_checkpoint(kind, tmp_path / "source")
    out = bivlm.quantize(source, tmp_path / "out", recipe="gptq-3", data=samples)
    assert bivlm.inspect(out).total.bits_per_weight < 5
    result = measure_vision(out, samples, reference=source)
    same = measure_vision(source, samples, reference=source)
    told, exact = (one.iou if kind in MASKS else one.cosine for one in (result, same))
    assert exact.mean == pytest.approx(1, abs=1e-5)
    assert 0.2 < told.mean < 1 - 1e-6
    assert result.non_finite == 0
    model, processor = bivlm.load(out)
    model.save_pretrained(tmp_path / "again")
    processor.save_pretrained(tmp_path / "again")
    again = measure_vision(tmp_path / "again", samples, reference=out)
    assert (again.iou if kind in MASKS else again.cosine).mean == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kind", QUICK)
@pytest.mark.parametrize("preset", ["trellis-2", "leanquant-2", "mbq-2"])
def test_presets_that_weigh_answers_elsewhere_take_it(kind, preset, tmp_path):
    source = seeing_checkpoint(kind, tmp_path / "source")
    out = bivlm.quantize(source, tmp_path / "out", recipe=preset, data=samples_for(kind), parts=("vision",))
    assert bivlm.inspect(out).total.bits_per_weight < 5


@pytest.mark.parametrize("kind", EACH)
def test_plain_transformers_load_it_and_dequantize(kind, tmp_path):
    source = seeing_checkpoint(kind, tmp_path / "source", torch.bfloat16)
    out = bivlm.quantize(source, tmp_path / "out", recipe="rtn-3")
    loaded = family_of(kind).auto_model.from_pretrained(out, dtype=torch.float32).eval()
    assert packed_modules(loaded)
    processor = bivlm.load(source)[1]
    before = see_all(loaded, processor, samples_for(kind))
    loaded.dequantize()
    assert not packed_modules(loaded)
    after = see_all(loaded, processor, samples_for(kind))
    for one, other in zip(before, after, strict=True):
        left, right = (seen.scores if kind in MASKS else seen.features for seen in (one, other))
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("effort", ["normal", "high"])
def test_propagation_and_tuning(effort, tmp_path):
    source, samples = seeing_checkpoint("sam", tmp_path / "source"), samples_for("sam", 8)
    out = bivlm.quantize(source, tmp_path / "out", recipe="trellis-2", effort=effort, data=samples)
    assert measure_vision(out, samples, reference=source).iou.mean > 0.2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sam", "dinov2"])
def test_the_built_in_set_calibrates_it(kind, tmp_path):
    source = seeing_checkpoint(kind, tmp_path / "source")
    assert (
        bivlm.inspect(bivlm.quantize(source, tmp_path / "out", recipe="gptq-2", samples=4)).total.linears > 0
    )


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"recipe": "trellis-2", "bits": 2}, "a budget"),
        ({"recipe": "trellis-2", "effort": "max"}, "the whole model"),
        ({"recipe": "squeezellm-3"}, "Fisher information"),
        ({"recipe": "trellis-2", "embeddings": 2}, "embeddings"),
        ({"recipe": "trellis-2", "pruning": "attention:layer=1,keep=0.5"}, "visual tokens"),
        ({"recipe": "rtn-2", "max_pixels": 4096}, "leave the bounds of pixels out"),
        ({"recipe": "rtn-2", "parts": ["language"]}, "matches no linear"),
    ],
)
def test_what_only_answers_have_a_use_for(how, told, tmp_path):
    source = seeing_checkpoint("siglip_vision_model", tmp_path / "source")
    with pytest.raises(InputError, match=told):
        bivlm.quantize(source, tmp_path / "out", data="none", **how)
    assert not (tmp_path / "out").exists()


def test_a_pooling_head_that_is_not_there(tmp_path):
    """A ViT without its pooler, as classifiers are saved."""
    import transformers

    source = seeing_checkpoint("vit", tmp_path / "source")
    model = transformers.ViTModel.from_pretrained(source, add_pooling_layer=False)
    model.save_pretrained(source)
    with pytest.raises(InputError, match=r"lack pooler\.dense"):
        bivlm.quantize(source, tmp_path / "out", recipe="rtn-2")


def test_iou_of_masks():
    one, other = torch.zeros(3, 4, 4, dtype=torch.bool), torch.zeros(3, 4, 4, dtype=torch.bool)
    one[0, :2], other[0, 1:3] = True, True
    other[1] = True
    assert mask_iou(one, other).tolist() == pytest.approx([1 / 3, 0, 1])


def test_true_masks_and_scores_are_compared():
    samples = marked_samples(2)
    truths = [true_masks(sample) for sample in samples]
    half = truths[0].clone()
    half[:, :, : half.shape[2] // 2] = False
    seen = [Seen(masks=half, scores=torch.tensor([0.5])), Seen(masks=truths[1], scores=torch.tensor([0.9]))]
    others = [Seen(masks=truth, scores=torch.tensor([1.0])) for truth in truths]
    result = compared(family_of("sam"), samples, seen, others)
    wanted = float(half.sum() / truths[0].sum())
    assert result.iou.mean == pytest.approx((wanted + 1) / 2)
    assert result.true_iou == result.iou
    assert result.reference_true_iou.mean == 1
    assert result.score_drift == pytest.approx(0.3)
    assert (result.n, result.objects, result.kind, result.cosine) == (2, 2, "masks", None)


def test_a_true_mask_of_another_size_is_refused():
    sample = marked_samples(1)[0]
    small = replace(sample.marks, masks=(sample.marks.masks[0].resize((8, 8)),))
    with pytest.raises(InputError, match=r"picture 0: a mask has 8 x 8 pixels and the image 48 x 40"):
        true_masks(replace(sample, marks=small))


def test_a_broken_model_is_counted():
    seen = [Seen(features=torch.full((2, 3), torch.nan))]
    assert compared(family_of("vit"), marked_samples(1), seen, seen).non_finite == 2


def test_no_mean_of_nothing():
    assert Mean.of([]) is None


def test_nothing_to_measure_against():
    with pytest.raises(InputError, match="nothing to measure against"):
        measure_vision("nowhere", samples_for("dinov2", 1))
    with pytest.raises(InputError, match="no images"):
        measure_vision("nowhere", [])


def test_the_family_of_a_folder(tmp_path):
    source = seeing_checkpoint("siglip_vision_model", tmp_path / "source")
    assert vision_family(source) is family_of("siglip_vision_model")
    assert vision_family(tiny_checkpoint("llava", tmp_path / "llava")) is None


def test_questions_are_refused(tmp_path):
    model, processor = bivlm.load(seeing_checkpoint("siglip_vision_model", tmp_path / "source"))
    with pytest.raises(InputError, match="answers no questions"):
        bivlm.answer(model, processor, marked_samples(1)[0].image, "What is it?")
