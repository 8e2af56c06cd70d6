"""Steps of all methods that store sign planes: collecting the blocks of a weight into `planes`, and the
closed-form refit of its numbers.

With fixed signs, partition and column scales, a weight in `planes` is linear in its scales and means:
refit.py does the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bivlm.formats.encoding.numbers import NumberBits, Numbers, as_signs
from bivlm.formats.planes import PlanesWeight, planes_nbytes
from bivlm.quantizers.steps.partition import magnitude_threshold, salient_columns
from bivlm.quantizers.steps.refit import better_rows, refitted
from bivlm.quantizers.steps.residual import Binarized


@dataclass(frozen=True)
class BlockPlanes:
    """One quantized block of columns (out, b): the fields of `PlanesWeight` for it, with `scales` (out, S)
    and `means` (out, M) or None in float32.

    `column_scales` is (S, b), 0 where a column is of the other kind, or None.
    """

    signs: Tensor
    partition: Tensor
    salient: Tensor
    second_signs: Tensor
    scales: Tensor
    means: Tensor | None
    column_scales: Tensor | None


def plain_planes(
    signs: Tensor, scales: Numbers, means: Numbers | None, group_size: int, **structure: Any
) -> PlanesWeight:
    """One sign plane with a scale (and a mean) per group, exponent 0, no tail; `structure` has further fields
    of a weight with more than that.
    """
    plain = {
        "parts": 1,
        "salient_parts": 0,
        "partition": torch.zeros_like(signs),
        "salient": torch.zeros(signs.shape[1], dtype=torch.bool, device="cpu"),
        "second_signs": torch.zeros_like(signs),
        "column_scales": torch.zeros(0, 0, dtype=torch.float16, device="cpu"),
        "tail_positions": torch.zeros(0, dtype=torch.int64, device="cpu"),
        "tail_codes": torch.zeros(0, dtype=torch.uint8, device="cpu"),
        "tail_scale": torch.zeros(0, dtype=torch.float16, device="cpu"),
        "tail_zero": torch.zeros(0, dtype=torch.float16, device="cpu"),
    }
    return PlanesWeight(
        signs=signs, scales=scales, means=means, group_size=group_size, exponent=0, **(plain | structure)
    )


def planes_of(
    blocks: list[BlockPlanes], parts: int, salient_parts: int, block_size: int, scale_bits: NumberBits
) -> PlanesWeight:
    """The whole weight from its blocks, left to right; exponent 0."""
    salient = torch.cat([block.salient for block in blocks])
    means = (
        None
        if blocks[0].means is None
        else torch.stack([block.means for block in blocks if block.means is not None], 1)
    )
    scales = torch.stack([block.scales for block in blocks], 1)
    if not bool(salient.any()):  # a weight of one column has none
        scales, means, salient_parts = scales[..., :parts], None if means is None else means[..., :parts], 0
    structure = {
        "parts": parts,
        "salient_parts": salient_parts,
        "partition": torch.cat([block.partition for block in blocks], 1),
        "salient": salient,
        "second_signs": torch.cat([block.second_signs for block in blocks], 1),
    }
    columns = [block.column_scales for block in blocks if block.column_scales is not None]
    if columns:
        structure["column_scales"] = torch.cat(columns, 1)[: scales.shape[-1]].half()
    stored_means = None if means is None else _numbers(means, scale_bits)
    signs = torch.cat([block.signs for block in blocks], 1)
    return plain_planes(
        signs, _numbers(scales, scale_bits), stored_means, min(block_size, len(salient)), **structure
    )


def _numbers(values: Tensor, bits: NumberBits) -> Numbers:
    return Numbers.of(values, bits, signed=bool((values < 0).any()))


def refit_planes(w: Tensor, decided: PlanesWeight, hessian: Tensor, scale_bits: NumberBits) -> PlanesWeight:
    """Scales and means by least squares under `hessian`, in the rows where it helps after rounding; for
    exponent 0 and no tail.
    """
    scales = decided.scales.expand()
    theta = scales if decided.means is None else torch.cat([scales, decided.means.expand()], -1)
    better = refitted(w, theta, _basis(decided), hessian, decided.group_size)
    trial = _with_numbers(decided, better, scale_bits)
    helps = better_rows(w, decided.dequantize(), trial.dequantize(), hessian)
    if not bool(helps.any()):
        return decided
    return _with_numbers(decided, torch.where(helps[:, None, None], better, theta), scale_bits)


def _with_numbers(decided: PlanesWeight, theta: Tensor, scale_bits: NumberBits) -> PlanesWeight:
    count = decided.scales.stored.shape[-1]
    means = None if decided.means is None else _numbers(theta[..., count:], scale_bits)
    return replace(decided, scales=_numbers(theta[..., :count], scale_bits), means=means)


def _basis(decided: PlanesWeight) -> Tensor:
    """(S + M, out, in): the factor of each scale and each mean."""
    first = as_signs(decided.signs)
    second = as_signs(decided.second_signs)
    kinds = [(~decided.salient, part, decided.parts) for part in range(decided.parts)]
    kinds += [(decided.salient, part, decided.salient_parts) for part in range(decided.salient_parts)]
    inside = [
        columns & ((decided.partition == bool(part)) if count == 2 else torch.ones_like(decided.partition))
        for columns, part, count in kinds
    ]
    scales = [mask * first for mask in inside[: decided.parts]]
    for mask in inside[decided.parts :]:
        scales += [mask * first, mask * second]
    if decided.column_scales.numel():
        scales = [plane * column for plane, column in zip(scales, decided.column_scales.float(), strict=True)]
    means = [mask.float() for mask in inside] if decided.means is not None else []
    return torch.stack(scales + means)


def parted(target: Tensor, most_salient: int) -> tuple[Tensor, Tensor, Tensor]:
    """The parts of a block by its salience `target` (out, b): salient columns (b,), and the small and the
    large weights of the others (out, b).
    """
    salient = salient_columns(target, most_salient)
    large = (target.abs() >= magnitude_threshold(target, salient)) & ~salient
    return salient, ~large & ~salient, large


def block_planes(salient: Tensor, partition: Tensor, pieces: list[Binarized]) -> BlockPlanes:
    """A block from its binarized pieces: the two parts of the ordinary columns with one plane each, then the
    salient parts with two.

    With one salient part `partition` names the part of ordinary weights only; with two (column-group bitmap)
    also that of salient weights.
    """
    ordinary, special = pieces[:2], pieces[2:]
    first = torch.where(partition, ordinary[1].signs[0], ordinary[0].signs[0])
    second = special[0].signs
    if len(special) == 2:
        second = torch.where(partition, special[1].signs, second)
    return BlockPlanes(
        signs=torch.where(salient, second[0], first) > 0,
        partition=partition,
        salient=salient,
        second_signs=(second[1] > 0) & salient,
        scales=torch.cat([piece.scales for piece in pieces], 1),
        means=torch.stack([piece.mean for piece in pieces], 1),
        column_scales=None,
    )


def parted_nbytes(
    shape: tuple[int, int],
    block_size: int,
    most_salient: int,
    scale_bits: NumberBits,
    *,
    salient_parts: int,
    means: bool,
    column_scales: bool,
) -> int:
    """The most bytes that a weight of blocks with two parts and at most `most_salient` salient columns each
    can take.
    """
    rows, columns = shape
    blocks = -(-columns // block_size)
    stored = planes_nbytes(
        shape,
        group_size=min(block_size, columns),
        parts=2,
        salient_parts=salient_parts,
        salient_columns=min(most_salient * blocks, max(columns - blocks, 1)),
        means=means,
        column_scales=column_scales,
        scale_bits=scale_bits,
        tail=0,
    )
    return (
        stored + rows
        # a column is either in the partition or in the second plane: together they may need one more byte of
        # padding
    )
