"""Bimodal integration (PTQ4SAM: Lv, Chen, Guo, Ding, Liu, arXiv 2405.03144) is an identity for weights.

The outputs of a key projection may have two peaks, and the paper joins them by the sign of each channel's
mean, multiplied into the rows of weight and bias of the key's projection and of the query's. No product of a
query and a key changes. Nor does a quantized weight but by that sign, if the grid of a row is symmetric, or
affine: the grid is turned with its row.
"""

import math

import pytest
import torch

import bivlm
from bivlm.checkpoint.shards import read_json
from bivlm.eval.vision import see_all
from bivlm.quantizers import QUANTIZERS
from bivlm.types import LinearStats
from tiny.vision import marked_samples, seeing_checkpoint, seeing_model

PEAK = 3.0


def channel_signs(keys):
    """The paper's sign of every channel of a key's outputs (t, d): of its mean; 1 where that is 0."""
    return torch.where(keys.mean(0) < 0, -1.0, 1.0)


def turned(weight, bias, signs):
    """Weight (out, in) and bias (out,) with the rows' signs."""
    return weight * signs[:, None], bias * signs


def made(seed=0):
    """Query and key projections whose keys have two peaks, and their inputs (t, in)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(256, 64, generator=generator)
    query, key = (torch.randn(32, 64, generator=generator) / 8 for _ in range(2))
    peaks = torch.where(torch.rand(32, generator=generator) < 0.5, -PEAK, PEAK)
    return x, (query, torch.randn(32, generator=generator)), (key, peaks)


def projected(x, pair):
    return x @ pair[0].T + pair[1]


def test_one_peak_is_left_and_no_score_changes():
    x, query, key = made()
    before = projected(x, key)
    signs = channel_signs(before)
    after = projected(x, turned(*key, signs))
    assert (before.mean(0) < -1).any()
    assert (before.mean(0) > 1).any()
    assert (after.mean(0) > 1).all()
    scores = projected(x, turned(*query, signs)) @ after.T
    torch.testing.assert_close(scores, projected(x, query) @ before.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("rtn", {"bits": 3}),
        ("rtn", {"bits": 2, "clip": False}),
        ("rtn", {"bits": 3, "zero_point": "middle"}),
        ("sign", {}),
        ("gptq", {"bits": 2}),
    ],
)
def test_a_quantized_row_turns_with_its_weights(method, settings):
    x, query, key = made()
    signs = channel_signs(projected(x, key))
    stats = LinearStats({"all": x.T @ x / len(x)}, {"all": len(x)})
    quantizer = QUANTIZERS[method](**settings)

    def scores(one, other):
        kept = [
            (quantizer.quantize(weight, stats).dequantize().float(), bias) for weight, bias in (one, other)
        ]
        return projected(x, kept[0]) @ projected(x, kept[1]).T

    plain, joined = scores(query, key), scores(turned(*query, signs), turned(*key, signs))
    assert (plain - projected(x, query) @ projected(x, key).T).abs().max() > 0.1, "it does quantize"
    torch.testing.assert_close(joined, plain, rtol=2e-3, atol=2e-3 * plain.abs().max().item())


@pytest.mark.slow
def test_in_a_whole_model_that_is_packed(tmp_path):
    """The attentions of SAM's mask decoder. (In its encoder queries also meet relative positions, which would
    have to turn with them.)
    """
    samples = marked_samples(3)
    seeing_checkpoint("sam", tmp_path / "plain")
    seeing_checkpoint("sam", tmp_path / "turned")
    model = seeing_model("sam")
    torch.manual_seed(1)
    for name, module in model.mask_decoder.transformer.layers.named_modules():
        if name.endswith(("attn", "token_to_image", "image_to_token")):
            signs = torch.where(torch.rand(module.q_proj.out_features) < 0.5, -1.0, 1.0)
            for projection in (module.q_proj, module.k_proj):
                pair = turned(projection.weight.data, projection.bias.data, signs)
                projection.weight.data, projection.bias.data = pair
    model.save_pretrained(tmp_path / "turned")
    seen = []
    for name in ("plain", "turned"):
        out = bivlm.quantize(
            tmp_path / name, tmp_path / f"{name}-packed", recipe="rtn-3", parts=["projector"]
        )
        assert read_json(out / "config.json")["quantization_config"]["modules"]
        seen.append(see_all(*bivlm.load(out), samples))
    for one, other in zip(*seen, strict=True):
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-3, atol=1e-3)
        assert (one.masks == other.masks).float().mean() > 0.99


def test_the_sign_of_a_channel_without_a_mean():
    assert channel_signs(torch.zeros(4, 2)).tolist() == [1.0, 1.0]
    assert math.isclose(channel_signs(torch.full((4, 1), -0.1)).item(), -1.0)
