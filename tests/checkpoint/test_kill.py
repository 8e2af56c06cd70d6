"""`kill -9` at random moments, again and again: the job continues each time and ends with the bytes of an
uninterrupted run.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from bivlm.zoo import embedded_model

KILLS = 20
JOB = (
    "import sys; from bivlm.job.run import quantize; quantize(sys.argv[1], sys.argv[2],"
    " recipe='bivlm-paper', settings={'bands': 2})"
)


def start(out):
    return subprocess.Popen(
        [sys.executable, "-c", JOB, str(embedded_model()), str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_twenty_kills(tmp_path):
    rng = random.Random(0)
    whole = tmp_path / "whole"
    started = time.monotonic()
    assert start(whole).wait() == 0
    duration = time.monotonic() - started
    expected = content(whole)
    killed, hit, round_number = 0, 0, 0
    while killed < KILLS:
        out = tmp_path / f"out-{round_number}"
        round_number += 1
        while not (out / "config.json").exists():
            process = start(out)
            try:
                process.wait(timeout=rng.uniform(0.3, 1.0) * duration)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed += 1
                hit += bool(list(out.glob("*.safetensors"))) and not (out / "config.json").exists()
        assert start_again(out) == expected
    assert hit >= KILLS // 4, "the kills came too early to hit unfinished work"


def start_again(out):
    """The content of a folder that looks whole; what a kill behind the last file left over is cleared by the
    same command.
    """
    if (out / ".bivlm-job").exists():
        assert start(out).wait() == 0
    return content(out)
