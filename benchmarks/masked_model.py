"""Whether dropping tokens is exact: the tokens that stay have the logits of the whole model with the dropped
tokens masked, which is computed without the code that drops them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bivlm.contracts.hiding import hidden_tokens
from bivlm.pruning.apply import TokenPruning, active_pruning, prune

TOLERANCE, LARGEST_NOISE = 2e-4, 1e-2  # of logits: what rounding may change; what eager attention may


def pruning_differs(model: Any, inputs: Mapping[str, Any], pruning: str) -> str:
    """Why a pruned forward pass does not give the logits of the masked model; empty if it does. `model` has a
    family, and keeps all tokens afterwards. Raises InputError if it cannot be pruned in this way.
    """
    plain = _logits(model, inputs)
    prune(model, pruning)
    active = active_pruning(model)
    assert active is not None
    try:
        found = _logits(model, inputs)
    finally:
        prune(model, None)
    if active.last is None:
        return "no visual token is dropped"
    kept = active.last.kept
    places = slice(None) if _crosses(active) else kept.index[0]
    with hidden_tokens(model, {}):
        noise = float((_logits(model, inputs) - plain).abs().max())
    with hidden_tokens(model, _hidden(active, inputs)):
        expected = _logits(model, inputs)[:, places]
    if noise > LARGEST_NOISE:
        return f"nothing to compare with: eager attention alone changes the logits by {noise:.0e}"
    off = float((found - expected).abs().max())
    exact = off <= max(TOLERANCE, 8 * noise)
    return "" if exact else f"the logits differ by {off:.0e} from those of the masked model"


def _hidden(active: TokenPruning, inputs: Mapping[str, Any]) -> dict[nn.Module, Tensor]:
    """What is hidden in each block (rows, n), as the latest decision of a pruning says."""
    assert active.last is not None
    hidden, family, model = _all_but(active.last.kept), active.family, active.model
    blocks = _blocks(active, "language", 0)
    if _crosses(active):
        return dict.fromkeys([block for block in blocks if hasattr(block, "cross_attn")], hidden)
    hidden = hidden & family.visual_mask(model.config, inputs["input_ids"])
    if active.pruning.site == "language":
        return dict.fromkeys(blocks[active.pruning.layer :], hidden)
    assert active.encoding is not None
    gone = _all_but(active.encoding.patches.kept)
    tower = _blocks(active, "vision", -1)[active.pruning.layer :]
    return dict.fromkeys(blocks, hidden) | dict.fromkeys(tower, gone)


def _crosses(active: TokenPruning) -> bool:
    return any(stack.visual_linears for stack in active.family.stacks)


def _blocks(active: TokenPruning, part: str, number: int) -> list[nn.Module]:
    stack = [stack for stack in active.family.stacks if stack.part == part][number]
    return [active.model.get_submodule(path) for path in stack.block_paths(active.model)]


def _all_but(kept: Any) -> Tensor:
    """(rows, length) bool: True where a sequence was cut."""
    return torch.ones(len(kept.index), kept.length, dtype=torch.bool).scatter(1, kept.index, False)


def _logits(model: Any, inputs: Mapping[str, Any]) -> Tensor:
    with torch.inference_mode():
        return model(**inputs, use_cache=False).logits
