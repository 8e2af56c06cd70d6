"""Tensors that long work keeps: what is damaged counts as not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bivlm.checkpoint.kept import read_kept, write_kept
from bivlm.checkpoint.training_state import State, StateFile, adam_tensors, restore_adam
from told import Told

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(7), "none": torch.zeros(0)}


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "made" / "kept.safetensors"
    assert read_kept(path) is None
    write_kept(path, TENSORS)
    found = read_kept(path)
    assert found is not None
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


@pytest.mark.parametrize("damage", ["bit", "cut", "empty", "other"])
def test_what_is_damaged_is_not_there(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "kept.safetensors"
    write_kept(path, TENSORS)
    content = bytearray(path.read_bytes())
    if damage == "bit":
        content[-9] ^= 1
    path.write_bytes({"cut": content[:-4], "empty": b"", "other": b"no file of tensors"}.get(damage, content))
    assert read_kept(path) is None


def test_a_training_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    def steps(parameter: torch.Tensor, optimizer: torch.optim.Optimizer, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            parameter.square().sum().backward()
            optimizer.step()

    whole = torch.ones(4, requires_grad=True)
    steps(whole, torch.optim.Adam([whole], lr=0.1), 7)
    first = torch.ones(4, requires_grad=True)
    optimizer, file = torch.optim.Adam([first], lr=0.1), StateFile(tmp_path / "state.safetensors")
    assert file.load(Told()) is None
    steps(first, optimizer, 3)
    file.save(State(3, (0.1, 0.2), adam_tensors(optimizer, {"p": first})))
    again = torch.zeros(4, requires_grad=True)
    resumed = torch.optim.Adam([again], lr=0.1)
    state = file.load(Told())
    assert state is not None
    assert (state.step, state.losses) == (3, (0.1, 0.2))
    restore_adam(resumed, {"p": again}, state)
    steps(again, resumed, 4)
    assert torch.equal(again, whole)
