"""The chosen experts of a layer together: two products for all of them in place of two for each.

`mix_together` takes the place of the loop in `SplitExperts.mix` and gives the same numbers. It leaves to the
loop whatever is more than products of packed weights on a CPU or a card: experts that are not all packed,
hooks (adapters, observers), decoded weights, gradients, compiled graphs, and so many tokens that the experts'
outputs would fill the memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bivlm.families.experts import DOWN, NORM, SplitExperts, sorted_choices
from bivlm.kernels.together import Part, multiply
from bivlm.packed.linear import PackedLinear

DEVICES = ("cpu", "cuda")
MOST_ROWS = 4096  # chosen experts of all tokens together


def compute_together(model: nn.Module) -> None:
    """Let every layer of experts in `model` compute the chosen ones together where it can."""
    for module in model.modules():
        if isinstance(module, SplitExperts):
            module.together = mix_together


def mix_together(experts: SplitExperts, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor | None:
    """What `SplitExperts.mix` returns, or None where the loop has to compute it."""
    if (
        torch.compiler.is_compiling()
        or hidden.device.type not in DEVICES
        or not 0 < index.numel() <= MOST_ROWS
        or (hidden.requires_grad and torch.is_grad_enabled())
    ):
        return None
    order, counts = sorted_choices(index, experts.num_experts)
    chosen = [(expert, count) for expert, count in enumerate(counts[:-1]) if count]
    first, second = (
        _parts(experts, name, chosen, hidden.device.type) for name in (experts.layout.first, DOWN)
    )
    if not chosen or first is None or second is None:
        return None
    order = order[: len(order) - counts[-1]]
    tokens, places = order % len(index), order // len(index)
    rows = hidden.expand(len(order), -1) if len(hidden) == 1 else hidden[tokens]
    inner = experts.gated(
        multiply(first, rows, experts.linear(chosen[0][0], experts.layout.first).out_features)
    )
    outputs = multiply(second, inner, hidden.shape[-1])
    if experts.layout.norm:
        outputs = experts.get_submodule(NORM)(outputs)
    found = outputs * weights[tokens, places, None]
    exact = torch.promote_types(hidden.dtype, torch.float32)
    total = torch.zeros_like(hidden, dtype=exact)
    return total.index_add_(0, tokens, found.to(exact)).to(hidden.dtype)


def _parts(
    experts: SplitExperts, projection: str, chosen: list[tuple[int, int]], device: str
) -> list[Part] | None:
    """A projection of the chosen experts with the numbers of their tokens; None unless all are packed and do
    nothing but multiply.
    """
    parts = []
    for number, count in chosen:
        expert: Any = experts._modules[str(number)]
        linear = expert._modules[projection]
        if type(linear) is not PackedLinear or linear.is_decoded or _watched(expert) or _watched(linear):
            return None
        parts.append(Part(linear.product(device), linear.bias, count, linear.activations == "int8"))
    return parts


def _watched(module: nn.Module) -> bool:
    """Whether a call of a module does more than its class says."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)
