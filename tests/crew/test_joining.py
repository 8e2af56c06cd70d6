"""The environment that names a crew."""

import socket

import pytest

from bivlm.crew import ALONE
from bivlm.crew.joining import NEEDED, join
from bivlm.errors import InputError
from crews import environment, in_processes


@pytest.fixture
def setting(monkeypatch):
    """Sets the environment; None takes a variable away."""

    def put(**variables):
        for name in (*NEEDED, "BIVLM_CREW_TIMEOUT"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            if value is not None:
                monkeypatch.setenv(name, value)

    return put


def test_without_an_environment_or_with_one_process_it_is_alone(setting):
    setting()
    assert join() is ALONE
    setting(**environment(0, 1, 29500))
    assert join() is ALONE
    setting(WORLD_SIZE="1")
    assert join() is ALONE


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"MASTER_ADDR": None, "MASTER_PORT": None}, "has RANK, WORLD_SIZE and no MASTER_ADDR, MASTER_PORT"),
        ({"RANK": None}, "no RANK"),
        ({"RANK": "2"}, r"RANK is 2 and WORLD_SIZE 2"),
        ({"RANK": "-1"}, "RANK is -1"),
        ({"RANK": "one"}, "RANK is 'one'"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        ({"BIVLM_CREW_TIMEOUT": "soon"}, "BIVLM_CREW_TIMEOUT is 'soon'; give seconds"),
        ({"BIVLM_CREW_TIMEOUT": "0"}, "give seconds"),
        ({"BIVLM_CREW_TIMEOUT": "nan"}, "give seconds"),
    ],
)
def test_an_environment_that_is_no_crew_is_refused(changed, said, setting):
    setting(**{**environment(0, 2, 29500), **changed})
    with pytest.raises(InputError, match=said):
        join()


def test_a_port_in_use_is_named(setting):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        setting(**environment(0, 2, port), BIVLM_CREW_TIMEOUT="2")
        with pytest.raises(InputError, match=f"port {port} of 127.0.0.1 is in use; give another"):
            join()


@pytest.mark.parametrize("present", [0, 1])
def test_processes_that_do_not_come_together_say_so(present):
    def job(rank):
        if rank != present:
            return 0
        with pytest.raises(InputError, match=f"rank {present} did not find all 2 processes at 127.0.0.1"):
            join()
        return 0

    assert [one.code for one in in_processes(2, job, {"BIVLM_CREW_TIMEOUT": "0.5"})] == [0, 0]
