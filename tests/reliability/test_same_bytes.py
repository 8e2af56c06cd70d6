"""The same command gives the same bytes on every instruction set of the library, and with one thread or
two.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bivlm.native.library import library
from reliability.jobs import content
from tiny import tiny_checkpoint

TESTS = Path(__file__).parents[1]
SAMPLES = 6
JOB = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
import torch
from bivlm.job.run import quantize
from tiny import tiny_samples
torch.set_num_threads(int(sys.argv[1]))
for recipe in sys.argv[4:]:
    quantize(sys.argv[2], f"{{sys.argv[3]}}/{{recipe}}", recipe=recipe, data=tiny_samples({SAMPLES}))
"""
RECIPES = ("trellis-2", "gptq-2")


def other_sets():
    """The instruction sets that this processor has besides the one in use."""
    native = library()
    if native is None:
        return []
    ranks = ["portable", "avx2", "avx512"]
    return ranks[: ranks.index(native.instruction_set)] if native.instruction_set in ranks else ["portable"]


def packed_in_a_process(source, out, threads=1, level=None):
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    if level is not None:
        environment["BIVLM_CPU_LEVEL"] = level
    job = [sys.executable, "-c", JOB, str(threads), str(source), str(out), *RECIPES]
    subprocess.run(job, env=environment, check=True, capture_output=True)
    return {recipe: content(out / recipe) for recipe in RECIPES}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    work = tmp_path_factory.mktemp("here")
    source = tiny_checkpoint("llava", work / "source", torch.bfloat16)
    return source, packed_in_a_process(source, work)


# the most different place runs always, the others are slow
ELSEWHERE = [
    pytest.param(level, 1, marks=() if level == "portable" else pytest.mark.slow) for level in other_sets()
] + [pytest.param(None, 2, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("level", "threads"), ELSEWHERE)
def test_elsewhere(level, threads, original, tmp_path):
    source, expected = original
    assert packed_in_a_process(source, tmp_path, threads, level) == expected
