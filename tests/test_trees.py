"""Trees of arguments: every tensor is changed, containers are new or the same as promised."""

from __future__ import annotations

from collections import UserDict, namedtuple

import torch
from transformers.modeling_outputs import BaseModelOutput

from bivlm.trees import change_in_place, mapped, same, tensors

Pair = namedtuple("Pair", "left right")


def tree():
    shared = UserDict({"full": (torch.zeros(1), torch.ones(1))})
    return (
        torch.ones(2),
        {"mask": None, "kv": shared, "pair": Pair(torch.zeros(3), 7)},
        [torch.ones(4), "x"],
    )


def test_every_tensor_has_its_place():
    assert [place for place, _ in tensors(tree())] == [
        (0,), (1, "kv", "full", 0), (1, "kv", "full", 1), (1, "pair", 0), (2, 0),
    ]  # fmt: skip


def test_mapped_changes_every_tensor_in_containers_of_its_own():
    before = tree()
    after = mapped(before, lambda value: value + 1)
    assert [int(value[0]) for _, value in tensors(after)] == [2, 1, 2, 1, 2]
    assert [int(value[0]) for _, value in tensors(before)] == [1, 0, 1, 0, 1]
    assert (type(after[1]["kv"]), type(after[1]["pair"]), after[1]["pair"].right) == (UserDict, Pair, 7)
    after[1]["kv"]["sliding"] = torch.zeros(1)
    after[2].append(torch.zeros(1))
    assert (len(before[1]["kv"]), len(before[2])) == (1, 2)


def test_the_same_tensors_in_other_containers():
    before = tree()
    assert all(
        one is other
        for (_, one), (_, other) in zip(tensors(before), tensors(mapped(before, same)), strict=True)
    )


def test_changes_in_place_keep_dictionaries_and_lists():
    before = tree()
    shared, items = before[1]["kv"], before[2]
    after = change_in_place(before, lambda value: value + 1)
    assert after[1]["kv"] is shared
    assert after[2] is items
    assert [int(value[0]) for _, value in tensors(after)] == [2, 1, 2, 1, 2]


def test_outputs_of_transformers_stay_what_they_are():
    output = BaseModelOutput(last_hidden_state=torch.zeros(2), hidden_states=(torch.zeros(1),))
    changed = mapped(output, lambda value: value + 1)
    assert type(changed) is BaseModelOutput
    assert torch.equal(changed.last_hidden_state, torch.ones(2))
    assert torch.equal(changed.hidden_states[0], torch.ones(1))
    assert torch.equal(output.last_hidden_state, torch.zeros(2))
