"""The long proofs: every moment at which a job can die, random kills, races.

python -m reliability.soak moments            every file-system call of three recipes
python -m reliability.soak kills --count 200  SIGKILL, SIGTERM, SIGINT and SIGSTOP at random times
python -m reliability.soak races --count 20   two jobs at one OUT
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bivlm.job.run import quantize
from bivlm.types import Sample
from reliability.disk import dies_at
from reliability.jobs import REFUSED, Killed, content, start
from tiny import tiny_checkpoint, tiny_samples
from tiny.language import tiny_language_model

QUESTIONS = ("what is red", "is it a cat", "how many", "a dog on a mat")
# a budget that is measured, error propagation, tuning, packed embeddings
TUNED: dict[str, Any] = {"recipe": "trellis-2", "effort": "max"}
HEAVY: dict[str, Any] = {"recipe": "trellis-2", "bits": 2.6, "effort": "high", "embeddings": 3}


def jobs(work: Path) -> dict[str, Callable[[], Killed]]:
    """The jobs that are killed, by name: a light one, one with data, one with everything, one that
    replaces.
    """
    language = tiny_language_model("llama", work / "language", torch.bfloat16, layers=1)
    vision = tiny_checkpoint("llava", work / "vision", torch.bfloat16)
    text = [Sample(None, question) for question in QUESTIONS]

    def job(name: str, source: Path, settings: dict[str, Any], before: Path | None = None) -> Killed:
        return Killed(work / name, source, settings, before)

    def replacing() -> Killed:
        before = quantize(language, work / "before", recipe="rtn-3")
        return job("replacing", language, {"recipe": "rtn-2"}, before)

    return {
        "rtn-2": lambda: job("light", language, {"recipe": "rtn-2"}),
        "rtn-2, replacing": replacing,
        "trellis-2 with data": lambda: job("data", vision, {"recipe": "trellis-2", "data": tiny_samples(2)}),
        "everything": lambda: job("heavy", language, {**HEAVY, "data": text}),
        "the whole model tuned": lambda: job("tuned", language, {**TUNED, "data": [*text, *text]}),
    }


def moments(work: Path, only: str = "") -> bool:
    """Kill each job (those with `only` in their name) at every moment, and let the same command finish."""
    good = True
    for name, make in jobs(work).items():
        if only not in name:
            continue
        job, moment, failed = make(), 0, 0
        while True:
            moment += 1
            out = job.fresh_out()
            if job.run(out, dies_at(moment)) == 0:
                break
            try:
                job.check_continues(out)
            except AssertionError as error:
                failed += 1
                print(f"{name}, moment {moment}: {str(error)[:200]}", flush=True)
        print(f"{name}: died at {moment - 1} moments, {failed} did not end with the same bytes", flush=True)
        good = good and not failed
    return good


def kills(work: Path, count: int, seed: int) -> bool:
    """Send signals to the heavy job at random times until `count` have hit; each time the command goes on."""
    job, r = jobs(work)["everything"](), random.Random(seed)
    began = time.monotonic()
    assert job.run(job.fresh_out()) == 0
    seconds = time.monotonic() - began
    hits: Counter[str] = Counter()
    runs = failed = 0
    while hits.total() < count:
        out = job.fresh_out()
        while True:
            child = start(lambda out=out: quantize(job.source, out, **job.settings))
            time.sleep(r.uniform(0, seconds))
            what = r.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSTOP])
            if os.waitpid(child, os.WNOHANG)[0]:
                break
            os.kill(child, what)
            hits[what.name] += 1
            if what == signal.SIGSTOP:
                os.kill(child, signal.SIGCONT)
            if os.waitpid(child, 0)[1] == 0:
                break
        runs += 1
        try:
            job.check_continues(out)
        except AssertionError as error:
            failed += 1
            print(f"run {runs}: {str(error)[:200]}", flush=True)
    shown = ", ".join(f"{number} {name}" for name, number in sorted(hits.items()))
    print(f"everything: {hits.total()} signals ({shown}) in {runs} runs, {failed} ended with other bytes")
    return not failed


def races(work: Path, count: int) -> bool:
    """Two jobs of the same recipe, or of two recipes with `overwrite`, begin at the same moment."""
    source = tiny_language_model("llama", work / "source", torch.bfloat16, layers=1)
    settings = ({"recipe": "rtn-2"}, {"recipe": "rtn-3"})
    expected = [content(quantize(source, work / f"expected-{n}", **one)) for n, one in enumerate(settings)]
    endings: Counter[str] = Counter()
    good = True
    for number in range(count):
        same, out = number % 2 == 0, work / f"race-{number}" / "out"
        pair = (settings[0], settings[0]) if same else settings
        at = time.monotonic() + 0.05
        begin = partial(_race, source, out, at, not same)
        children = [start(partial(begin, one)) for one in pair]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        whole = content(out) in (expected[:1] if same else expected)
        clean = [path.name for path in out.parent.iterdir()] == ["out"]
        fine = whole and clean and set(codes) <= {0, REFUSED} and 0 in codes
        if not fine:
            print(f"race {number}: exit codes {codes}, whole {whole}, clean {clean}", flush=True)
        good = good and fine
        endings[f"{sorted(codes)}"] += 1
    print(f"{count} races: {dict(endings)} (0: done, {REFUSED}: refused)")
    return good


def _race(source: Path, out: Path, at: float, overwrite: bool, settings: dict[str, Any]) -> None:
    time.sleep(max(0.0, at - time.monotonic()))
    quantize(source, out, overwrite=overwrite, **settings)


def main() -> None:
    """The command; exit code 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m reliability.soak")
    parser.add_argument("what", choices=("moments", "kills", "races"))
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="of the moments: the jobs with this in their name")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bivlm-soak-") as folder:
        work = Path(folder)
        good = {
            "moments": lambda: moments(work, asked.only),
            "kills": lambda: kills(work, asked.count, asked.seed),
            "races": lambda: races(work, asked.count),
        }[asked.what]()
    sys.exit(not good)


if __name__ == "__main__":
    main()
