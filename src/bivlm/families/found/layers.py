"""Which blocks of a stack stay in a shrunk config: so few as show every kind of block.

The lists that a config has about its blocks (a type for each, or the numbers of some) are cut along.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig

from bivlm.families.found.fields import (
    DEPTHS,
    FEATURE_LAYERS,
    FIRST_LAYERS,
    INDEX_LIST,
    LAST_LAYERS,
    LAYER_PAIRS,
    ONE_LAYER,
    STAGES,
    TEXT_LAYERS,
)

FEWEST, LONGEST_PREFIX = 3, 8
WHOLE = 6  # a list of so many numbers of blocks keeps its length: widths may depend on it


def set_field(config: PretrainedConfig, name: str, value: Any) -> None:
    """Set a field as it is stored, without checks: other fields of the config change as well."""
    vars(config)[name] = value


@dataclass(frozen=True)
class Depth:
    """The blocks that stay, ascending, of `count` in a stack."""

    count: int
    kept: tuple[int, ...]

    def place(self, index: int) -> int:
        """The new number of a block, or of the last one before it that stays."""
        return max((new for new, old in enumerate(self.kept) if old <= index % self.count), default=0)


def shrink_depths(config: PretrainedConfig, wanted: Sequence[int] = ()) -> Depth | None:
    """Cut the blocks of one config (not those of its parts); `wanted` are numbers of blocks that stay.

    Returns the main depth, or None if the config has no blocks.
    """
    if isinstance(stages := vars(config).get(STAGES), list | tuple):
        set_field(config, STAGES, type(stages)(min(2, number) for number in stages))
    fields = {
        name: value for name, value in vars(config).items() if name in DEPTHS and isinstance(value, int)
    }
    depths = {count: Depth(count, _kept(config, count, wanted)) for count in sorted(set(fields.values()))}
    for name, count in fields.items():
        set_field(config, name, len(depths[count].kept))
    main = next((fields[name] for name in ("num_hidden_layers", "depth", *fields) if name in fields), None)
    for name, value in [*vars(config).items()]:
        _cut_list(config, name, value, depths, main)
    if main is None:
        return None
    _cut_overrides(config, depths[main])
    for name in LAST_LAYERS:
        if isinstance(last := vars(config).get(name), int):
            set_field(config, name, sum(index >= main - last for index in depths[main].kept))
    for name in FIRST_LAYERS:
        if isinstance(first := vars(config).get(name), int):
            set_field(config, name, sum(index < first for index in depths[main].kept))
    for name in ONE_LAYER:
        if isinstance(index := vars(config).get(name), int):
            set_field(config, name, depths[main].place(index))
    return depths[main]


def _cut_overrides(config: PretrainedConfig, depth: Depth) -> None:
    """Fields that single blocks have for themselves, by the number of the block."""
    own = config.to_dict().get("per_layer_config")
    if own:
        kept: dict[int | str, dict[str, Any]] = {
            depth.kept.index(int(old)): fields for old, fields in own.items() if int(old) in depth.kept
        }
        config.per_layer_config = kept


def shrink_references(config: PretrainedConfig, vision: Depth | None, text: Depth | None) -> None:
    """The numbers of blocks that the config around the parts names: hidden states of the vision tower, and
    blocks of the language model.
    """
    for name, value in [*vars(config).items()]:
        if FEATURE_LAYERS.match(name) and vision is not None:
            states = [value] if isinstance(value, int) else value
            if isinstance(states, list | tuple) and all(isinstance(state, int) for state in states):
                cut = [_state(state, vision) for state in states]
                set_field(config, name, cut[0] if isinstance(value, int) else type(states)(cut))
        elif name in TEXT_LAYERS and value and text is not None:
            set_field(config, name, type(value)(text.place(index) for index in value))
        elif name in LAYER_PAIRS and value and vision is not None and text is not None:
            pairs = [[_state(seen, vision), text.place(told)] for seen, told in value]
            set_field(config, name, type(value)(type(value[0])(pair) for pair in pairs))


def feature_layers(config: PretrainedConfig) -> tuple[int, ...]:
    """The hidden states of the vision tower that a config or one of its parts asks for by number: one alone,
    or the only one of a list.
    """
    found = []
    for node in (config, *(one for one in vars(config).values() if isinstance(one, PretrainedConfig))):
        for name, value in vars(node).items():
            states = value if isinstance(value, list | tuple) else [value]
            if FEATURE_LAYERS.match(name) and len(states) == 1 and isinstance(states[0], int):
                found.append(states[0])
    return tuple(found)


def named_layers(config: PretrainedConfig) -> tuple[int, ...]:
    """The blocks of the language model that the config around the parts names."""
    lists = [vars(config).get(name) or () for name in TEXT_LAYERS]
    pairs = [vars(config).get(name) or () for name in LAYER_PAIRS]
    return tuple(index for values in lists for index in values) + tuple(
        pair[1] for values in pairs for pair in values
    )


def _state(state: int, depth: Depth) -> int:
    """A hidden state by its number, which begins at the first block's input or at its output; negative ones
    count from the end.
    """
    count = len(depth.kept)
    return max(state, -count) if state < 0 else min(state, count - 1)


def _is_per_layer(value: Any, count: int) -> bool:
    return isinstance(value, list | tuple) and len(value) == count and count > 1


def _is_index_list(name: str, value: Any, count: int | None) -> bool:
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and count is not None
        and INDEX_LIST.search(name) is not None
        and all(type(index) is int and -count <= index < count for index in value)
    )


def _kept(config: PretrainedConfig, count: int, wanted: Sequence[int]) -> tuple[int, ...]:
    """The first few blocks if they show every kind, otherwise the first of each kind."""
    if count <= FEWEST:
        return tuple(range(count))
    fields = vars(config)
    kinds = []
    for index in range(count):
        listed = [str(value[index]) for value in fields.values() if _is_per_layer(value, count)]
        named = [
            index in {one % count for one in value}
            for name, value in fields.items()
            if _is_index_list(name, value, count) and not _is_per_layer(value, count)
        ]
        last = [index >= count - fields[name] for name in LAST_LAYERS if isinstance(fields.get(name), int)]
        first = [index < fields[name] for name in FIRST_LAYERS if isinstance(fields.get(name), int)]
        kinds.append((*listed, *named, *last, *first))
    must = {index % count for index in wanted} | {
        index % count
        for name, value in fields.items()
        if _is_index_list(name, value, count) and len(value) <= WHOLE and not _is_per_layer(value, count)
        for index in value
    }
    must |= {value for name in ONE_LAYER if isinstance(value := fields.get(name), int) and value < count}
    for length in range(FEWEST, min(LONGEST_PREFIX, count) + 1):
        complete = {*kinds[:length]} == {*kinds} and kinds[length - 1] == kinds[-1]
        if complete and all(index < length for index in must):
            return tuple(range(length))
    return tuple(sorted({kinds.index(kind) for kind in kinds} | must | {0, 1, count - 1}))


def _cut_list(
    config: PretrainedConfig, name: str, value: Any, depths: Mapping[int, Depth], main: int | None
) -> None:
    for count, depth in depths.items():
        if _is_per_layer(value, count) and not _is_index_list(name, value, count):
            set_field(config, name, type(value)(value[index] for index in depth.kept))
            return
    if main is not None and _is_index_list(name, value, main):
        depth = depths[main]
        per_layer = _is_per_layer(value, main) and set(value) <= {0, 1}
        if per_layer:  # flags, not numbers
            set_field(config, name, type(value)(value[index] for index in depth.kept))
        else:
            cut = [depth.kept.index(index % main) for index in value if index % main in depth.kept]
            set_field(config, name, type(value)(cut))
