"""The rotation of the inputs of `trellis` weights: random signs, then a Hartley transform over every prime
factor of the width.

    R = (C_p1 ⊗ C_p2 ⊗ … ⊗ C_pk) · diag(signs)
    C_m[a, b] = (cos 2πab/m + sin 2πab/m) / √m
    p1 ≤ p2 ≤ … ≤ pk the prime factors of `in`

C_m is the discrete Hartley transform (Bracewell, J. Opt. Soc. Am. 73, 1832 (1983)): real, symmetric,
orthogonal, its own inverse, and flat: no entry is larger than √(2/m). C_2 is the Hadamard matrix, so for a
power of two the rotation is the Walsh-Hadamard transform of QuIP#, QTIP, EXL3. Any other width is mixed
as completely, without padding and without blocks of columns that stay separate.

The signs come from a seed by SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): sign j is bit 63 of the
output for seed + (j + 1) · golden ratio.

A rotation may have equal diagonal blocks: the transform is then that of in / blocks columns, for every block
of columns alone, and the inputs can be split between blocks (tensor parallelism).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

MIXER = 64  # primes are joined to matrices of at most this order: one product instead of six for 64 = 2^6

_KEPT = 16  # transforms that are kept: a model has a few widths, and each takes up to 8 MiB

_GAMMA, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


@dataclass(frozen=True, eq=False)
class Rotation:
    """R of some signs (in,) ±1, with `blocks` diagonal blocks."""

    signs: Tensor
    blocks: int = 1

    def turn(self, x: Tensor) -> Tensor:
        """R x for every x (…, in), in x's dtype."""
        return rotate(x, self.signs, self.blocks)

    def turn_back(self, x: Tensor) -> Tensor:
        """Rᵀ x for every x (…, in)."""
        return rotate_back(x, self.signs, self.blocks)


def rotate(x: Tensor, signs: Tensor, blocks: int = 1) -> Tensor:
    """R x for every x (…, in), in x's dtype; `signs` (in,) is ±1. R has `blocks` diagonal blocks."""
    return transform(x * signs.to(x), blocks)


def rotate_back(x: Tensor, signs: Tensor, blocks: int = 1) -> Tensor:
    """Rᵀ x for every x (…, in): the inverse of `rotate`."""
    return transform(x, blocks) * signs.to(x)


def transform(x: Tensor, blocks: int = 1) -> Tensor:
    """The Hartley transform over every prime factor of in / blocks, for each block of the last dimension:
    (…, in), x's dtype, its own inverse.
    """
    columns = x.shape[-1] // blocks
    y, after = x.reshape(-1, columns), columns
    for matrix in _mixers(columns):
        after //= len(matrix)
        y = matrix.to(y) @ y.reshape(-1, len(matrix), after)
    return y.reshape(x.shape)


def blocks_of(columns: int, most: int, multiple: int) -> int:
    """The most equal blocks of a multiple of `multiple` columns, of those whose number divides `most`: 1
    where there are no several.
    """
    fitting = (d for d in range(most, 1, -1) if most % d == 0 and columns % (d * multiple) == 0)
    return next(fitting, 1)


@lru_cache
def prime_factors(width: int) -> tuple[int, ...]:
    """The prime factors of `width`, ascending, as often as they occur; none for 1."""
    factors, prime = [], 2
    while prime * prime <= width:
        while width % prime == 0:
            factors.append(prime)
            width //= prime
        prime += 1
    return (*factors, width) if width > 1 else tuple(factors)


@lru_cache(_KEPT)
def hartley(order: int) -> Tensor:
    """C_order, (order, order) float64, on the CPU."""
    index = torch.arange(order, dtype=torch.int64, device="cpu")
    angle = (torch.outer(index, index) % order).double() * (2 * math.pi / order)
    return (angle.cos() + angle.sin()) / math.sqrt(order)


@lru_cache(_KEPT)
def _mixers(columns: int) -> tuple[Tensor, ...]:
    """The Kronecker factors of the transform: neighbouring primes joined while their product is at most
    MIXER, float64.
    """
    mixers = []
    for prime in prime_factors(columns):
        if mixers and len(mixers[-1]) * prime <= MIXER:
            mixers[-1] = torch.kron(mixers[-1], hartley(prime))
        else:
            mixers.append(hartley(prime))
    return tuple(mixers)


def signs_of(seed: int, columns: int, first: int = 0) -> Tensor:
    """The signs (in,) float32, on the CPU, that belong to a seed, 0 … 2^63 - 1: those of the columns from
    `first` on.
    """
    count = torch.arange(first + 1, first + columns + 1, dtype=torch.int64, device="cpu")
    state = count * _signed(_GAMMA) + seed  # int64 wraps around, as the definition requires
    state = (state ^ _shifted(state, 30)) * _signed(_MIX_1)
    state = (state ^ _shifted(state, 27)) * _signed(_MIX_2)
    return (state ^ _shifted(state, 31)).lt(0).float().mul_(-2.0).add_(1.0)


def _shifted(state: Tensor, count: int) -> Tensor:
    """The logical shift to the right of int64: zeros come in from the left."""
    return (state >> count) & ((1 << (64 - count)) - 1)


def _signed(number: int) -> int:
    """The int64 with the same bits as an unsigned 64-bit number."""
    return number - (1 << 64) if number >> 63 else number
