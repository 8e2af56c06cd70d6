"""Block tuning on a toy block: disturbed scales are found again, nothing ever gets worse, and what comes back
is what will be stored.
"""

import copy

import pytest
import torch
from torch import nn

from bivlm.calibration.paused import BlockCall
from bivlm.calibration.scaled import scaled_rows
from bivlm.calibration.tuning import HELD_OUT, token_loss, tune_block
from bivlm.formats import FORMATS
from bivlm.quantizers import RTN, Trellis
from weights import factors

PATH = "model.layers.3"
WIDTHS = {"up": (48, 32), "down": (32, 48)}


def calls_of(inputs, kwargs=None):
    return [BlockCall(PATH, (states,), kwargs or {}) for states in inputs]


class Toy(nn.Module):
    """A norm and two linears, one with a bias, around a residual; `mask` (t,) float, where it is given, is
    added as an attention mask would be.
    """

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.up, self.down = nn.Linear(32, 48), nn.Linear(48, 32, bias=False)

    def forward(self, hidden_states, mask=None, places=None):
        x = self.norm(hidden_states)
        if mask is not None:
            assert mask.dtype == x.dtype
            assert places.dtype == torch.int64
            x = x + mask[:, None] * places[:, None]
        return (hidden_states + self.down(nn.functional.gelu(self.up(x))),)


def toy(dtype=torch.float32):
    torch.manual_seed(0)
    block = Toy()
    nn.init.normal_(block.norm.weight, 1.0, 0.1)
    return block.requires_grad_(False).to(dtype)


def hidden(count=8, dtype=torch.float32, seed=1):
    """As the walk has them: tensors of inference mode."""
    random = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        return [torch.randn(1, 12, 32, generator=random).to(dtype) for _ in range(count)]


def outputs(block, inputs, kwargs=None):
    with torch.inference_mode():
        return [call.try_run(block) for call in calls_of(inputs, kwargs)]


def pack(block, quantizer=None):
    quantizer = quantizer or Trellis(bits=3, feedback=False)
    return {
        f"{PATH}.{name}": quantizer.quantize(getattr(block, name).weight, None).encode() for name in WIDTHS
    }


def settled(dtype=torch.float32):
    """A block whose weights are just what its packed linears say, and those."""
    block = toy(dtype)
    packed = pack(block)
    with torch.no_grad():
        for name in WIDTHS:
            tensor = packed[f"{PATH}.{name}"]
            getattr(block, name).weight.copy_(FORMATS[tensor.format].decode(tensor).dequantize())
    return block, packed


def disturb(packed, strength=0.15):
    """Every row scale is off by up to `strength`."""
    random = torch.Generator().manual_seed(2)
    result = {}
    for name, tensor in packed.items():
        scale = tensor.tensors["row_scale"]
        off = 1 + strength * (2 * torch.rand(scale.shape, generator=random) - 1)
        result[name] = type(tensor)(
            tensor.format,
            tensor.shape,
            {**tensor.tensors, "row_scale": (scale.float() * off).half()},
            tensor.settings,
        )
    return result


def rebuilt(block, packed, vectors):
    """The block as it stands in the packed model, computed in float32."""
    block = copy.deepcopy(block)
    with torch.no_grad():
        for name, vector in vectors.items():
            parameter = block.get_parameter(name.removeprefix(f"{PATH}."))
            assert vector.dtype == parameter.dtype
            parameter.copy_(vector)
        block = block.float()
        for name, tensor in packed.items():
            linear = block if name == PATH else block.get_submodule(name.removeprefix(f"{PATH}."))
            linear.weight.copy_(FORMATS[tensor.format].decode(tensor).dequantize())
    return block


def held_out_loss(block, inputs, targets, kwargs=None):
    judges = range(0, len(inputs), HELD_OUT)
    found = outputs(block, [inputs[i].float() for i in judges], kwargs)
    return sum(
        float(token_loss(output, targets[i].float())) for output, i in zip(found, judges, strict=True)
    ) / len(judges)


def tuned_toy(dtype=torch.float32, epochs=15, count=8, packed=None):
    (block, right), inputs = settled(dtype), hidden(count, dtype)
    packed = disturb(right) if packed is None else packed
    targets = outputs(block, inputs)
    return (
        block,
        packed,
        inputs,
        targets,
        tune_block(block, PATH, packed, calls_of(inputs), targets, epochs),
    )


