"""The search of column scales against MBQ's public code on one block (tests/golden/seeds)."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from bivlm.quantizers.rtn import rounded
from bivlm.quantizers.steps.grid import fit_grid
from bivlm.quantizers.steps.scale_search import scales_of, search_scales, token_weights

PUBLIC = load_file(Path(__file__).parents[2] / "golden" / "seeds" / "mbq.safetensors")
HIDDEN, VISUAL, ANSWER = PUBLIC["hidden"], PUBLIC["visual"].bool(), PUBLIC["answer"].bool()
# of each search: the linears that share an input, and the module that is judged
SEARCHES = {
    "attention": (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "self_attn"),
    "o": (("self_attn.o_proj",), "self_attn.o_proj"),
    "mlp": (("mlp.gate_proj", "mlp.up_proj"), "mlp"),
    "down": (("mlp.down_proj",), "mlp.down_proj"),
}
# of each case: bits, loss, ratio; and the exponents that the public code found, in the order of SEARCHES
CASES = {
    "mae_w3": (3, "mae", 0.1, (0.25, 0.4, 0.4, 0.1)),
    "mse_w3": (3, "mse", 0.1, (0.25, 0.4, 0.4, 0.1)),
    "mae_w2": (2, "mae", 0.1, (0.7, 0.1, 0.3, 0.35)),
    "mae_w3_r1": (3, "mae", 1.0, (0.3, 0.4, 0.4, 0.2)),
    "awq_mae_w3": (3, "mae", None, (0.35, 0.4, 0.4, 0.2)),
}


@pytest.fixture(scope="module")
def block():
    """The public run's block, the arguments of its attention, and the input of each module in full
    precision.
    """
    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_attention_heads=4, attn_implementation="eager"
    )
    layer = LlamaDecoderLayer(config, 0).requires_grad_(False)
    layer.load_state_dict(
        {name.removeprefix("weights."): w for name, w in PUBLIC.items() if name.startswith("weights.")}
    )
    later = torch.full((24, 24), torch.finfo(torch.float32).min).triu(1)
    arguments = {
        "position_embeddings": LlamaRotaryEmbedding(config)(HIDDEN, torch.arange(24)[None]),
        "attention_mask": later[None, None],
    }
    inputs = {}
    handles = [
        module.register_forward_pre_hook(
            lambda _module, args, given, name=name: inputs.__setitem__(
                name, args[0] if args else given["hidden_states"]
            ),
            with_kwargs=True,
        )
        for name, module in layer.named_modules()
        if name
    ]
    layer(HIDDEN, **arguments)
    for handle in handles:
        handle.remove()
    return layer, arguments, inputs


def as_the_public_code(bits):
    """Its rounding: groups of 64, ranges that contain 0, integer zero points, scales in float32."""

    def quantized(weight, scales):
        scaled = weight * scales
        ones = torch.ones(weight.shape[1])
        grid = fit_grid(scaled, ones, 64, 1 << bits, "code", clip=False, scale_bits=32)
        return rounded(scaled, grid, 64, 0, torch.zeros(0).half()).dequantize() / scales

    return quantized


def output_of(layer, linears, name, arguments, x):
    """A function from the weights of some linears to the output of the module that is judged."""
    module = layer.get_submodule(name)
    more = arguments if name == "self_attn" else {}

    def output(weights):
        own = [layer.get_submodule(linear).weight for linear in linears]
        before = [weight.clone() for weight in own]
        try:
            for weight, other in zip(own, weights, strict=True):
                weight.copy_(other)
            found = module(x, **more)
            return (found[0] if isinstance(found, tuple) else found).clone()
        finally:
            for weight, other in zip(own, before, strict=True):
                weight.copy_(other)

    return output


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("case", CASES)
def test_the_exponents_and_scales_are_those_of_the_public_code(block, case, search):
    (layer, arguments, inputs), (bits, loss, ratio, exponents) = block, CASES[case]
    linears, module = SEARCHES[search]
    x = inputs[linears[0]]
    alpha, scales = search_scales(
        [layer.get_submodule(linear).weight.clone() for linear in linears],
        x.abs().mean((0, 1)),
        as_the_public_code(bits),
        output_of(layer, linears, module, arguments, x),
        None if ratio is None else token_weights(VISUAL, ANSWER, ratio, loss),
        loss=loss,
    )
    assert alpha == pytest.approx(dict(zip(SEARCHES, exponents, strict=True))[search])
    torch.testing.assert_close(scales, PUBLIC[f"{case}.{search}"], rtol=1e-5, atol=1e-6)


def test_tokens_count_as_in_the_paper():
    visual, answer = torch.tensor([1, 1, 1, 0, 0, 0]).bool(), torch.tensor([0, 0, 0, 0, 1, 1]).bool()
    mae = token_weights(visual, answer, 0.2, "mae")
    torch.testing.assert_close(mae, torch.tensor([0.2, 0.2, 0.2, 0, 1, 1]) / 5)
    mse = token_weights(visual, answer, 0.3, "mse")
    torch.testing.assert_close(mse, torch.tensor([0.1, 0.1, 0.1, 0, 0.5, 0.5]))
    assert token_weights(~answer, torch.zeros_like(answer), 1.0, "mae").tolist() == [0.25] * 4 + [0.0] * 2


def test_scales_are_centred_and_never_vanish():
    scales = scales_of(torch.tensor([0.0, 1.0, 16.0]), 0.5)
    assert float(scales.min()) > 0
    assert float(scales.max() * scales.min()) == pytest.approx(1.0)
    assert float(scales[2] / scales[1]) == pytest.approx(4.0)
    assert scales_of(torch.tensor([0.0, 3.0]), 0.0).tolist() == [1.0, 1.0]


def test_the_least_exponent_wins_a_tie():
    w = torch.eye(4)
    alpha, scales = search_scales(
        [w], torch.arange(1.0, 5.0), lambda weight, _: weight, lambda weights: weights[0], None
    )
    assert alpha == 0.0
    assert scales.tolist() == [1.0] * 4
