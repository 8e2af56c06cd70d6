"""The tests of Triton's kernels under its interpreter, in a process of its own: Triton decides once whether
it interprets, and the tests of torch's compiler need that it does not.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="this process interprets already"),
]


def run(marked):
    places = (HERE, HERE.parent / "quantizers" / "steps")
    files = sorted(str(file) for place in places for file in place.glob("test_triton_*.py"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", marked, *files]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=HERE.parents[1])
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def test_quick_cases():
    run("not slow and not gpu")


@pytest.mark.slow
def test_all_other_cases():
    run("slow and not gpu")
