"""A small copy of a config: few blocks, small widths, few experts; the geometry of images and the kinds of
blocks stay.

The model that it describes has the same modules as the large one, apart from the number of blocks, and takes
the same inputs. It is what the structure of a large model is found on.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig

from bivlm.families.found.fields import (
    BASE_WIDTHS,
    HEAD_WIDTHS,
    HEADS,
    OTHER_WIDTHS,
    SMALL,
    TOKEN,
    VOCABULARY,
)
from bivlm.families.found.layers import named_layers, set_field, shrink_depths, shrink_references

LEAST, FREE = 64, 96  # width of a residual stream without heads; widths that depend on no other
LARGEST_RATIO = 16


@dataclass(frozen=True)
class Shrunk:
    """A small config, and what its token ids are in the large one, if the vocabulary was cut."""

    config: PretrainedConfig
    tokens: Mapping[int, int]

    def original(self, token: int | None) -> int | None:
        return token if token is None else self.tokens.get(token, token)


def nodes(config: PretrainedConfig) -> Iterator[PretrainedConfig]:
    """A config and the configs of all its parts."""
    yield config
    for value in vars(config).values():
        if isinstance(value, PretrainedConfig):
            yield from nodes(value)


def shrink(config: PretrainedConfig, *, widths: bool = True, vocabulary: int | None = None) -> Shrunk:
    """A small copy of `config`, which does not change. `vocabulary` cuts the number of tokens as well, and
    gives special tokens new ids.
    """
    small = copy.deepcopy(config)
    text = small.get_text_config()
    depths = {
        id(node): shrink_depths(node, named_layers(small) if node is text else ()) for node in nodes(small)
    }
    vision = vars(small).get("vision_config")
    tower = depths.get(id(vision)) if isinstance(vision, PretrainedConfig) else None
    for node in nodes(small):
        shrink_references(node, tower, depths[id(text)])
        for name, most in SMALL.items():
            if isinstance(value := vars(node).get(name), int):
                set_field(node, name, min(value, most))
    if widths:
        _shrink_widths(small)
    return Shrunk(small, {} if vocabulary is None else _cut_vocabulary(small, vocabulary))


def _shrink_widths(config: PretrainedConfig) -> None:
    """Every width of one value becomes the same new value, so that what fitted together still does."""
    new = _base_widths(config)
    for node in nodes(config):
        _set_heads(node, new)
    bases = dict(new)
    for node in nodes(config):
        own = [width for name in BASE_WIDTHS if type(width := vars(node).get(name)) is int]
        for name, value in vars(node).items():
            if OTHER_WIDTHS.match(name) and name not in BASE_WIDTHS:
                for width in [value] if isinstance(value, int) else value or ():
                    if type(width) is int and width not in new:
                        new[width] = _other_width(width, own, bases)
    for node in nodes(config):
        for name, value in [*vars(node).items()]:
            if name in BASE_WIDTHS or OTHER_WIDTHS.match(name):
                if type(value) is int:
                    set_field(node, name, new.get(value, value))
                elif isinstance(value, list | tuple) and name not in BASE_WIDTHS:
                    set_field(node, name, type(value)(new.get(width, width) for width in value))


def _head_width(node: PretrainedConfig, heads: str, width: int) -> int | None:
    """The width of a head if the heads fill the residual stream; None if they do not."""
    count = vars(node).get(heads)
    declared = next((vars(node)[name] for name in HEAD_WIDTHS if vars(node).get(name)), None)
    if type(count) is not int or count == 0 or width % count:
        return None
    return width // count if declared in (None, width // count) else None


def _base_widths(config: PretrainedConfig) -> dict[int, int]:
    """A new value for every width of a residual stream: two heads or more."""
    divisors: dict[int, set[int]] = {}
    for node in nodes(config):
        for name in BASE_WIDTHS:
            width = vars(node).get(name)
            if type(width) is int and width > 0:
                found = divisors.setdefault(width, set())
                found |= {size for heads in HEADS if (size := _head_width(node, heads, width)) is not None}
    new = {}
    for width, sizes in divisors.items():
        least = math.lcm(*sizes) if sizes else LEAST
        times = 1 if least >= 2 * max(sizes, default=0) else 2
        while least * times < LEAST:
            times += 1
        new[width] = min(width, least * times)
    return new


def _set_heads(node: PretrainedConfig, new: Mapping[int, int]) -> None:
    width = next((vars(node)[name] for name in BASE_WIDTHS if type(vars(node).get(name)) is int), None)
    for name, pairs in HEADS.items():
        count = vars(node).get(name)
        if type(count) is not int or count <= 1:
            continue
        size = None if width is None else _head_width(node, name, width)
        heads = new[width] // size if size is not None and width is not None else min(count, 2)
        for pair in pairs:
            shared = vars(node).get(pair)
            if type(shared) is int and shared > 0:
                set_field(node, pair, heads if shared >= count else math.gcd(heads, max(1, heads // 2)))
        set_field(node, name, heads)


def _other_width(width: int, own: list[int], bases: Mapping[int, int]) -> int:
    """A multiple of a residual stream stays one; every other width is free."""
    for base in [*own, *bases]:
        if base and width % base == 0 and width // base <= LARGEST_RATIO:
            return width // base * bases[base]
    return min(width, FREE)


def _cut_vocabulary(config: PretrainedConfig, size: int) -> dict[int, int]:
    """Cut every vocabulary to `size`, and move the special tokens into it. Returns old ids by new ones."""
    moved: dict[int, int] = {}
    first = size - size // 4

    def place(token: Any) -> Any:
        if type(token) is not int or token < first:
            return token
        return moved.setdefault(token, first + len(moved))

    for node in nodes(config):
        for name, value in [*vars(node).items()]:
            if VOCABULARY.match(name) and type(value) is int:
                set_field(node, name, min(value, size))
            elif TOKEN.search(name):
                new = type(value)(map(place, value)) if isinstance(value, list | tuple) else place(value)
                set_field(node, name, new)
    return {new: old for old, new in moved.items()}
