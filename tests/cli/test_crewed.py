"""Commands that several processes run: one of them speaks, and all end with one exit code."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from bivlm.cli.crewed import crewed
from bivlm.cli.faults import run
from bivlm.errors import InputError
from crews import environment, free_port, in_processes
from reliability.jobs import content
from tiny.language import tiny_language_model


def ends(job, size=2):
    """A command that runs `job` in a crew."""

    def command():
        with crewed() as crew:
            job(crew)

    return in_processes(size, lambda _: run(command))


def test_an_error_is_said_once_and_all_end_with_2():
    def job(crew):
        if crew.rank == 1:
            raise InputError("there is no folder x")
        crew.agree()

    ended = ends(job)
    assert [one.code for one in ended] == [2, 2]
    assert [one.said for one in ended] == ["bivlm: error: rank 1: there is no folder x\n", ""]


def test_an_error_that_all_have_is_said_once_without_a_rank():
    def job(crew):
        raise InputError("no such preset")

    ended = ends(job)
    assert [one.code for one in ended] == [2, 2]
    assert [one.said for one in ended] == ["bivlm: error: no such preset\n", ""]


def test_a_full_disk_of_the_first_is_told_as_ever():
    def job(crew):
        if crew.is_first:
            raise OSError(28, "No space left on device", "out/model.safetensors")
        crew.agree()

    ended = ends(job)
    assert [one.code for one in ended] == [2, 2]
    assert ended[0].said.startswith("bivlm: error: the disk is full: out/model.safetensors")
    assert ended[1].said == ""


def test_ctrl_c_ends_all():
    def job(crew):
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
        if crew.rank == 1:
            os.kill(os.getpid(), signal.SIGINT)
        crew.agree()

    ended = ends(job)
    assert [one.code for one in ended] == [130, 130]
    assert "interrupted; what is finished is kept" in ended[0].said
    assert ended[1].said == ""


def test_alone_errors_pass_as_ever():
    with pytest.raises(InputError, match="no such thing"), crewed():
        raise InputError("no such thing")


@pytest.mark.slow
def test_a_rank_that_dies_is_named_by_the_first_that_is_left():
    def job(crew):
        crew.agree()
        if crew.rank == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        crew.agree()

    ended = ends(job, 3)
    assert [one.code for one in ended] == [-signal.SIGKILL, 2, 2]
    said = [line for line in ended[1].said.splitlines() if line.startswith("bivlm:")]  # torch may warn, too
    assert len(said) == 1
    assert said[0].startswith("bivlm: error: rank 0 ended (killed")
    assert "bivlm: error" not in ended[2].said


@pytest.mark.slow
def test_the_command_itself_by_two_processes(tmp_path):
    source = tiny_language_model("llama", tmp_path / "source", torch.bfloat16, layers=1)
    command = [sys.executable, "-m", "bivlm", "quantize", str(source)]
    more = ["--preset", "gptq-2", "--samples", "4", "--json", "--profile"]
    port = free_port()
    ranks = [
        subprocess.Popen(
            [*command, str(tmp_path / "two"), *more],
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment(rank, 2, port)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [rank.communicate() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    assert json.loads(said[0][0])["seconds"]["exchange"] > 0
    assert said[1] == ("", "")
    alone = {name: value for name, value in os.environ.items() if name not in environment(0, 2, port)}
    subprocess.run(
        [*command, str(tmp_path / "one"), *more],
        env={**alone, "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
    )
    assert content(tmp_path / "two") == content(tmp_path / "one")
