"""The packed modules of config.json, read strictly, and the guards around transformers."""

import copy
import json
from pathlib import Path

import pytest
import torch
import transformers

import bivlm
from bivlm.checkpoint.guards import check_depth, folder_blamed, memory_explained
from bivlm.checkpoint.modules import read_modules
from bivlm.errors import InputError

GOLDEN = Path(__file__).parents[1] / "golden" / "format_1"


@pytest.fixture
def quantization():
    return copy.deepcopy(json.loads((GOLDEN / "config.json").read_text())["quantization_config"])


def test_it_is_read(quantization):
    modules = read_modules(quantization)
    assert set(modules) == set(quantization["modules"])
    spec = next(iter(modules.values()))
    assert all(isinstance(dtype, torch.dtype) for dtype, _ in spec.tensors.values())
    assert spec.nbytes > 0
    [table] = [one for one in modules.values() if one.kind == "embedding"]
    assert table.shape[0] == 325


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("key", None, "key is missing"),
        ("key", 5, "key is 5"),
        ("key", "no dot at the end", "needs a prefix with a dot"),
        ("format", ["levels"], "format is"),
        ("format", "ternary", "uses the format 'ternary'"),
        ("shape", [1], "shape is"),
        ("shape", [1, 2, 3], "shape is"),
        ("shape", [0, 4], "shape is"),
        ("shape", [-1, 4], "shape is"),
        ("shape", [True, 4], "shape is"),
        ("shape", [2**60, 4], "shape is"),
        ("shape", "44", "shape is"),
        ("settings", [], "settings is"),
        ("tensors", {}, "tensors is"),
        ("tensors", {"codes": 1}, "the tensor 'codes'"),
        ("tensors", {"codes": ["uint8"]}, "the tensor 'codes'"),
        ("tensors", {"codes": ["load", [1]]}, "the tensor 'codes'"),
        ("tensors", {"codes": ["uint8", [1.5]]}, "the tensor 'codes'"),
        ("tensors", {"codes": ["uint8", [-1]]}, "the tensor 'codes'"),
        ("tensors", {"__class__": ["uint8", [1]]}, "the tensor '__class__'"),
        ("tensors", {"a.b": ["uint8", [1]]}, r"the tensor 'a\.b'"),
        ("kind", "expert", "kind is 'expert'"),
        ("head", 3, "head is 3"),
        ("more", 3, "its field 'more' is not known"),
    ],
)
def test_a_wrong_field_is_named_with_its_module(field, value, says, quantization):
    name, spec = next(iter(quantization["modules"].items()))
    spec[field] = value
    with pytest.raises(InputError, match=says) as told:
        read_modules(quantization)
    assert name in str(told.value)
    assert len(str(told.value)) < 400


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format_version": 4}, "format version 4"),
        ({"format_version": "1"}, "format_version is '1'"),
        ({"format_version": 0}, "format_version is 0"),
        ({"format_version": True}, "format_version is True"),
        ({"modules": []}, "modules is"),
        ({"modules": {"x": []}}, "the module x: it is"),
    ],
)
def test_a_wrong_quantization(change, says, quantization):
    with pytest.raises(InputError, match=says):
        read_modules({**quantization, **change})


@pytest.mark.parametrize("whole", [None, 5, [], "bivlm"])
def test_no_quantization(whole):
    with pytest.raises(InputError, match="quantization_config"):
        read_modules(whole)


@pytest.mark.parametrize(
    "change",
    [{"num_hidden_layers": 10**9}, {"max_position_embeddings": 2**40}, {"num_hidden_layers": 10**30}],
)
def test_a_config_that_asks_for_more_than_the_files_hold(change):
    config = transformers.LlamaConfig(**{"num_hidden_layers": 2})
    check_depth(Path("m"), config, [(4, 4)] * 20)
    for name, value in change.items():
        setattr(config, name, value)
    with pytest.raises(InputError, match=next(iter(change))):
        check_depth(Path("m"), config, [(4, 4)] * 20)


def test_one_tensor_may_hold_many_experts():
    config = transformers.LlamaConfig(num_hidden_layers=2, num_experts=64)
    check_depth(Path("m"), config, [(64, 4, 4), (4, 4)])
    with pytest.raises(InputError, match="num_experts is 64, and the files hold 2 tensors"):
        check_depth(Path("m"), config, [(4, 4), (4, 4)])


def test_whatever_a_folder_leads_to_is_one_line():
    for error in (KeyError("x"), TypeError("a\nb"), ZeroDivisionError(), RecursionError("deep")):
        with pytest.raises(InputError, match="cannot be loaded") as told, folder_blamed(Path("m")):
            raise error
        assert "\n" not in str(told.value)
        assert told.value.__cause__ is error
    with pytest.raises(ImportError), folder_blamed(Path("m")):
        raise ImportError("cannot import name 'x'")
    with pytest.raises(InputError, match="mine"), folder_blamed(Path("m")):
        raise InputError("mine")


def test_a_lack_of_memory_is_told_apart():
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: not enough memory: you tried")):
        with pytest.raises(InputError, match="more memory"), folder_blamed(Path("m")):
            raise error
        with pytest.raises(InputError, match="more memory"), memory_explained("quantizing m"):
            raise error
    with pytest.raises(RuntimeError, match="another"), memory_explained("quantizing m"):
        raise RuntimeError("another")


def test_the_folder_is_named_when_loading_fails(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in GOLDEN.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["hidden_size"] = "wide"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=str(folder)):
        bivlm.load(folder)
