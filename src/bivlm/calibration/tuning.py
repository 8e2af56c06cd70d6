"""Block tuning: the continuous numbers of a packed block, fitted to the output of the full-precision block.

The codes do not change. Adam moves the row scales of the packed linears and the block's vectors (norms,
biases). The loss is the difference between two outputs: that of the packed block on the inputs of the packed
model, and that of the full-precision block on the inputs of the full-precision model. A part of the samples
is held out; the tuned numbers, rounded to their stored precision, are kept only if they are better there. No
bit is added.

(Block-wise tuning after each block: QuIP#, arXiv 2402.04396, and OmniQuant, arXiv 2308.13137, which fit more
than this.)
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bivlm.calibration.paused import BlockCall, hidden_of
from bivlm.calibration.scaled import SHIFT, ScaledLinear, rescaled, rounded_shift
from bivlm.families.linears import is_linear
from bivlm.formats import PackedTensor

logger = logging.getLogger("bivlm.calibration")

RATE = 2e-3  # of Adam, relative to the size of the parameter
HELD_OUT = 4  # every fourth sample judges


@dataclass(frozen=True)
class Tuned:
    """The packed linears with their new row scales, the block's vectors that changed (by parameter name), and
    the held-out loss before and after.
    """

    packed: Mapping[str, PackedTensor]
    vectors: Mapping[str, Tensor]
    before: float
    after: float


def tune_block(
    block: nn.Module,
    path: str,
    packed: Mapping[str, PackedTensor],
    calls: Sequence[BlockCall],
    targets: Sequence[Tensor],
    epochs: int,
    weights: Sequence[Tensor] | None = None,
) -> Tuned:
    """Fit the block at `path`, here with its full-precision weights, whose linears are to be `packed`.

    `calls` are the samples' calls of the block in the packed model; `targets` its outputs (…, t, d) in the
    full-precision model. `weights` (t,) say how much the error of each of a sample's tokens
    counts; without them all count alike. The same arguments give the same result. With fewer than HELD_OUT
    samples, or a block without tunable numbers, nothing is tuned.
    """
    work = _working_copy(block, path, packed)
    train, judge = (
        [i for i in range(len(calls)) if i % HELD_OUT],
        [i for i in range(len(calls)) if not i % HELD_OUT],
    )
    movable = {name: parameter for name, parameter in work.named_parameters() if parameter.requires_grad}
    stored = {name: parameter.dtype for name, parameter in block.named_parameters()}

    def loss(i: int) -> Tensor:
        output = hidden_of(calls[i].mapped(_as_float).run(work))
        return token_loss(output, targets[i].clone().float(), None if weights is None else weights[i])

    def judged() -> float:
        with torch.no_grad():
            return sum(float(loss(i)) for i in judge) / len(judge)

    before = judged()
    if len(calls) < HELD_OUT or not movable:
        return Tuned(packed, {}, before, before)
    rates = [
        {"params": [parameter], "lr": RATE * _size(parameter, name)} for name, parameter in movable.items()
    ]
    optimizer = torch.optim.Adam(rates)
    random = torch.Generator().manual_seed(0)
    originals, best, found = _values(movable), before, None
    for _ in range(epochs):
        for place in torch.randperm(len(train), generator=random, dtype=torch.int64, device="cpu").tolist():
            optimizer.zero_grad()
            loss(train[place]).backward()
            optimizer.step()
        moved = _values(movable)
        _load(movable, {name: _rounded(name, value, packed, path, stored) for name, value in moved.items()})
        after = judged()
        if after < best:
            best, found = after, _values(movable)
        _load(movable, moved)
    logger.info("%s: held-out loss %.4g before tuning, %.4g after", path, before, best)
    if found is None:
        return Tuned(packed, {}, before, before)
    return Tuned(_rescaled(packed, path, found), _vectors(found, originals, path, stored), before, best)


def token_loss(output: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over the tokens of ‖output - target‖² / ‖target‖², each times its weight (t,): a token with
    massive activations counts as much as any other.
    """
    lost, whole = (output - target).square().sum(-1), target.square().sum(-1)
    relative = lost / (whole + 1e-6 * whole.mean() + 1e-30)
    return relative.mean() if weights is None else (relative.reshape(-1) * weights).mean()


def _working_copy(block: nn.Module, path: str, packed: Mapping[str, PackedTensor]) -> nn.Module:
    """The block in float32 with its packed linears decoded; only its vectors require gradients."""
    work = copy.deepcopy(block).float()
    for parameter in work.parameters():
        parameter.requires_grad_(parameter.dim() == 1)
    for name, tensor in packed.items():
        linear = block.get_submodule(_below(name, path))
        assert is_linear(linear), name
        scaled = ScaledLinear(tensor, linear.bias, torch.float32)
        if name == path:
            return scaled
        work.set_submodule(_below(name, path), scaled)
    return work


def _below(name: str, path: str) -> str:
    """A name in the model as a name in the block; "" if the block is that linear alone."""
    return "" if name == path else name.removeprefix(f"{path}.")


def _joined(*names: str) -> str:
    return ".".join(filter(None, names))


def _as_float(value: Tensor) -> Tensor:
    """An argument of a block free of inference mode, floating-point numbers in float32."""
    return value.clone().float() if value.is_floating_point() else value.clone()


def _size(parameter: Tensor, name: str) -> float:
    """The unit of a step: 1 for shifts, else the vector's root mean square (a hundredth for a vector of
    zeros).
    """
    return 1.0 if _is_shift(name) else max(float(parameter.detach().square().mean().sqrt()), 1e-2)


def _is_shift(name: str) -> bool:
    return name.rpartition(".")[2] == SHIFT


def _values(movable: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in movable.items()}


def _load(movable: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in movable.items():
            parameter.copy_(values[name])


def _rounded(
    name: str, value: Tensor, packed: Mapping[str, PackedTensor], path: str, stored: Mapping[str, torch.dtype]
) -> Tensor:
    """A vector, or the shift of a row scale, rounded to its stored precision."""
    if not _is_shift(name):
        return value.to(stored[name]).float()
    return rounded_shift(packed[_joined(path, name.rpartition(".")[0])], value)


def _rescaled(
    packed: Mapping[str, PackedTensor], path: str, found: Mapping[str, Tensor]
) -> dict[str, PackedTensor]:
    def own(name: str, tensor: PackedTensor) -> PackedTensor:
        shift = found.get(_joined(_below(name, path), SHIFT))
        return tensor if shift is None else rescaled(tensor, shift)

    return {name: own(name, tensor) for name, tensor in packed.items()}


def _vectors(
    found: Mapping[str, Tensor], originals: Mapping[str, Tensor], path: str, stored: Mapping[str, torch.dtype]
) -> dict[str, Tensor]:
    """The parameters of the block that changed, in their stored dtype, by their names in the model."""
    return {
        f"{path}.{name}": value.to(stored[name])
        for name, value in found.items()
        if not _is_shift(name) and not torch.equal(value, originals[name])
    }
