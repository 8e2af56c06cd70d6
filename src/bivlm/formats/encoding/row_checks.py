"""The rules of docs/format.md for a weight in `rows`, of tensors or numpy arrays."""

from __future__ import annotations

from collections.abc import Mapping

from bivlm.formats.base import PackedTensor
from bivlm.formats.encoding import streams
from bivlm.formats.encoding.arrays import Array
from bivlm.formats.encoding.checks import (
    Layout,
    blaming,
    check_density,
    check_integer,
    check_tensors,
    known_settings,
    require,
)
from bivlm.formats.encoding.part_checks import FORMAT, check_names, check_part, part_of

MOST_CLASSES = 16
DROPPED = "none"  # the format of the class whose rows are dropped
CLASSES = "row_classes"


def check_packed(packed: PackedTensor) -> None:
    """ValueError for anything that `RowsWeight.encode` cannot have written."""
    parts, settings = classes_of(packed), dict(packed.settings)
    kept = {prefix: part for prefix, part in parts.items() if part is not None}
    check_names(packed, list(kept), [CLASSES])
    alphabet, rows = alphabet_of(len(parts)), packed.shape[0]
    layout: Layout = {CLASSES: ("uint8", (streams.symbols_bytes(rows, alphabet),))}
    check_tensors({CLASSES: packed.tensors[CLASSES]}, layout)
    with blaming(f"'{CLASSES}'"):
        streams.check_symbols(packed.tensors[CLASSES][None], alphabet, rows)
        found = counts_of(row_classes_of(packed), MOST_CLASSES)
        need = [int(settings[f"{prefix}rows"]) for prefix in parts]
        require(
            found[: len(need)] == need and sum(need) == rows,
            f"the rows of the classes are {found[: len(need)]}; needs {need}",
        )
    for prefix, part in kept.items():
        check_part(prefix, part)
    check_density(packed.shape, packed.nbytes)


def classes_of(packed: PackedTensor) -> Mapping[str, PackedTensor | None]:
    """The packed weight of each class by its prefix, None for the one that is dropped. Only settings and
    shape are looked at: ValueError where they cannot be those of a weight.
    """
    given = packed.settings if isinstance(packed.settings, Mapping) else {}
    count = given.get("classes")
    known = ["classes"]
    if type(count) is int and 1 <= count <= MOST_CLASSES:
        known += [f"class{k}_{name}" for k in range(count) for name in ("rows", FORMAT)]
    prefixes = tuple(f"class{k}_" for k in range((len(known) - 1) // 2))
    inside = [name for name in given if isinstance(name, str) and name.startswith(prefixes)]
    settings = known_settings(packed, "rows", known, [name for name in inside if prefixes])
    check_integer("classes", count, 1, MOST_CLASSES)
    parts: dict[str, PackedTensor | None] = {}
    for prefix in prefixes:
        rows = settings[f"{prefix}rows"]
        check_integer(f"{prefix}rows", rows, 1, packed.shape[0])
        if settings[f"{prefix}{FORMAT}"] == DROPPED:
            more = [name for name in inside if name.startswith(prefix) and name not in known]
            require(not more, f"'{more[0] if more else ''}' does not belong to a class that is dropped")
            parts[prefix] = None
        else:
            parts[prefix] = part_of(packed, prefix, (rows, packed.shape[1]), "rows")
    check_dropped(len(parts), sum(part is not None for part in parts.values()))
    return parts


def row_classes_of(packed: PackedTensor) -> Array:
    """The class of every row (out,) uint8, of a packed weight whose stream is right."""
    alphabet = alphabet_of(int(packed.settings["classes"]))
    return streams.symbols(packed.tensors[CLASSES][None], alphabet, packed.shape[0])[0]


def alphabet_of(classes: int) -> int:
    """Letters of the stream of the rows' classes: a stream has two at least."""
    return max(2, classes)


def counts_of(row_classes: Array, classes: int) -> list[int]:
    """The rows of every class."""
    return [int((row_classes == k).sum()) for k in range(classes)]


def check_dropped(classes: int, kept: int) -> None:
    require(kept > 0, "every row is dropped; needs a class with a weight")
    require(classes - kept <= 1, f"{classes - kept} classes are dropped; at most one may be")
