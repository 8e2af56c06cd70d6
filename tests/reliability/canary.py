"""Proof that the sanitizers watch the library that the fuzzer calls: a read past the end of a tensor must end
the process.

python -m reliability.canary
"""

from __future__ import annotations

import sys

import torch

from bivlm.native.library import library
from bivlm.native.weights import prepare
from reliability.fuzz import Fuzzer, run, sanitized
from weights import planes

ROWS, COLUMNS = 64, 256


def overrun(seed: int) -> str:
    """A product with a weight that says it has twice its rows."""
    native, weight = library(), prepare(planes(ROWS, COLUMNS, bits=32).encode())
    assert native is not None, "the canary needs the native library"
    weight.struct.rows = 2 * ROWS
    x, y = torch.ones(1, COLUMNS), torch.empty(1, 2 * ROWS)
    code = native.linear(weight.address, x.data_ptr(), COLUMNS, 1, 0, y.data_ptr(), None, 0, 1)
    return "survived" if code == 0 else "refused"


def main() -> None:
    """Exit code 0 if the overrun ended its process, as it must under the sanitizers."""
    tally = run(Fuzzer(overrun, str), range(1))
    found = tally.faults and sanitized()
    print(
        f"the canary: {tally.faults[0][1]}"
        if found
        else "the canary survives: no sanitizer watches the library"
    )
    sys.exit(not found)


if __name__ == "__main__":
    main()
