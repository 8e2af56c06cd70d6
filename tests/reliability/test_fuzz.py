"""The fuzzer's runner: what ends a child, hangs, or breaks a rule is found and named with its seed."""

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reliability import fuzz
from reliability.tensor_verdict import Fault

TESTS = Path(__file__).parents[1]


def fuzzer_of(behaviour):
    """A fuzzer that accepts every seed, and does something else for some."""

    def check(seed):
        return behaviour[seed]() if seed in behaviour else "accepted"

    return fuzz.Fuzzer(check, str)


def fail():
    raise Fault("they differ")


def raise_another():
    raise KeyError("codes")


def test_every_seed_is_counted(monkeypatch):
    monkeypatch.setattr(fuzz, "CHUNK", 3)
    tally = fuzz.run(fuzzer_of({5: lambda: "refused"}), range(2, 10))
    assert (dict(tally.verdicts), tally.faults) == ({"accepted": 7, "refused": 1}, [])


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (fail, "they differ"),
        (raise_another, "ends the process: exit 1"),
        (lambda: os._exit(3), "ends the process: exit 3"),
        (lambda: os.kill(os.getpid(), 9), "ends the process: signal 9"),
        (lambda: ctypes.string_at(8), "ends the process: signal 11"),
        (lambda: time.sleep(60), "hangs for more than 0.3 s"),
    ],
)
def test_a_fault_is_named_with_its_seed_and_the_rest_goes_on(behaviour, reason):
    tally = fuzz.run(fuzzer_of({4: behaviour}), range(10), hang_seconds=0.3)
    assert tally.faults == [(4, reason)]
    assert tally.verdicts["accepted"] == 9


@pytest.mark.skipif(fuzz.sanitized(), reason="the sanitizers take more of everything")
def test_memory_and_time_are_limited(monkeypatch):
    def take():
        return "accepted" if bytes(300 << 20) and bytearray(b"1") * (300 << 20) else ""

    tally = fuzz.run(fuzzer_of({1: take}), range(3))
    assert [(seed, reason[:5]) for seed, reason in tally.faults] == [(1, "takes")]
    monkeypatch.setattr(fuzz, "MOST_SECONDS", 0.0)
    assert len(fuzz.run(fuzzer_of({}), range(3)).faults) == 3


def test_the_command():
    found = subprocess.run(
        [sys.executable, "-m", "reliability.fuzz", "tensors", "--count", "20", "--seed", "7"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"},
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("tensors, seeds 7 … 26: ")
    assert found.stdout.endswith("; 0 faults\n")
