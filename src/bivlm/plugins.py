"""Methods, families and pruners from other packages, found by their entry points.

    [project.entry-points."bivlm.quantizers"]      # or bivlm.families, bivlm.pruners
    ternary = "bivlm_ternary:Ternary"

Built-in names are in a plain table; other packages are looked up only for a name that is not in it, or when
all names are listed. If a package cannot be used, asking for its name is an error, and listings show a
warning; nothing else is affected. docs/adding.md shows such a package.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from inspect import isabstract
from typing import Generic, TypeVar

from pydantic.dataclasses import is_pydantic_dataclass

from bivlm.errors import InputError

logger = logging.getLogger(__name__)

T = TypeVar("T")
REPAIR = "repair or uninstall the package"


class Table(Generic[T]):
    """Built-in entries and those of other packages, by name.

    group     the group of entry points, "bivlm.quantizers"
    what      the word for one entry in messages, "quantizer"
    built_in  the entries of this package
    refusal   says what is wrong with another package's entry under a name; empty if nothing is
    """

    def __init__(
        self, group: str, what: str, built_in: Mapping[str, T], refusal: Callable[[str, object], str]
    ) -> None:
        self.group, self.what, self.built_in, self.refusal = group, what, built_in, refusal
        self._loaded: dict[str, T] = {}

    def named(self, name: str) -> T | None:
        """The entry with this name; None if there is none.

        Raises InputError, naming the package, for one that cannot be used.
        """
        if name in self.built_in:
            return self.built_in[name]
        if name not in self._loaded:
            found = self._outside().get(name)
            if found is None:
                return None
            self._loaded[name] = self._load(name, found)
        return self._loaded[name]

    def names(self) -> list[str]:
        """All names that can be used, sorted. Entries that cannot be used are left out with a warning."""
        names = set(self.built_in)
        for name, found in self._outside().items():
            if name in self.built_in:
                logger.warning(
                    "%s offers the %s %r, which bivlm has itself: bivlm's own is used",
                    _packages(found),
                    self.what,
                    name,
                )
                continue
            try:
                self.named(name)
            except InputError as error:
                logger.warning("left out: %s", error)
                continue
            names.add(name)
        return sorted(names)

    def _outside(self) -> dict[str, list[EntryPoint]]:
        found: dict[str, list[EntryPoint]] = {}
        for entry in entry_points(group=self.group):
            found.setdefault(entry.name, []).append(entry)
        return found

    def _load(self, name: str, found: list[EntryPoint]) -> T:
        offer = f"the {self.what} {name!r} of {_packages(found)}"
        if len(found) > 1:
            raise InputError(f"{offer}: only one package can offer it; uninstall the others")
        try:
            loaded = found[0].load()
        except Exception as error:  # whatever another package does when it is imported
            first = str(error).strip().partition("\n")[0]
            reason = f"{type(error).__name__}: {first}"
            raise InputError(f"{offer} cannot be imported ({reason}); {REPAIR}") from error
        if wrong := self.refusal(name, loaded):
            raise InputError(f"{offer} cannot be used: {found[0].value} {wrong}; {REPAIR}")
        return loaded


def subclass_refusal(base: type) -> Callable[[str, object], str]:
    """For tables of classes: an entry must be a subclass of `base`, a pydantic dataclass, with the `name` of
    its entry point.
    """

    def refusal(name: str, loaded: object) -> str:
        if not isinstance(loaded, type) or not issubclass(loaded, base):
            return f"is no subclass of {base.__module__}.{base.__qualname__}"
        if isabstract(loaded):
            return f"lacks {', '.join(sorted(loaded.__abstractmethods__))}"
        if not is_pydantic_dataclass(loaded):
            return "is no pydantic dataclass"
        own = getattr(loaded, "name", None)
        return "" if own == name else f"has the name {own!r}, not that of its entry point"

    return refusal


def _packages(found: Iterable[EntryPoint]) -> str:
    return " and ".join(
        f"the package {entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
        for entry in found
    )
