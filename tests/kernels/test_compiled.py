"""Triton's kernels become machine code of real cards: what the interpreter cannot say."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "compiled_for.py"
CARDS = {"an A100": ("cuda", "80"), "an H100": ("cuda", "90"), "an MI300": ("hip", "gfx942")}
BINARY = {"cuda": "cubin", "hip": "hsaco"}
SHARED_BYTES = 65536  # what the smallest of them gives a program

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


def compiled(card, tmp_path, *names):
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-W", "error", str(SCRIPT), *card, *names]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
def test_every_kernel_compiles(card, tmp_path):
    found = compiled(card, tmp_path)
    names = {"_one", "_many", "_product", "_tail", "_mix", "_rows", "_search", "add_parts"}
    names |= {"_trellis_rows", "_levels_rows"}
    assert {row["kernel"] for row in found} == names
    assert all(BINARY[card[0]] in row["kinds"] for row in found)
    assert max(row["shared"] for row in found) <= SHARED_BYTES
