"""Data sets of the Hugging Face hub: OWNER/NAME, or OWNER/NAME:CONFIGURATION."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bivlm.data.containers.arrow import quiet, read_errors, rows_of
from bivlm.data.containers.base import Opened, Rows
from bivlm.errors import InputError

HUB_ID = re.compile(r"(?P<name>[\w-][\w.-]*/[\w.-]+)(?::(?P<configuration>[\w.-]+))?\Z")
FILE_SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".zip", ".txt")


def is_hub_id(source: str) -> bool:
    """Whether a text looks like a data set of the hub, and not like a path."""
    found = HUB_ID.match(source)
    return found is not None and not found["name"].lower().endswith(FILE_SUFFIXES)


def open_hub(source: str) -> Opened:
    """A data set of the hub, downloaded into the cache of `datasets` when a split is read. No code of a data
    set is run. Raises InputError if it cannot be reached, or has several configurations and none is named.
    """
    import datasets

    found = HUB_ID.match(source)
    assert found is not None
    name, configuration = found["name"], found["configuration"]
    with hub_errors(source):
        if configuration is None:
            names = datasets.get_dataset_config_names(name)
            if len(names) > 1 and "default" not in names:
                raise InputError(
                    f"{name} has the configurations {', '.join(names[:40])}; give one of them:"
                    f" {name}:{names[0]}"
                )
            configuration = "default" if "default" in names else names[0] if names else None
        splits = datasets.get_dataset_split_names(name, configuration)
    return Opened("hub", {split: _later(name, configuration, split) for split in splits})


def _later(name: str, configuration: str | None, split: str) -> Callable[[], Rows]:
    def rows() -> Rows:
        import datasets

        with hub_errors(name), quiet():
            loaded: Any = datasets.load_dataset(name, configuration, split=split)
        return rows_of(loaded, f"{name}/{split}", Path())

    return rows


def hub_errors(source: str) -> Any:
    """The errors of the hub and of the network, in one line."""
    return read_errors(
        f"there is no folder or file {source}, and the hub gives no data set of that name",
        "correct the path, or check the name, the network and HF_HUB_OFFLINE; private sets need `hf auth"
        " login`",
    )
