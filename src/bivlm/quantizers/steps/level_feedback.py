"""Free levels with error feedback: what GPTQ with `grid="lloyd"`, LeanQuant and SqueezeLLM have in common.

The levels of every group are decided first, in the precision of the file. Then the columns are rounded one
after the other, each weight to its group's nearest level, and each error is fed back into the later columns
(steps/compensation.py).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bivlm.formats.levels import LevelsWeight
from bivlm.quantizers.steps.compensation import column_by_column, even_blocks, feed_back
from bivlm.quantizers.steps.refit import better_rows, expand, refitted


def loss_importance(factor: Tensor, order: Tensor, exponent: float) -> Tensor:
    """How much the error of each column costs after feedback, (in,) float32 in 0…1: R_jj^exponent, relative
    to the costliest column.

    `factor` R (in, in) is that of `moment_factor` with its columns in the order `order` (in,); the result has
    the weight's own order. At exponent 2 it is the loss of GPTQ, (w - q)² / U_jj² with U = R⁻¹; LeanQuant
    (arXiv 2407.10032) raises 1 / U_jj to the power p.
    """
    diagonal = factor.diagonal()
    importance = torch.empty_like(diagonal)
    importance[order] = (diagonal / diagonal.max()) ** exponent
    return importance


def feedback_codes(
    w: Tensor,
    levels: Tensor,
    factor: Tensor,
    order: Tensor,
    group_size: int,
    block_size: int,
    kept: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The code of every weight of `w` (out, in) after feedback: (out, in) int64 into `levels` (out, G, L),
    ascending; and the quantized weight (out, in). `factor` (in, in) and `order` (in,) as for
    `loss_importance`.

    Weights in `kept` (out, in) bool are not quantized, but rounded to float16 after feedback; their code
    is 0.
    """
    codes = torch.zeros(w.shape[1], w.shape[0], dtype=torch.int64, device="cpu")
    table = levels.float().transpose(0, 1).contiguous()  # (G, out, L): a group's tables lie together
    edges = (table[..., 1:] + table[..., :-1]) / 2

    def quantize_column(column: Tensor, index: int) -> Tensor:
        j = int(order[index])
        group = j // group_size
        codes[j] = torch.searchsorted(edges[group], column[:, None].contiguous())[:, 0]
        level = table[group].gather(1, codes[j][:, None])[:, 0]
        if kept is None:
            return level
        codes[j].masked_fill_(kept[:, j], 0)
        return torch.where(kept[:, j], column.half().float(), level)

    quantized = torch.empty_like(w)
    blocks = even_blocks(w.shape[1], block_size)
    quantized[:, order] = feed_back(w[:, order], factor, column_by_column(quantize_column), blocks)
    return codes.T, quantized


def refit_levels(w: Tensor, levels: Tensor, codes: Tensor, hessian: Tensor, group_size: int) -> Tensor:
    """Levels (out, G, L) float16 by least squares under `hessian` (in, in), the codes (out, in) as they are,
    in the rows where it helps after rounding. A level that would pass its neighbour stays.
    """
    basis = torch.nn.functional.one_hot(codes, levels.shape[-1]).permute(2, 0, 1).float()
    trial = refitted(w, levels.float(), basis, hessian, group_size).clamp(-60000.0, 60000.0).half()
    trial = torch.where(
        (trial.diff(dim=-1) >= 0).all(-1, keepdim=True), trial, levels
    )  # a level that passes its neighbour would change codes
    helps = better_rows(
        w, expand(levels.float(), basis, group_size), expand(trial.float(), basis, group_size), hessian
    )
    return torch.where(helps[:, None, None], trial, levels)


def levels_weight(
    levels: Tensor,
    codes: Tensor,
    group_size: int,
    exponent: int,
    kept: Tensor | None = None,
    values: Tensor | None = None,
) -> LevelsWeight:
    """The weight of levels (out, G, L) float16 times 2^exponent and codes (out, in). Weights in `kept`
    (out, in) bool, whose code is 0, have their value in `values` (out, in), rounded to float16.
    """
    positions = torch.zeros(0, dtype=torch.int64, device="cpu")
    tail = torch.zeros(0, dtype=torch.float16, device="cpu")
    if kept is not None and values is not None:
        positions = kept.reshape(-1).nonzero()[:, 0]
        tail = values.reshape(-1)[positions].half()
    return LevelsWeight(
        codes=codes.to(torch.uint8).contiguous(),
        levels=levels,
        scale=torch.tensor(math.ldexp(1.0, exponent), dtype=torch.float32, device="cpu"),
        alphabet=levels.shape[-1],
        symmetric=False,
        group_size=group_size,
        tail_positions=positions,
        tail_codes=torch.zeros(0, dtype=torch.uint8, device="cpu"),
        tail_levels=torch.zeros(4, dtype=torch.float16, device="cpu"),
        tail_scale=torch.zeros(0, dtype=torch.float16, device="cpu"),
        tail_values=tail,
    )
