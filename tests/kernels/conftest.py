"""What the tests of the native kernels go through: every instruction set, some numbers of threads.

Triton's kernels are tested on a card, or by the interpreter in a process of its own (test_interpreted.py):
whether Triton interprets is decided once, when it is imported.
"""

import ctypes
import os
from importlib.util import find_spec

import pytest
import torch

from bivlm.native.library import library

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ON_A_CARD = torch.cuda.is_available() and find_spec("triton") is not None
collect_ignore_glob = [] if INTERPRETED or ON_A_CARD else ["test_triton_*.py"]


def handle():
    """The library as ctypes has it, with the functions that choose an instruction set."""
    opened = ctypes.CDLL(str(library().path))
    for name in ("instruction_set_name", "instruction_set", "use_instruction_set"):
        getattr(opened, f"bivlm_{name}").restype = ctypes.c_char_p
    return opened


def instruction_sets():
    """Those that the processor and the build have; empty without the library."""
    if library() is None:
        return []
    opened, found, index = handle(), [], 0
    before = opened.bivlm_instruction_set()
    while name := opened.bivlm_instruction_set_name(index):
        if opened.bivlm_use_instruction_set(name) == name:
            found.append(name.decode())
        index += 1
    opened.bivlm_use_instruction_set(before)
    return found


@pytest.fixture(params=instruction_sets())
def instruction_set(request):
    """Each instruction set in turn, and the one from before afterwards."""
    opened = handle()
    before = opened.bivlm_instruction_set()
    yield opened.bivlm_use_instruction_set(request.param.encode()).decode()
    opened.bivlm_use_instruction_set(before)


@pytest.fixture
def threads():
    """Sets torch's number of threads, and sets it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
