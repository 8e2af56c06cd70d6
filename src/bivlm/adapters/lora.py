"""A low-rank adapter next to a linear, packed or not: the linear stays as it is.

    y = x Wᵀ + bias + scale · (x Aᵀ) Bᵀ,    scale = alpha / r     (Hu et al., arXiv 2106.09685)

A (r, in) and B (out, r) are float32, and so is their product; the sum is rounded once to the dtype of x, as
peft does it. `attach` adds a `Lora` to a linear as its submodule `lora`, and a hook that adds its output. The
names of all modules stay, and the state dict of a model with adapters is that of its base: an adapter lives
in a folder of its own (store.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bivlm.errors import InputError
from bivlm.families.linears import is_linear
from bivlm.packed.linear import PackedLinear

SUBMODULE = "lora"


@dataclass(frozen=True, eq=False)
class Factors:
    """What an adapter adds to one linear, scale · B A: `a` (r, in), `b` (out, r), both float32."""

    a: Tensor
    b: Tensor
    scale: float

    @property
    def rank(self) -> int:
        return len(self.a)


class Lora(nn.Module):
    """The adapter of one linear. Its factors are buffers outside the state dict."""

    a: Tensor
    b: Tensor
    added: RemovableHandle  # the hook that adds its output

    def __init__(self, factors: Factors) -> None:
        super().__init__()
        self.scale = factors.scale
        self.register_buffer("a", factors.a.to(torch.float32, copy=True), persistent=False)
        self.register_buffer("b", factors.b.to(torch.float32, copy=True), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """scale · (x Aᵀ) Bᵀ in the factors' dtype: x (…, in), the result (…, out)."""
        inner = nn.functional.linear(x.to(self.a.dtype), self.a)
        return nn.functional.linear(inner, self.b) * self.scale

    @property
    def factors(self) -> Factors:
        """A copy of its factors."""
        return Factors(self.a.detach().clone(), self.b.detach().clone(), self.scale)

    def extra_repr(self) -> str:
        return f"rank={len(self.a)}, scale={self.scale:g}"


def _add(linear: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    """The forward hook of a linear with an adapter."""
    return (output + linear.get_submodule(SUBMODULE)(inputs[0])).to(output.dtype)


def linears_of(model: nn.Module) -> dict[str, nn.Linear | PackedLinear]:
    """Every linear of a model that can have an adapter, packed or not, by its name."""
    return {
        name: module
        for name, module in model.named_modules()
        if is_linear(module) or isinstance(module, PackedLinear)
    }


def attach(model: nn.Module, adapter: Mapping[str, Factors]) -> None:
    """Put the factors of an adapter next to the linears of `model`, by name; factors that are there already
    are replaced. InputError, before anything is changed, for a linear that is missing or of another shape.
    """
    linears = linears_of(model)
    for name, factors in adapter.items():
        if name not in linears:
            raise InputError(f"the adapter has factors for {name}, and the model has no such linear")
        shape = (linears[name].out_features, linears[name].in_features)
        if (len(factors.b), factors.a.shape[1]) != shape or factors.b.shape[1] != factors.rank:
            raise InputError(
                f"the adapter's factors for {name} are {tuple(factors.a.shape)} and"
                f" {tuple(factors.b.shape)}, and the linear is {shape}; it is an adapter of another model"
            )
    detach(model)
    for name, factors in adapter.items():
        linear, lora = linears[name], Lora(factors)
        linear.add_module(SUBMODULE, lora.to(_device(linear)))
        lora.added = linear.register_forward_hook(_add)


def detach(model: nn.Module) -> None:
    """Take every adapter away; the model is its base again."""
    for linear in linears_of(model).values():
        lora = linear._modules.pop(SUBMODULE, None)
        if isinstance(lora, Lora):
            lora.added.remove()


def loras(model: nn.Module) -> dict[str, Lora]:
    """The adapters of a model by the names of their linears."""
    found = {name: linear._modules.get(SUBMODULE) for name, linear in linears_of(model).items()}
    return {name: lora for name, lora in found.items() if isinstance(lora, Lora)}


def _device(linear: nn.Module) -> torch.device:
    return next(tensor.device for tensor in (*linear.parameters(False), *linear.buffers(False)))
