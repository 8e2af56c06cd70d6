"""Many mutants, checked in children: a crash or a hang is found, and named with its seed.

python -m reliability.fuzz tensors --count 100000 --seed 0
python -m reliability.fuzz folders --count 3000
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import mmap
import os
import resource
import signal
import struct
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil
import torch

from reliability.folder_verdict import check_folder, describe_folder, prepare_folders
from reliability.tensor_mutants import mutant
from reliability.tensor_verdict import Fault, verdict

CHUNK = 2000  # seeds for a child
MOST_SECONDS, MOST_GROWTH = 5.0, 256 << 20  # of processor time and of resident memory, for one mutant
MORE_ADDRESSES = 2 << 30  # that a child may reserve; the sanitizers reserve far more, without this limit
HANG_SECONDS = 120.0


@dataclass(frozen=True)
class Fuzzer:
    """`check` gives the verdict on a seed, or raises Fault; `describe` tells what the seed stands for;
    `prepare` does once what all children need.
    """

    check: Callable[[int], str]
    describe: Callable[[int], str]
    prepare: Callable[[], object] = lambda: None


@dataclass
class Tally:
    """Verdicts counted, and what went wrong: seed and reason."""

    verdicts: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[int, str]] = field(default_factory=list)


def check_tensors(seed: int) -> str:
    made = mutant(seed)
    return verdict(made.packed, seed)


def describe_tensors(seed: int) -> str:
    made = mutant(seed)
    return f"{made.origin}: {'; '.join(made.changes)}"


FUZZERS = {
    "tensors": Fuzzer(check_tensors, describe_tensors),
    "folders": Fuzzer(check_folder, describe_folder, prepare_folders),
}


def run(fuzzer: Fuzzer, seeds: range, hang_seconds: float = HANG_SECONDS) -> Tally:
    """Check all seeds, in one child after the other; one that ends early is followed by another."""
    fuzzer.prepare()
    tally, start = Tally(), seeds.start
    while start < seeds.stop:
        end = min(start + CHUNK, seeds.stop)
        last, ending = _chunk(fuzzer, range(start, end), hang_seconds, tally)
        if ending:
            tally.faults.append((last, ending))
            start = last + 1
        else:
            start = end
    return tally


def _chunk(fuzzer: Fuzzer, seeds: range, hang_seconds: float, tally: Tally) -> tuple[int, str]:
    """The last seed that was begun, and how the child ended before its time; empty if it did not."""
    current = mmap.mmap(-1, 8)
    current[:8] = struct.pack("q", seeds.start)
    reading, writing = os.pipe()
    child = fork()
    if child == 0:
        os.close(reading)
        _child(fuzzer, seeds, current, writing)
    os.close(writing)
    os.set_blocking(reading, False)
    text, seen, since = b"", -1, time.monotonic()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        while piece := _read(reading):
            text += piece
        place = struct.unpack("q", current[:8])[0]
        if place != seen:
            seen, since = place, time.monotonic()
        if not done and time.monotonic() - since > hang_seconds:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            ending = f"hangs for more than {hang_seconds:g} s"
            break
        if done:
            ending = f"ends the process: {_how(status)}" if status else ""
            break
        time.sleep(0.02)
    os.close(reading)
    for line in text.splitlines():
        seed, found, reason = json.loads(line)
        tally.verdicts[found] += 1
        if reason:
            tally.faults.append((seed, reason))
    return seen, ending


def fork() -> int:
    """os.fork. Python warns of the parent's other threads, of which these children need none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _read(place: int) -> bytes:
    try:
        return os.read(place, 1 << 16)
    except BlockingIOError:
        return b""


def _how(status: int) -> str:
    return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"


def _child(fuzzer: Fuzzer, seeds: range, current: mmap.mmap, writing: int) -> None:
    """Check the seeds, write a line for each, and end the process."""
    ending = 0
    try:
        faulthandler.disable()  # the parent tells how a child ends
        torch.set_num_threads(1)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if not sanitized():
            most = psutil.Process().memory_info().vms + MORE_ADDRESSES
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
        with os.fdopen(writing, "w", buffering=1) as out:
            for seed in seeds:
                current[:8] = struct.pack("q", seed)
                out.write(json.dumps([seed, *_checked(fuzzer, seed)]) + "\n")
    except BaseException as error:
        print(f"the child ends: {type(error).__name__}: {error}", file=sys.stderr)
        ending = 1
    finally:
        os._exit(ending)


def sanitized() -> bool:
    return "asan" in os.environ.get("LD_PRELOAD", "")


def _checked(fuzzer: Fuzzer, seed: int) -> tuple[str, str]:
    """The verdict, and why it is a fault; empty if it is none."""
    memory, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        found, reason = fuzzer.check(seed), ""
    except Fault as fault:
        found, reason = "fault", str(fault)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) << 10
    seconds = time.process_time() - began
    if not reason and not sanitized() and grown > MOST_GROWTH:
        return "fault", f"takes {grown >> 20} MiB"
    if not reason and not sanitized() and seconds > MOST_SECONDS:
        return "fault", f"takes {seconds:.1f} s"
    return found, reason


def main() -> None:
    """The command: the counts, every fault, and exit code 1 if there is one."""
    parser = argparse.ArgumentParser(prog="python -m reliability.fuzz")
    parser.add_argument("kind", choices=FUZZERS)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    fuzzer = FUZZERS[asked.kind]
    tally = run(fuzzer, range(asked.seed, asked.seed + asked.count))
    for seed, reason in tally.faults:
        print(f"{asked.kind} {seed}: {reason}\n    {fuzzer.describe(seed)}")
    counts = ", ".join(f"{count} {found}" for found, count in sorted(tally.verdicts.items()))
    last = asked.seed + asked.count - 1
    print(f"{asked.kind}, seeds {asked.seed} … {last}: {counts}; {len(tally.faults)} faults")
    sys.exit(bool(tally.faults))


if __name__ == "__main__":
    main()
