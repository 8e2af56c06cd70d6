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
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

LARGEST_SEED = (1 << 63) - 1
LARGEST_PRIME = 1024  # no prime factor of a rotated width is larger: its transform takes prime² numbers
MIXER = 64  # primes are joined to matrices of at most this order: one product instead of six for 64 = 2^6

_KEPT = 16  # transforms that are kept: a model has a few widths, and each takes up to 8 MiB

_GAMMA, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def rotate(x: Tensor, signs: Tensor) -> Tensor:
    """R x for every x (…, in), in x's dtype; `signs` (in,) is ±1."""
    return transform(x * signs.to(x.dtype))


def rotate_back(x: Tensor, signs: Tensor) -> Tensor:
    """Rᵀ x for every x (…, in): the inverse of `rotate`."""
    return transform(x) * signs.to(x.dtype)


def transform(x: Tensor) -> Tensor:
    """The Hartley transform over every prime factor of the last dimension: (…, in), x's dtype, its own
    inverse.
    """
    columns = x.shape[-1]
    y, after = x.reshape(-1, columns), columns
    for matrix in _mixers(columns):
        after //= len(matrix)
        y = matrix.to(y) @ y.reshape(-1, len(matrix), after)
    return y.reshape(x.shape)


def can_rotate(columns: int) -> bool:
    """Whether every prime factor of a width is small enough for its transform (`LARGEST_PRIME`)."""
    for prime in range(2, LARGEST_PRIME + 1):
        while columns % prime == 0:
            columns //= prime
    return columns == 1


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


def signs_of(seed: int, columns: int) -> Tensor:
    """The signs (in,) float32, on the CPU, that belong to a seed, 0 … 2^63 - 1."""
    state = (
        torch.arange(1, columns + 1, dtype=torch.int64, device="cpu") * _signed(_GAMMA) + seed
    )  # int64 wraps around, as the definition requires
    state = (state ^ _shifted(state, 30)) * _signed(_MIX_1)
    state = (state ^ _shifted(state, 27)) * _signed(_MIX_2)
    return (state ^ _shifted(state, 31)).lt(0).float().mul_(-2.0).add_(1.0)


def _shifted(state: Tensor, count: int) -> Tensor:
    """The logical shift to the right of int64: zeros come in from the left."""
    return (state >> count) & ((1 << (64 - count)) - 1)


def _signed(number: int) -> int:
    """The int64 with the same bits as an unsigned 64-bit number."""
    return number - (1 << 64) if number >> 63 else number
