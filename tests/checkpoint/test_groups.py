"""One entry for many experts: written, read, and refused where it is no list."""

from __future__ import annotations

import pytest

from bivlm.checkpoint.groups import grouped, layer_of_experts, members
from bivlm.checkpoint.modules import experts_are_split, read_modules
from bivlm.errors import InputError

ENTRY = {
    "format": "uniform",
    "shape": [4, 8],
    "settings": {"bits": 2},
    "tensors": {"codes": ["uint8", [4, 2]]},
}


def entries(names, **more):
    return {name: {**ENTRY, **more, "key": f"{name}."} for name in names}


def quantization(modules):
    return {"format_version": 3, "modules": modules}


def test_a_name_stands_for_the_numbers_in_its_brackets():
    assert members("a.3.b") == ["a.3.b"]
    assert members("a.[0-2,5,7-8].b") == [f"a.{number}.b" for number in (0, 1, 2, 5, 7, 8)]


@pytest.mark.parametrize("name", ["a.[].b", "a.[x].b", "a.[1,].b", "a.[2,1].b", "a.[1,1].b", "a.[3-1].b",
                                  "a.[0-1].[0-1]", "a.[0-99999].b", "a.[1", "a.[-1].b"])  # fmt: skip
def test_what_is_no_list_of_numbers_is_refused(name):
    with pytest.raises(ValueError, match=r"a\."):
        members(name)
    with pytest.raises(InputError, match=r"the key|numbers|list of names|stands for|needs a prefix"):
        read_modules(quantization({name: {**ENTRY, "key": f"{name}."}}))


def test_experts_that_differ_in_their_number_alone_share_an_entry():
    place = "layers.0.mlp.experts"
    modules = entries([f"{place}.{number}.down_proj" for number in (10, 2, 0, 1)])
    modules |= entries([f"{place}.{number}.down_proj" for number in (3, 4)], settings={"bits": 3})
    modules |= entries([f"{place}.7.gate_up_proj", "layers.0.mlp.other.1.down_proj", "layers.1"])
    found = grouped(modules, [place])
    assert list(found) == [
        "layers.0.mlp.other.1.down_proj",
        "layers.1",
        f"{place}.[0-2,10].down_proj",
        f"{place}.[3-4].down_proj",
        f"{place}.7.gate_up_proj",
    ]
    read = read_modules(quantization(found))
    assert {name: spec.key for name, spec in read.items()} == {name: f"{name}." for name in modules}
    assert {spec.entry for spec in read.values()} == {*found}
    assert read[f"{place}.4.down_proj"].settings == {"bits": 3}


def test_a_module_that_two_entries_describe_is_refused():
    modules = entries(["e.[0-2].down_proj", "e.[2-3].down_proj"])
    with pytest.raises(InputError, match=r"e\.2\.down_proj is described twice"):
        read_modules(quantization(modules))
    modules = {"e.[0-2].down_proj": {**ENTRY, "key": "e.[0-1].down_proj."}}
    with pytest.raises(InputError, match="its key stands for 2 keys"):
        read_modules(quantization(modules))


def test_the_layer_of_an_expert_is_in_its_name():
    assert layer_of_experts("layers.3.mlp.experts.12.down_proj") == "layers.3.mlp.experts"
    assert layer_of_experts("layers.3.mlp.down_proj") is None
    assert layer_of_experts("blocks.3.q_proj") is None


def test_another_way_to_keep_experts_is_refused():
    assert not experts_are_split({})
    assert experts_are_split({"experts": "split"})
    with pytest.raises(InputError, match="experts is 'joined'; this bivlm knows 'split'"):
        experts_are_split({"experts": "joined"})
