"""What BiLLM and ARB-LLM share: blocks of columns become sign planes with parts, one after the other, the
error of each fed on; scales and means are refitted at the end. What differs is how one block is decided.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from bivlm.formats.encoding.numbers import NumberBits
from bivlm.formats.planes import PlanesWeight
from bivlm.quantizers.base import in_range, moment_of
from bivlm.quantizers.steps.compensation import (
    ErrorRule,
    QuantizeColumns,
    compensate,
    inverse_corner,
    moment_factor,
)
from bivlm.quantizers.steps.sign_planes import BlockPlanes, planes_of, refit_planes
from bivlm.types import LinearStats, ModalityWeight

Salience = Literal["magnitude", "hessian"]
PARTS = 2  # magnitude parts of the weights that are not salient

DecideBlock = Callable[[Tensor, Tensor], BlockPlanes]
"""The planes of a block (out, b), given what its salient columns and parts are searched on (out, b)."""

RefineBlock = Callable[[Tensor, PlanesWeight, Tensor, NumberBits], PlanesWeight]
"""The planes of a block, decided, with better numbers under the second moment (b, b) of its inputs."""


class PartedMethod(Protocol):
    """The settings that such a method has."""

    @property
    def needs_data(self) -> bool: ...

    @property
    def modality_weight(self) -> ModalityWeight: ...

    @property
    def salience(self) -> Salience: ...

    @property
    def compensate(self) -> bool: ...

    @property
    def error_rule(self) -> ErrorRule: ...

    @property
    def refit(self) -> bool: ...

    @property
    def scale_bits(self) -> NumberBits: ...

    @property
    def damping(self) -> float: ...

    @property
    def block_size(self) -> int: ...


def quantize_blocks(
    method: PartedMethod,
    weight: Tensor,
    stats: LinearStats | None,
    decide: DecideBlock,
    *,
    salient_parts: int = 1,
    refine: RefineBlock | None = None,
) -> PlanesWeight:
    """The planes of a weight (out, in) by `method`. `refine` gives a block better numbers before its error is
    fed on. Raises ValueError as `in_range` and `moment_of` do.
    """
    w, exponent = in_range(weight)
    hessian = moment_of(stats, method.modality_weight) if method.needs_data else None
    # eight-bit numbers are rounded when the whole row is known
    kept: NumberBits = 32 if method.scale_bits == 32 else 16
    blocks: list[BlockPlanes] = []

    def quantize_columns(block: Tensor, u: Tensor, start: int) -> Tensor:
        target = block.square() / u.diagonal().square() if method.salience == "hessian" else block
        blocks.append(decide(block, target))
        decided = planes_of(blocks[-1:], PARTS, salient_parts, method.block_size, kept)
        if refine is not None and hessian is not None:
            inside = slice(start, start + block.shape[1])
            decided = refine(block, decided, hessian[inside, inside], kept)
            means = None if decided.means is None else decided.means.expand()[:, 0]
            blocks[-1] = replace(blocks[-1], scales=decided.scales.expand()[:, 0], means=means)
        return decided.dequantize()

    _visit_blocks(method, w, hessian, quantize_columns)
    decided = planes_of(blocks, PARTS, salient_parts, method.block_size, method.scale_bits)
    if hessian is not None and method.refit:
        decided = refit_planes(w, decided, hessian, method.scale_bits)
    return replace(decided, exponent=exponent)


def _visit_blocks(
    method: PartedMethod, w: Tensor, hessian: Tensor | None, quantize_columns: QuantizeColumns
) -> None:
    """Call `quantize_columns` on every block of `w`, left to right: with error feedback, or on the weights as
    they are.
    """
    if hessian is not None and method.compensate:
        compensate(
            w,
            hessian,
            quantize_columns,
            block_size=method.block_size,
            damping=method.damping,
            error_rule=method.error_rule,
        )
        return
    factor = (
        torch.eye(w.shape[1], dtype=torch.float32, device="cpu")
        if hessian is None
        else moment_factor(hessian, method.damping)
    )
    for start in range(0, w.shape[1], method.block_size):
        block = slice(start, start + method.block_size)
        quantize_columns(w[:, block], inverse_corner(factor, block), start)
