"""Exchanges between processes, and how a crew ends."""

import os
import signal
import time

import pytest
import torch

from bivlm.crew import ALONE, RankGone, compare
from bivlm.crew.joining import join
from bivlm.errors import InputError
from crews import in_crew, in_processes


def test_alone_every_exchange_hands_back_what_it_was_given():
    value = torch.ones(2)
    assert ALONE.gather(value) == [value]
    assert ALONE.broadcast(value) is value
    assert ALONE.move(value, 0, 0) is value
    ALONE.agree()
    ALONE.compare({"anything": 1})


def test_exchanges():
    def job(crew):
        own = {"rank": crew.rank, "tensor": torch.full((3, 2), float(crew.rank)).T}
        assert [one["rank"] for one in crew.gather(own)] == [0, 1, 2]
        assert [float(one["tensor"][1, 2]) for one in crew.each(own, [2, 0])] == [2.0, 0.0]
        assert crew.broadcast(crew.rank if crew.rank == 1 else None, 1) == 1
        crew.agree()
        for source in range(3):
            assert crew.move(10 * crew.rank, source, 1) == (10 * source if crew.rank == 1 else None)
        assert [number for number in range(7) if crew.owns(number)] == list(range(crew.rank, 7, 3))
        crew.compare({"a": {"b": [1, 2]}})

    in_crew(3, job)


def ends(size, job, more=None):
    """What `job` raises on every rank."""

    def own(rank):
        try:
            with join() as crew:
                job(crew)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}")
            return 3
        return 0

    return in_processes(size, own, more)


def test_an_error_of_one_rank_ends_all_with_its_message():
    def job(crew):
        if crew.rank == 1:
            raise InputError("there is no such file")
        crew.agree()

    ended = ends(3, job)
    assert [one.code for one in ended] == [3, 3, 3]
    assert ended[0].said == ended[2].said == "InputError: rank 1: there is no such file\n"
    assert ended[1].said == "InputError: there is no such file\n"


@pytest.mark.slow
def test_an_error_between_two_parts_of_an_exchange_ends_all():
    def job(crew):
        for value in crew.each(crew.rank, [0, 1]):
            if crew.rank == 0 and value == 0:
                raise MemoryError("too much")
        crew.agree()

    def own(rank):
        with join() as crew:
            try:
                job(crew)
            except MemoryError as error:  # its own, or what it has heard
                crew.tell(error)
                print(error, flush=True)
                os._exit(4)  # what the others wait for never comes

    ended = in_processes(2, own)
    assert [one.code for one in ended] == [4, 4]
    assert [one.said.splitlines()[-1] for one in ended] == ["too much", "too much"]


def test_a_difference_is_named():
    with pytest.raises(InputError, match=r"differ in b.0: 1 \(ranks 0, 2\); nothing \(rank 1\); all need"):
        compare([{"a": 1, "b.0": 1}, {"a": 1}, {"a": 1, "b.0": 1}])
    ended = ends(2, lambda crew: crew.compare({"recipe": {"bits": [2, crew.rank]}}))
    assert {one.said for one in ended} == {
        "InputError: the processes differ in recipe.bits.1: 0 (rank 0); 1 (rank 1); all need the same\n"
    }


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_dies_is_named_by_the_others(victim):
    def job(crew):
        crew.agree()
        if crew.rank == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        crew.agree()

    ended = ends(3, job)
    assert ended[victim].code == -signal.SIGKILL
    for rank in {0, 1, 2} - {victim}:
        assert ended[rank].code == 3
        line = ended[rank].said.splitlines()[-1]
        assert line.startswith(f"{RankGone.__name__}: rank {victim} ended (killed")
        assert "the same command continues" in line


@pytest.mark.slow
def test_a_rank_that_stands_still_is_given_up_after_the_timeout():
    def own(rank):
        with join() as crew:
            crew.agree()
            if crew.rank == 1:
                if os.fork() == 0:  # it ends its parent, which cannot
                    time.sleep(12)
                    os.kill(os.getppid(), signal.SIGKILL)
                    os._exit(0)
                os.kill(os.getpid(), signal.SIGSTOP)
            crew.agree()

    ended = in_processes(2, own, {"BIVLM_CREW_TIMEOUT": "5"})
    assert ended[0].code == 2
    assert "bivlm: error: rank 1 has not been heard of for 5 s" in ended[0].said


@pytest.mark.slow
def test_a_long_wait_is_not_taken_for_death():
    def job(crew):
        if crew.rank == 1:
            time.sleep(5)
        crew.agree()

    in_crew(2, job, {"BIVLM_CREW_TIMEOUT": "3"})
