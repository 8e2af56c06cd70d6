# pyright: reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
# (Triton's functions are not what pyright takes them for)
"""The rotation of the inputs of `trellis` in Triton: two products with small matrices, whatever the width.

    R x = (A ⊗ B) diag(signs) x        Y = A X B,   X (a, b) = the signed x, row by row,   a · b = in
    (of a rotation in several blocks: a · b = in / blocks, and x the columns of a block)

A and B are Kronecker products of the Hartley transforms of the first and of the last prime factors
(formats/encoding/rotation.py), split where a + b is smallest: 64 + 64 for 4096, 128 + 86 for 11008. Both are
symmetric. Products and sums are float32 for float32 inputs and for one token. torch's products are not used:
in float32 they follow global switches (TensorFloat-32), and the signs, the casts and the two batched products
would take twice as many launches.
"""

from __future__ import annotations

from functools import cache, reduce

import torch
import triton
import triton.language as tl
from torch import Tensor

from bivlm.formats.encoding.rotation import hartley, prime_factors
from bivlm.kernels.triton_shared import OPTIONS, precision_of

TILE = 32  # rows, columns and summands of a tile


def split_of(columns: int) -> int:
    """The number of prime factors that the first matrix has."""
    primes = prime_factors(columns)
    products = [1]
    for prime in primes:
        products.append(products[-1] * prime)
    return min(range(len(products)), key=lambda count: products[count] + columns // products[count])


@cache
def _matrices(columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """A (a, a) and B (b, b), float32, on a device: shared by all weights of a width."""
    primes, count = prime_factors(columns), split_of(columns)
    one = torch.ones(1, 1, dtype=torch.float64, device="cpu")
    first, second = (reduce(torch.kron, map(hartley, some), one) for some in (primes[:count], primes[count:]))
    return first.float().to(device), second.float().to(device)


class Rotation:
    """R of some `signs` (in,) with diagonal `blocks`, on a device. `signs` (in,) int8 are its own."""

    def __init__(self, signs: Tensor, blocks: int, device: torch.device) -> None:
        self.signs, self.blocks = signs.to(torch.int8).to(device), blocks
        self.first, self.second = _matrices(len(signs) // blocks, device)

    def rotate(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """R x of every x (tokens, in), contiguous, rounded once to `dtype`."""
        return self._transform(x, dtype, before=True)

    def rotate_back(self, x: Tensor) -> Tensor:
        """Rᵀ x of every x (rows, in) float32."""
        return self._transform(x, x.dtype, before=False)

    def _transform(self, x: Tensor, dtype: torch.dtype, before: bool) -> Tensor:
        a, b, tokens = len(self.first), len(self.second), len(x)
        precision = "ieee" if tokens == 1 else precision_of(x.dtype)
        between = torch.empty(x.shape, dtype=torch.float32, device=x.device)
        turned = torch.empty(x.shape, dtype=dtype, device=x.device)
        steps = (
            # input, matrix, output, its order, distance of the summands, other side, its distance, signs
            (x, self.first, between, a, b, b, 1, before, False),
            (between, self.second, turned, b, 1, a, b, False, not before),
        )
        for given, matrix, out, order, step, others, other_step, signed, signed_after in steps:
            grid = (tokens * self.blocks, triton.cdiv(order, TILE), triton.cdiv(others, TILE))
            _mix[grid](
                given,
                matrix,
                self.signs,
                out,
                order,
                step,
                others,
                other_step,
                self.blocks,
                SIGNS=signed,
                SIGNS_AFTER=signed_after,
                TILE=TILE,
                PRECISION=precision,
                **OPTIONS,
            )
        return turned


@triton.jit
def _mix(
    x, matrix, signs, y, order, step, others, other_step, blocks,
    SIGNS: tl.constexpr, SIGNS_AFTER: tl.constexpr, TILE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """y[r, c] = Σ_k matrix[r, k] x[k, c] of a block of one token: r and k are `step` numbers apart, c
    `other_step`.
    """
    token = tl.program_id(0).to(tl.int64) * order * others
    signs += tl.program_id(0) % blocks * order * others
    row = tl.program_id(1) * TILE + tl.arange(0, TILE)
    other = tl.program_id(2) * TILE + tl.arange(0, TILE)
    total = tl.zeros((TILE, TILE), tl.float32)
    for first in range(0, order, TILE):
        k = first + tl.arange(0, TILE)
        place = k[:, None] * step + other[None, :] * other_step
        inside = (k < order)[:, None] & (other < others)[None, :]
        values = tl.load(x + token + place, mask=inside, other=0.0).to(tl.float32)
        if SIGNS:
            values = values * tl.load(signs + place, mask=inside, other=0).to(tl.float32)
        known = (row < order)[:, None] & (k < order)[None, :]
        mixer = tl.load(matrix + row[:, None] * order + k[None, :], mask=known, other=0.0)
        total = tl.dot(mixer, values, total, input_precision=PRECISION)
    place = row[:, None] * step + other[None, :] * other_step
    inside = (row < order)[:, None] & (other < others)[None, :]
    if SIGNS_AFTER:
        total = total * tl.load(signs + place, mask=inside, other=0).to(tl.float32)
    tl.store(y + token + place, total.to(y.dtype.element_ty), mask=inside)
