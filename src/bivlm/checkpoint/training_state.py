"""The state of an unfinished training on the disk: it goes on from there and ends with the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bivlm.checkpoint.durable import sync_folder
from bivlm.checkpoint.kept import read_kept, write_kept
from bivlm.events import Events

STEP, LOSSES = "step", "losses"
MOMENTS = ("exp_avg", "exp_avg_sq")  # of Adam


@dataclass(frozen=True)
class State:
    """A training after `step` steps: `losses` are the held-out losses so far, the start's first, and
    `tensors` what is trained, the optimizer's moments, and the best so far.
    """

    step: int
    losses: tuple[float, ...]
    tensors: Mapping[str, Tensor]


class StateFile:
    """Where the last state of one training is kept: the file is the last state or the one before it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, state: State) -> None:
        """Keep a state in place of the last one."""
        step = torch.tensor(state.step, dtype=torch.int64, device="cpu")
        losses = torch.tensor(state.losses, dtype=torch.float64, device="cpu")
        write_kept(self.path, {**state.tensors, STEP: step, LOSSES: losses})
        sync_folder(self.path.parent)

    def load(self, events: Events) -> State | None:
        """The last state; None if there is none. A damaged one counts as none, and a line says so."""
        tensors = read_kept(self.path)
        if tensors is None or STEP not in tensors or LOSSES not in tensors:
            if self.path.exists():
                events.say(f"the state in {self.path} is damaged; the training begins again")
            return None
        step, losses = int(tensors.pop(STEP)), tensors.pop(LOSSES).tolist()
        return State(step, tuple(losses), tensors)


def adam_tensors(optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters by name, and the moments that Adam has of them."""
    found = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        known = optimizer.state.get(parameter, {})
        found |= {f"{part}:{name}": known[part] for part in MOMENTS if part in known}
    return found


def restore_adam(optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor], state: State) -> None:
    """Put parameters, and Adam's moments of them, back to a state of `adam_tensors` after its steps."""
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state.tensors[name])
            if f"{MOMENTS[0]}:{name}" in state.tensors:
                optimizer.state[parameter] = {
                    "step": torch.tensor(float(state.step)),
                    **{part: state.tensors[f"{part}:{name}"] for part in MOMENTS},
                }


def part_of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
