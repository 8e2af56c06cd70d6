"""What one rank of a tensor-parallel group holds of a packed weight, and its product.

Rows are divided in whole strips where the format has them: a rank whose rows begin or end inside a strip
holds that strip whole and leaves the other rows out of its result. Columns are divided where the format can
be cut (the trellis: between the blocks of its rotation). Where it cannot, a rank gathers the whole input and
multiplies with its own share of the rows; the other rows of its result are zeros. Either way the sum over all
ranks, which vLLM takes, is the product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bivlm.errors import InputError
from bivlm.formats import format_named, slice_columns, slice_rows
from bivlm.formats.base import PackedTensor
from bivlm.packed.module import PackedModule


@dataclass(frozen=True)
class Rows:
    """The rows start … stop - 1 of one of the stored weights of a layer, `weight` its number."""

    weight: int
    start: int
    stop: int


@dataclass(frozen=True)
class Outputs:
    """The outputs of a layer, in their order: qkv_proj has three.

    held   rows of every output on one rank
    whole  rows of every output
    owner  the number of the stored weight that has them
    """

    held: tuple[int, ...]
    whole: tuple[int, ...]
    owner: tuple[int, ...]

    @classmethod
    def of(cls, stored: Sequence[int | None], held: Sequence[int], size: int, replicas: int = 1) -> Outputs:
        """The outputs of a layer whose rows are divided among `size` ranks.

        stored    rows of every stored weight, which is one output or several in a row; None for one that is
                  exactly one output
        replicas  ranks that hold the same rows of all outputs but the first (keys and values)

        InputError where stored weights and outputs do not match.
        """
        whole = [rows * size for rows in held]
        if None not in stored and sum(whole) != sum(rows for rows in stored if rows is not None):
            whole = [whole[0], *(rows // replicas for rows in whole[1:])]
        owner: list[int] = []
        for number, rows in enumerate(stored):
            begin = sum(whole[: len(owner)])
            owner += [number] * (1 if rows is None else 0)
            while rows is not None and len(owner) < len(whole) and sum(whole[: len(owner)]) < begin + rows:
                owner.append(number)
            if rows is not None and sum(whole[: len(owner)]) != begin + rows:
                owner = []
                break
        if len(owner) != len(whole):
            raise InputError(
                f"the packed weights of this layer have {list(stored)} rows, and vLLM's layer has the outputs"
                f" {list(held)} on each of {size} ranks; give the folder that was packed from this model"
            )
        return cls(tuple(held), tuple(whole), tuple(owner))

    def rows(self, rank: int, size: int) -> list[Rows]:
        """The rows that rank `rank` of `size` puts out, in their order."""
        found: list[Rows] = []
        begin = 0
        for i, (held, whole, owner) in enumerate(zip(self.held, self.whole, self.owner, strict=True)):
            begin = begin if i and self.owner[i - 1] == owner else 0
            first = begin + rank * (whole // held) // size * held
            if found and (found[-1].weight, found[-1].stop) == (owner, first):
                found[-1] = Rows(owner, found[-1].start, first + held)
            else:
                found.append(Rows(owner, first, first + held))
            begin += whole
        return found


class HeldRows(nn.Module):
    """Some rows of a packed weight: those of the strips that hold start … stop - 1."""

    def __init__(self, packed: PackedTensor, start: int, stop: int, dtype: torch.dtype) -> None:
        super().__init__()
        step, rows = format_named(packed.format).row_step, packed.shape[0]
        first, last = start // step * step, min(rows, -(-stop // step) * step)
        if (first, last) != (0, rows):
            packed = slice_rows(packed, first, last)
        self.skipped, self.count = start - first, stop - start
        self.weight = PackedModule(packed, dtype)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x Wᵀ + bias: (…, in) to (…, stop - start)."""
        x = x.detach()  # vLLM warms a compiled model up with gradients enabled, and never asks for any
        if self.count == self.weight.rows:
            return self.weight.project(x, bias)
        y = self.weight.project(x, None).narrow(-1, self.skipped, self.count)
        return y if bias is None else y + bias

    def look_up(self, index: Tensor) -> Tensor:
        """The rows that `index` (…) counts from `start`: (…, in)."""
        return self.weight.look_up(index + self.skipped if self.skipped else index)


class HeldPlain(nn.Module):
    """Some rows of a weight (out, in) in full precision, next to packed ones in the same layer."""

    def __init__(self, weight: Tensor, start: int, stop: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.count = stop - start
        self.weight = nn.Parameter(weight[start:stop].to(dtype, copy=True), requires_grad=False)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        return nn.functional.linear(x, self.weight, bias)


class HeldLinear(nn.Module):
    """The product of one rank with the stored weights of a layer.

    gathers   whether it needs the input of all ranks
    zeros     rows of zeros before and after its own
    """

    gathers: bool
    zeros: tuple[int, int]

    def __init__(
        self, weights: Sequence[PackedTensor | Tensor], rows: Sequence[Rows], dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.gathers, self.zeros = False, (0, 0)
        self.parts = nn.ModuleList(held(weights[part.weight], part.start, part.stop, dtype) for part in rows)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x Wᵀ + bias: (…, in) to (…, out), with the rows of zeros."""
        if self.zeros != (0, 0):
            y = nn.functional.pad(self.parts[0](x, None), self.zeros)
            return y if bias is None else y + bias
        if len(self.parts) == 1:
            return self.parts[0](x, bias)
        counts = [part.count for part in self.parts]
        biases = [None] * len(counts) if bias is None else bias.split(counts)
        return torch.cat([part(x, own) for part, own in zip(self.parts, biases, strict=True)], -1)


def held(weight: PackedTensor | Tensor, start: int, stop: int, dtype: torch.dtype) -> HeldRows | HeldPlain:
    """The rows start … stop - 1 of a stored weight."""
    return (HeldPlain if isinstance(weight, Tensor) else HeldRows)(weight, start, stop, dtype)  # pyright: ignore[reportArgumentType]


def split_inputs(weight: PackedTensor | Tensor, rank: int, size: int, dtype: torch.dtype) -> HeldLinear:
    """What rank `rank` of `size` holds of a weight whose inputs are divided among the ranks: its columns, or,
    where they cannot be cut, its share of the rows for the inputs of all.
    """
    rows, columns = weight.shape
    width = columns // size
    own = (
        weight[:, rank * width :][:, :width] if isinstance(weight, Tensor) else _columns(weight, rank, width)
    )
    if own is not None:
        return HeldLinear([own], [Rows(0, 0, rows)], dtype)
    step = -(-rows // size)
    start = min(rows - 1, rank * step)
    stop = min(rows, start + step)
    found = HeldLinear([weight], [Rows(0, start, stop)], dtype)
    found.gathers, found.zeros = True, (start, rows - stop)
    return found


def _columns(packed: PackedTensor, rank: int, width: int) -> PackedTensor | None:
    try:
        return slice_columns(packed, rank * width, (rank + 1) * width)
    except InputError:
        return None


def prepared(held: nn.Module, device: torch.device) -> nn.Module:
    """What a rank holds, on a device, with its kernels prepared: now, and not at the first request."""
    held.to(device)
    for module in held.modules():
        if isinstance(module, PackedModule):
            module.product(device.type)
    return held
