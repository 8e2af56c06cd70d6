"""Several processes that do one job together, on one machine or on many: a crew.

    torchrun --nproc-per-node 4 -m bivlm quantize …        every process has a rank: 0, 1, 2, 3

A process that is alone is a crew of one, ALONE: every exchange hands back what it was given, and
torch.distributed is not imported (joined.py has the rest). Every exchange begins with a word of each rank
whether it is well, so that an error of one ends all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from bivlm.crew.dealing import deal, neighbours
from bivlm.errors import InputError, cut

Value = TypeVar("Value")


class Crew:
    """A crew of one process. Its methods are those of every crew; all of them are to be called by every rank,
    in the same order.

    As a context: its end, or an error in it, is told to the other ranks.
    """

    rank = 0
    size = 1
    error: BaseException | None = None  # with which the crew has ended, whoever's it was

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.tell(error)
        self.leave()

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which speaks and writes."""
        return self.rank == 0

    def owner(self, number: int) -> int:
        """The rank that a sample belongs to, by the sample's number."""
        return number % self.size

    def owns(self, number: int) -> bool:
        """Whether a sample belongs to this rank."""
        return self.owner(number) == self.rank

    def neighbours(self, numbers: Sequence[int]) -> Iterator[list[int]]:
        """Samples by their numbers, ascending, in runs of neighbours that all belong to different ranks."""
        return neighbours(numbers, self.size)

    def deal(self, costs: Sequence[float]) -> list[int]:
        """The rank for each piece of work, by the costs of all."""
        return deal(costs, self.size)

    def agree(self) -> None:
        """Go on when all are here and well. Raises the error of another rank."""

    def gather(self, value: Value) -> list[Value]:
        """The values of all ranks, in the order of the ranks."""
        return list(self.each(value, range(self.size)))

    def each(self, value: Value, order: Sequence[int]) -> Iterator[Value]:
        """The values of the ranks in `order`, one after the other; a value is sent when its turn comes."""
        return iter([value] * len(order))

    def broadcast(self, value: Value, source: int = 0) -> Value:
        """The value of rank `source`; that of the others does not matter."""
        return next(self.each(value, [source]))

    def move(self, value: Value, source: int, to: int) -> Value | None:
        """The value of rank `source` on rank `to`, None on all others; the rest need not call it. Other than
        the exchanges it does not begin with a word of all: call `agree` before a row of moves.
        """
        return value

    def compare(self, facts: Mapping[str, Any]) -> None:
        """InputError, naming who has what, if `facts` (JSON) are not the same on all ranks."""
        if self.size > 1:
            compare([dict(_flat(facts)) for facts in self.gather(facts)])

    def tell(self, error: BaseException) -> None:
        """Let the others know that this rank ends with an error, unless they know."""

    @property
    def speaks(self) -> bool:
        """Whether this rank is to tell people what went wrong."""
        return True

    def told(self) -> None:
        """Say to the others that people know what went wrong."""

    def wait_until_told(self) -> None:
        """Wait, for some seconds at most, until people know what went wrong: a launcher ends all processes as
        soon as one has ended.
        """

    def leave(self) -> None:
        """End the connections; nothing may be exchanged afterwards."""


ALONE = Crew()


class RankGone(InputError):
    """A process of the crew has ended, or is not heard of."""


def compare(facts: Sequence[Mapping[str, Any]]) -> None:
    """InputError if the facts, by name, of all ranks are not the same; it names the first that differs, and
    which rank has what.
    """
    for name in dict.fromkeys(name for own in facts for name in own):
        ranks: dict[str, list[int]] = {}
        for rank, own in enumerate(facts):
            ranks.setdefault(str(own.get(name, "nothing")), []).append(rank)
        if len(ranks) > 1:
            said = "; ".join(f"{cut(value)} ({named(which)})" for value, which in ranks.items())
            raise InputError(f"the processes differ in {name}: {said}; all need the same")


def named(ranks: Sequence[int]) -> str:
    """ "rank 2", or "ranks 0, 3"."""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def _flat(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested objects and lists, each by its path."""
    if isinstance(content, Mapping) and content:
        for key, value in content.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, list | tuple) and content:
        for place, value in enumerate(content):
            yield from _flat(value, f"{name}.{place}")
    else:
        yield name, content
