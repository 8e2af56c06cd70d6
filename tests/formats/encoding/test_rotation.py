"""The rotation against dense matrices of numpy and scipy, and its signs against SplitMix64 in plain
integers.
"""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bivlm.formats.encoding.rotation import (
    MIXER,
    hartley,
    prime_factors,
    rotate,
    rotate_back,
    signs_of,
    transform,
)
from bivlm.formats.encoding.trellis_checks import LARGEST_SEED
from trellis_oracle import hartley_matrix, rotation_matrix, splitmix

WIDTHS = (1, 2, 3, 7, 12, 13, 36, 64, 97, 128, 129, 192, 210, 251, 577, 1000, 1152)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rotate_is_the_product_with_the_matrix(columns, dtype):
    x, matrix = normal(3, 2, columns, dtype=dtype), rotation_matrix(11, columns)
    expected = x.double().numpy() @ matrix.T
    turned = rotate(x, signs_of(11, columns))
    assert (turned.dtype, turned.shape) == (dtype, x.shape)
    assert np.abs(turned.double().numpy() - expected).max() <= (
        1e-13 if dtype == torch.float64 else 1e-6
    ) * max(1.0, columns**0.5)


@pytest.mark.parametrize("columns", WIDTHS)
def test_it_is_orthogonal_and_undone(columns):
    signs, x = signs_of(columns, columns), normal(5, columns)
    turned = rotate(x, signs)
    torch.testing.assert_close(turned @ turned.T, x @ x.T, rtol=1e-12, atol=1e-11)
    torch.testing.assert_close(rotate_back(turned, signs), x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(transform(transform(x)), x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("columns", [2**n for n in range(11)])
def test_powers_of_two_have_the_hadamard_transform(columns):
    matrix = transform(torch.eye(columns, dtype=torch.float64)).numpy()
    assert np.abs(matrix - scipy.linalg.hadamard(columns) / columns**0.5).max() < 1e-14


@pytest.mark.parametrize("columns", WIDTHS)
def test_no_input_stands_out_afterwards(columns):
    """One input of 1 and zeros: no output is larger than √2 per odd prime over √width, which is what the
    rotation is for.
    """
    odd = sum(prime > 2 for prime in prime_factors(columns))
    spread = transform(torch.eye(columns, dtype=torch.float64)).abs().max()
    assert float(spread) <= 2 ** (odd / 2) / columns**0.5 + 1e-12


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 20000))
def test_prime_factors_are_primes_in_order_and_multiply_to_the_width(width):
    factors = prime_factors(width)
    assert np.prod(factors, dtype=np.int64) == width
    assert list(factors) == sorted(factors)
    assert all(
        prime > 1 and all(prime % divisor for divisor in range(2, int(prime**0.5) + 1)) for prime in factors
    )


@pytest.mark.parametrize("order", [1, 2, 3, 5, 13, 97])
def test_the_matrix_of_a_prime_is_symmetric_and_its_own_inverse(order):
    matrix = hartley(order).numpy()
    assert np.array_equal(matrix, matrix.T)
    assert np.abs(matrix @ matrix - np.eye(order)).max() < 1e-13
    assert np.abs(matrix - hartley_matrix(order)).max() < 1e-13


def test_a_wide_transform_never_multiplies_by_a_large_matrix_where_primes_are_small():
    """11008 = 2^8 · 43: the matrix of 11008² would have 121 million entries."""
    x = normal(1, 11008)
    turned = transform(x)
    assert float(turned.square().sum()) == pytest.approx(float(x.square().sum()), rel=1e-12)
    assert MIXER < 11008
    torch.testing.assert_close(transform(turned), x, rtol=1e-11, atol=1e-11)


# Outputs of SplitMix64 as its users publish them
PUBLISHED = {
    0: [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F],
    1234567: [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ],
}


@pytest.mark.parametrize("seed", PUBLISHED)
def test_the_oracle_gives_the_published_numbers(seed):
    assert splitmix(seed, len(PUBLISHED[seed])) == PUBLISHED[seed]


@pytest.mark.parametrize("seed", [0, 1, 3, 1234567, 1 << 62, LARGEST_SEED])
def test_signs_are_the_highest_bits_of_splitmix(seed):
    signs = signs_of(seed, 1000)
    assert signs.dtype == torch.float32
    assert signs.tolist() == [-1.0 if z >> 63 else 1.0 for z in splitmix(seed, 1000)]
    assert abs(float(signs.mean())) < 0.12
    assert torch.equal(signs[:33], signs_of(seed, 33))


def test_arguments_are_left_alone():
    x, signs = normal(2, 12), signs_of(0, 12)
    before = x.clone(), signs.clone()
    rotate(x, signs)
    rotate_back(x, signs)
    assert torch.equal(x, before[0])
    assert torch.equal(signs, before[1])