def test_disturbed_scales_are_found_again():
    _, packed, _, _, tuned = tuned_toy()
    assert tuned.after < 0.2 * tuned.before
    _, right = settled()
    for name, tensor in tuned.packed.items():
        wrong = (
            (packed[name].tensors["row_scale"] / right[name].tensors["row_scale"] - 1).float().square().mean()
        )
        left = (tensor.tensors["row_scale"] / right[name].tensors["row_scale"] - 1).float().square().mean()
        assert left < 0.3 * wrong


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_comes_back_is_what_is_stored(dtype):
    """The block that is rebuilt from it has the loss that it says, and had the loss before."""
    block, packed, inputs, targets, tuned = tuned_toy(dtype, epochs=4)
    assert tuned.after < tuned.before
    assert set(tuned.vectors) <= {f"{PATH}.norm.weight", f"{PATH}.norm.bias", f"{PATH}.up.bias"}
    assert f"{PATH}.norm.weight" in tuned.vectors
    for name, tensor in tuned.packed.items():
        assert tensor.tensors["row_scale"].dtype == torch.float16
        assert FORMATS[tensor.format].decode(tensor).encode().nbytes == packed[name].nbytes
    assert held_out_loss(rebuilt(block, packed, {}), inputs, targets) == pytest.approx(tuned.before, rel=1e-5)
    assert held_out_loss(rebuilt(block, tuned.packed, tuned.vectors), inputs, targets) == pytest.approx(
        tuned.after, rel=1e-5
    )


def test_only_scales_and_vectors_move():
    _, packed, _, _, tuned = tuned_toy(epochs=2)
    assert set(tuned.packed) == set(packed)
    for name, tensor in tuned.packed.items():
        assert tensor.settings == packed[name].settings
        same = {
            part for part in tensor.tensors if torch.equal(tensor.tensors[part], packed[name].tensors[part])
        }
        assert same == {"codes", "bits"}


def test_the_same_arguments_give_the_same_result():
    one, other = (tuned_toy(epochs=3)[-1] for _ in range(2))
    assert (one.before, one.after) == (other.before, other.after)
    assert one.vectors.keys() == other.vectors.keys()
    assert all(torch.equal(vector, other.vectors[name]) for name, vector in one.vectors.items())
    for name, tensor in one.packed.items():
        assert torch.equal(tensor.tensors["row_scale"], other.packed[name].tensors["row_scale"])


def test_arguments_are_left_alone():
    block, inputs = toy(), hidden()
    packed, targets = disturb(pack(block)), outputs(block, inputs)
    state = copy.deepcopy(block.state_dict())
    before = copy.deepcopy((packed, inputs, targets))
    tune_block(block, PATH, packed, calls_of(inputs), targets, 2)
    assert all(torch.equal(tensor, state[name]) for name, tensor in block.state_dict().items())
    assert not any(parameter.requires_grad for parameter in block.parameters())
    for name, tensor in packed.items():
        assert all(
            torch.equal(tensor.tensors[part], before[0][name].tensors[part]) for part in tensor.tensors
        )
    assert all(
        torch.equal(old, new) for old, new in zip([*before[1], *before[2]], [*inputs, *targets], strict=True)
    )


def test_what_is_worse_on_held_out_samples_is_not_kept():
    """The samples that train ask for something else than those that judge, which are served perfectly."""
    block, inputs = toy(), hidden()
    packed = pack(block)
    targets = outputs(rebuilt(block, packed, {}), inputs)
    misleading = [target if i % HELD_OUT == 0 else 1.5 * target for i, target in enumerate(targets)]
    tuned = tune_block(block, PATH, packed, calls_of(inputs), misleading, 3)
    assert tuned.packed is packed
    assert tuned.vectors == {}
    assert tuned.after == tuned.before < 1e-10


@pytest.mark.parametrize("seed", range(4))
def test_it_is_never_worse_on_held_out_samples(seed):
    """Whatever the targets are: here they have nothing to do with the block."""
    block, inputs, targets = toy(), hidden(), hidden(seed=10 + seed)
    packed = pack(block)
    tuned = tune_block(block, PATH, packed, calls_of(inputs), targets, 2)
    assert tuned.after <= tuned.before
    assert held_out_loss(rebuilt(block, tuned.packed, tuned.vectors), inputs, targets) <= tuned.before * (
        1 + 1e-5
    )


def test_targets_that_are_no_numbers_leave_everything():
    block, inputs = toy(), hidden()
    packed = pack(block)
    tuned = tune_block(
        block, PATH, packed, calls_of(inputs), [torch.full_like(states, torch.inf) for states in inputs], 1
    )
    assert tuned.packed is packed
    assert tuned.vectors == {}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_too_few_samples_leave_everything(count):
    _, packed, _, _, tuned = tuned_toy(count=count)
    assert tuned.packed is packed
    assert tuned.vectors == {}
    assert tuned.after == tuned.before > 0


def test_four_samples_are_enough():
    tuned = tuned_toy(count=HELD_OUT)[-1]
    assert tuned.after < 0.8 * tuned.before


