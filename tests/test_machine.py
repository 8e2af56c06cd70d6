"""Free pages between small allocations that are in use go back to the system."""

import ctypes

import psutil
import pytest

from bivlm.machine import return_free_memory


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library has no malloc_trim")
def test_free_memory_goes_back():
    process, piece = psutil.Process(), 64 << 10
    pieces = [bytearray(b"x") * piece for _ in range(3000)]
    kept = pieces[::2]
    del pieces
    before = process.memory_info().rss
    return_free_memory()
    assert before - process.memory_info().rss > 1000 * piece
    assert len(kept) == 1500
