"""The state of an unfinished training on the disk: it goes on from there and ends with the same bytes.

    FOLDER/state-0.safetensors, state-1.safetensors    written in turn
    FOLDER/state.json                                  which of them holds, its step, its checksums

The new tensors are complete on the disk before state.json names them, so one state is whole at every moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from bivlm.checkpoint.durable import sync_folder, write_text
from bivlm.checkpoint.seal import text_checksum
from bivlm.checkpoint.shards import checksum, read_entries, read_json, read_tensors, to_json, write_shard
from bivlm.errors import InputError
from bivlm.events import Events

NAME = "state.json"


@dataclass(frozen=True)
class State:
    """A training after `step` steps: `losses` are the held-out losses so far, the start's first, and
    `tensors` the factors, the optimizer's moments, and the best factors.
    """

    step: int
    losses: tuple[float, ...]
    tensors: Mapping[str, Tensor]


class StateFolder:
    """Where the states of one training are kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._last = 1

    def save(self, state: State) -> None:
        """Keep a state in place of the one before the last."""
        self._last = 1 - self._last
        name = f"state-{self._last}.safetensors"
        write_shard(self.folder / name, state.tensors)
        content = {
            "file": name,
            "step": state.step,
            "losses": [loss.hex() for loss in state.losses],
            "crc32": {key: checksum(tensor) for key, tensor in state.tensors.items()},
        }
        content["own_crc32"] = text_checksum(to_json(content))
        sync_folder(self.folder)
        write_text(self.folder / NAME, to_json(content))
        sync_folder(self.folder)

    def load(self, events: Events) -> State | None:
        """The last state; None if there is none. A damaged one counts as none, and a line says so."""
        if not (self.folder / NAME).exists():
            return None
        try:
            content = read_json(self.folder / NAME)
            own = content.pop("own_crc32")
            if own != text_checksum(to_json(content)):
                raise InputError("the record is damaged")
            tensors = read_tensors(read_entries([self.folder / content["file"]]).values())
            if {key: checksum(tensor) for key, tensor in tensors.items()} != content["crc32"]:
                raise InputError("the tensors are damaged")
        except (InputError, KeyError, TypeError):
            events.say(f"the state in {self.folder} is damaged; the training begins again")
            return None
        self._last = int(content["file"] == "state-1.safetensors")
        return State(content["step"], tuple(map(float.fromhex, content["losses"])), tensors)