def test_formats_without_row_scales_keep_their_tensors():
    """The vectors move all the same, and were fitted with the weights as they stay: the loss is the rebuilt
    block's.
    """
    packed = pack(settled()[0], RTN(bits=2, group_size=16))
    assert not any("row_scale" in tensor.tensors for tensor in packed.values())
    block, _, inputs, targets, tuned = tuned_toy(packed=packed)
    assert tuned.vectors
    assert tuned.after < 0.98 * tuned.before
    for name, tensor in tuned.packed.items():
        assert all(torch.equal(tensor.tensors[part], packed[name].tensors[part]) for part in tensor.tensors)
    assert held_out_loss(rebuilt(block, tuned.packed, tuned.vectors), inputs, targets) == pytest.approx(
        tuned.after, rel=1e-5
    )


def test_the_row_scales_of_factors_are_fitted_too():
    """Where they are negative as well."""
    block, drawn = toy(), {name: factors(*shape, 20) for name, shape in WIDTHS.items()}
    with torch.no_grad():
        for name, weight in drawn.items():
            getattr(block, name).weight.copy_(weight.dequantize() / 20)
    assert bool((drawn["up"].row_scale < 0).any())
    packed = {f"{PATH}.{name}": weight.encode() for name, weight in drawn.items()}
    for tensor in packed.values():
        tensor.tensors["row_scale"].div_(20)
    inputs = hidden()
    targets = outputs(block, inputs)
    disturbed = disturb(packed)
    tuned = tune_block(block, PATH, disturbed, calls_of(inputs), targets, 15)
    assert tuned.after < 0.2 * tuned.before
    assert held_out_loss(rebuilt(block, tuned.packed, tuned.vectors), inputs, targets) == pytest.approx(
        tuned.after, rel=1e-4
    )


def test_calls_in_half_precision_are_followed():
    """Masks and other arguments come as the model made them, in its dtype and in inference mode; integers
    stay integers.
    """
    block, inputs = toy(torch.bfloat16), hidden(dtype=torch.bfloat16)
    with torch.inference_mode():
        kwargs = {"mask": torch.linspace(-1, 1, 12).bfloat16(), "places": torch.arange(12)}
    targets, packed = outputs(block, inputs, kwargs), disturb(pack(block))
    tuned = tune_block(block, PATH, packed, calls_of(inputs, kwargs), targets, 4)
    assert tuned.after < tuned.before
    whole = {**kwargs, "mask": kwargs["mask"].float()}
    assert held_out_loss(
        rebuilt(block, tuned.packed, tuned.vectors), inputs, targets, whole
    ) == pytest.approx(tuned.after, rel=1e-4)


@pytest.mark.parametrize("bias", [True, False])
def test_a_block_may_be_a_lone_linear(bias):
    torch.manual_seed(0)
    block, inputs = nn.Linear(32, 48, bias=bias).requires_grad_(False), hidden()
    right = Trellis(bits=3, feedback=False).quantize(block.weight, None)
    block.weight.copy_(right.dequantize())
    targets = outputs(block, inputs)
    tuned = tune_block(block, PATH, disturb({PATH: right.encode()}), calls_of(inputs), targets, 15)
    assert tuned.after < 0.2 * tuned.before
    assert set(tuned.vectors) == ({f"{PATH}.bias"} if bias else set())
    assert held_out_loss(rebuilt(block, tuned.packed, tuned.vectors), inputs, targets) == pytest.approx(
        tuned.after, rel=1e-5
    )


def test_a_block_with_nothing_to_move_stays():
    torch.manual_seed(0)
    block, inputs = nn.Linear(32, 48, bias=False).requires_grad_(False), hidden()
    packed = {PATH: RTN(bits=2).quantize(block.weight, None).encode()}
    tuned = tune_block(block, PATH, packed, calls_of(inputs), outputs(block, inputs), 2)
    assert tuned.packed is packed
    assert tuned.after == tuned.before > 0


def test_the_loss_counts_every_token_the_same():
    random = torch.Generator().manual_seed(0)
    target = torch.randn(2, 5, 6, generator=random)
    target[0, 0] *= 1000  # a massive activation
    output = target * (1 + 0.1 * torch.randn(2, 5, 1, generator=random))
    rows = zip(output.reshape(-1, 6).tolist(), target.reshape(-1, 6).tolist(), strict=True)
    shares = [
        sum((a - b) ** 2 for a, b in zip(row, wanted, strict=True)) / sum(b * b for b in wanted)
        for row, wanted in rows
    ]
    target_of_zeros = torch.zeros(1, 3, 6)
    assert float(token_loss(output[1:], target[1:])) == pytest.approx(sum(shares[5:]) / 5, rel=1e-4)
    assert float(token_loss(target_of_zeros, target_of_zeros)) == 0.0
    assert bool(token_loss(target_of_zeros + 1, target_of_zeros).isfinite())


def test_scaled_rows_stay_finite_and_signed():
    scale = torch.tensor([1.0, -2.0, 0.0, 50000.0, 6e-8]).half()
    assert scaled_rows(scale, torch.tensor([0.5, 0.25, 3.0, 1.0, 0.0])).tolist() == [
        1.5,
        -2.5,
        0.0,
        60000.0,
        pytest.approx(6e-8, rel=0.01),
    ]
