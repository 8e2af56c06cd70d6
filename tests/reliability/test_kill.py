"""Death at every file-system call, and in the middle of every write: the same command continues and ends with
the same bytes, and what OUT held before is there until the new model is.
"""

from __future__ import annotations

import os
import signal

import pytest
import torch

from bivlm.job.run import quantize
from reliability.disk import dies_at
from reliability.jobs import Killed
from tiny.language import tiny_language_model

LIGHT = {"recipe": "rtn-2"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny_language_model("llama", tmp_path_factory.mktemp("source") / "model", torch.bfloat16, layers=1)


def deaths(job, step=1):
    """Kill the job at every `step`-th moment, until it survives; how often it was killed."""
    moment = killed = 0
    while True:
        moment += step
        out = job.fresh_out()
        status = job.run(out, dies_at(moment))
        if status == 0:
            return killed
        assert os.WTERMSIG(status) == signal.SIGKILL, f"moment {moment}: status {status}"
        job.check_continues(out)
        killed += 1


@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_a_new_folder(step, source, tmp_path):
    assert deaths(Killed(tmp_path, source, LIGHT), step) > 60 // step


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_a_folder_that_is_replaced(step, source, tmp_path):
    before = quantize(source, tmp_path / "before", recipe="rtn-3")
    assert deaths(Killed(tmp_path, source, LIGHT, before), step) > 60 // step
