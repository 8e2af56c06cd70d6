"""Checks a folder against its index: every tensor must be present and have the right checksum."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bivlm.checkpoint.shards import INDEX_NAME, checksum, open_shard, read_entries, read_json
from bivlm.errors import InputError

logger = logging.getLogger(__name__)


def verify_shards(shards: Sequence[Path]) -> None:
    """Compare the shards of one folder with the checksums of its index.

    Raises InputError, naming the tensor, if one is missing or its bytes have changed. A folder without
    checksums (saved again by transformers) is not checked, and the log says so.
    """
    index = shards[0].parent / INDEX_NAME
    expected = read_json(index).get("metadata", {}).get("bivlm", {}).get("crc32") if index.exists() else None
    if expected is None:
        logger.warning("%s has no checksums; it is read without the check", shards[0].parent)
        return
    entries = read_entries(shards)
    missing = [key for key in expected if key not in entries]
    if missing:
        raise InputError(
            f"{shards[0].parent} lacks the tensor {missing[0]} ({len(missing)} are missing); copy or quantize"
            " it again"
        )
    with ThreadPoolExecutor(4) as pool:  # zlib and disk reads release the GIL
        for damaged in pool.map(lambda shard: _first_damaged(shard, expected), shards):
            if damaged:
                raise InputError(f"{damaged}; copy or quantize it again")


def _first_damaged(path: Path, expected: dict[str, str]) -> str | None:
    with open_shard(path) as shard:
        for key in shard.keys():  # noqa: SIM118 - a safetensors file is no dict
            if key not in expected:
                return f"{path} holds the tensor {key}, which its index does not know"
            if checksum(shard.get_tensor(key)) != expected[key]:
                return f"{path}: the bytes of tensor {key} have changed since they were written"
    return None
