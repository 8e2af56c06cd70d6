"""What watches a block while it runs and is differentiated: hooks on its linears.

forward     the inputs of a linear, and zeros for what is to come
backward    the gradient of its outputs comes ─► squares by token, coherence, the gradient of its weight
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bivlm.calibration.paused import hidden_of

COHERENCE = "coherence:"  # before the name of a linear whose numbers are of this kind


@contextmanager
def passing_on(linears: Iterable[nn.Module]) -> Iterator[None]:
    """Within this context linears pass gradients on, and their parameters get none. Where an input has no
    gradient, the parameters have one, so that the output has.
    """

    def before(linear: nn.Module, args: tuple[Any, ...]) -> None:
        for parameter in linear.parameters(recurse=False):
            parameter.requires_grad_(not args[0].requires_grad)

    linears = list(linears)
    own = [(one, one.requires_grad) for linear in linears for one in linear.parameters(recurse=False)]
    handles = [linear.register_forward_pre_hook(before) for linear in linears]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter, wanted in own:
            parameter.requires_grad_(wanted)


def squares_hook(
    name: str, seen: dict[str, list[Tensor]], weights: dict[str, Tensor] | None, scale: float
) -> Callable[..., None]:
    """A forward hook that notes the tokens of an output, zeros, until its gradient comes; and, in `weights`,
    the gradient of the weight over all calls of one sample.
    """

    def forward(_module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        states = hidden_of(output)
        rows = states.shape[:-1].numel()
        calls = seen.setdefault(name, [])
        calls.append(torch.zeros(rows, dtype=torch.float32, device="cpu"))
        place = len(calls) - 1

        def backward(gradient: Tensor) -> None:
            grown = gradient.detach().reshape(rows, -1).float() / scale
            calls[place] += grown.square().mean(1)
            if weights is not None:
                weight = grown.T @ args[0].detach().reshape(rows, -1).float()
                weights[name] = weights[name] + weight if name in weights else weight

        if states.requires_grad:
            states.register_hook(backward)

    return forward


def coherence_hook(name: str, seen: dict[str, list[Tensor]], scale: float) -> Callable[..., None]:
    """A forward hook that notes two zeros for a linear, until the gradient of its output comes."""

    def forward(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        calls = seen.setdefault(COHERENCE + name, [])
        calls.append(torch.zeros(2, dtype=torch.float64, device="cpu"))
        place, inputs = len(calls) - 1, args[0].detach()

        def backward(gradient: Tensor) -> None:
            rows = gradient.shape[:-1].numel()
            calls[place] += together_and_alone(
                gradient.detach().reshape(rows, -1).float() / scale, inputs.reshape(rows, -1).float()
            )

        if output.requires_grad:
            output.register_hook(backward)

    return forward


def together_and_alone(gradients: Tensor, inputs: Tensor) -> Tensor:
    """‖Σ_t g_t x_tᵀ‖² and Σ_t ‖g_t x_tᵀ‖², (2,) float64, of gradients (t, out) and inputs (t, in): by the
    products of all pairs of tokens where these are fewer than the weights.
    """
    (rows, out), columns = gradients.shape, inputs.shape[1]
    if rows * (out + columns) < out * columns:
        together = ((gradients @ gradients.T) * (inputs @ inputs.T)).sum(dtype=torch.float64)
    else:
        together = (gradients.T @ inputs).square().sum(dtype=torch.float64)
    alone = (gradients.square().sum(1) * inputs.square().sum(1)).sum(dtype=torch.float64)
    return torch.stack([together, alone]).cpu()


def places_hook(name: str, seen: dict[str, list[Tensor]]) -> Callable[..., None]:
    """A hook that notes which tokens reach an expert."""

    def before(_module: nn.Module, args: tuple[Any, ...]) -> None:
        seen.setdefault(name, []).append(args[1].detach().to(torch.int32))

    return before
