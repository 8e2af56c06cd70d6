"""`trellis` by its definition, in plain integers and numpy: shares no code with the package."""

import numpy as np

GOLDEN_RATIO = 0x9E3779B97F4A7C15
WORD = (1 << 64) - 1


def splitmix(seed, count):
    """The first outputs of SplitMix64."""
    outputs = []
    for _ in range(count):
        seed = (seed + GOLDEN_RATIO) & WORD
        z = (seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9 & WORD
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & WORD
        outputs.append(z ^ (z >> 31))
    return outputs


def hartley_matrix(columns):
    """The Kronecker product of the cas matrices of all prime factors, the smallest prime first."""
    matrix, rest, prime = np.ones((1, 1)), columns, 2
    while rest > 1:
        if rest % prime:
            prime += 1
            continue
        angle = 2 * np.pi * np.outer(np.arange(prime), np.arange(prime)) / prime
        matrix = np.kron(matrix, (np.cos(angle) + np.sin(angle)) / np.sqrt(prime))
        rest //= prime
    return matrix


def rotation_matrix(seed, columns, blocks=1, first=0):
    """R (in, in)."""
    signs = np.array([-1.0 if z >> 63 else 1.0 for z in splitmix(seed, first + columns)[first:]])
    return np.kron(np.eye(blocks), hartley_matrix(columns // blocks)) * signs


def values_of(codes, bits, shape, window, tables):
    """T (out, in): the table's value of every window, the streams taken as one number each."""
    rows, columns = shape
    values, position = np.zeros(shape, dtype=np.int64), 0
    for first in range(0, rows, 64):
        held = min(64, (rows - first + 15) // 16 * 16)
        size = 2 + sum(bits[j // 16] for j in range(columns)) * held // 8
        stream, end = int.from_bytes(codes[position : position + size], "little"), 16
        position += size
        for j in range(columns):
            k = bits[j // 16]
            for row in range(first, first + held):
                end += k
                if k and row < rows:
                    values[row, j] = tables[k - 1][stream >> (end - window) & ((1 << window) - 1)]
    assert position == len(codes)
    return values


def expand(weight):
    """T and the weight (out, in) in float64 of a `TrellisWeight`."""
    tables = weight.tables.tolist()
    values = values_of(
        bytes(weight.codes.tolist()), weight.bits.tolist(), weight.shape, weight.window, tables
    )
    rotated = values * weight.row_scale.double().numpy()[:, None] * 2.0**weight.exponent / 32
    turn = (weight.seed, weight.columns, weight.blocks, weight.first_column)
    return values, rotated @ rotation_matrix(*turn) if weight.rotated else rotated
