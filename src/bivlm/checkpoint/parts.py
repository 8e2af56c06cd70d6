"""Which part of the model each packed linear is in, as config.json of a packed folder records it, so that no
model has to be built to know it:

    "stacks": {"crc32": "9a3f01c2",
               "paths": [["vision", "model.vision_tower.encoder.layers"], …]}

in the quantization_config. A linear is in the part of the first path that it lies at or below. The checksum
is that of config.json without it: after any edit the record says nothing.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

from bivlm.checkpoint.modules import is_packed
from bivlm.types import PARTS, PartName

FIELD = "stacks"  # of the quantization_config

Places = tuple[tuple[PartName, str], ...]  # parts with the paths of their stacks, in the family's order


def with_places(config: Mapping[str, Any], places: Places) -> dict[str, Any]:
    """The config.json of a packed folder with the record of its parts, in JSON's own types."""
    content = json.loads(json.dumps(config))
    record: dict[str, Any] = {"paths": [list(place) for place in places]}
    content["quantization_config"][FIELD] = record
    record["crc32"] = _checksum(content)
    return content


def recorded_places(config: Mapping[str, Any]) -> Places | None:
    """The record of a config.json; None if it has none, or one of another form, or of another content."""
    record = config["quantization_config"].get(FIELD) if is_packed(config) else None
    if not isinstance(record, Mapping) or record.get("crc32") != _checksum(config):
        return None
    paths = record.get("paths")
    places = tuple(place for one in paths if (place := _place(one))) if isinstance(paths, list) else ()
    return places if isinstance(paths, list) and len(places) == len(paths) else None


def part_of(name: str, places: Places) -> PartName | None:
    """The part that a linear is in, by its name; None if no path leads to it."""
    return next((part for part, path in places if name == path or name.startswith(f"{path}.")), None)


def _place(found: Any) -> tuple[PartName, str] | None:
    if not isinstance(found, list) or len(found) != 2 or not isinstance(found[1], str):
        return None
    return next(((part, found[1]) for part in PARTS if part == found[0]), None)


def _checksum(config: Mapping[str, Any]) -> str:
    """Of a packed config.json without the record's own checksum."""
    quantization = config["quantization_config"]
    record = {name: value for name, value in quantization[FIELD].items() if name != "crc32"}
    content = {**config, "quantization_config": {**quantization, FIELD: record}}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f"{zlib.crc32(text.encode()):08x}"
