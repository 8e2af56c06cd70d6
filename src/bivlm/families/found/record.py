"""A found family as data: what `config.json` of a packed folder holds, so that loading has to find nothing.

    {"auto_class": "AutoModelForImageTextToText",
     "stacks": [{"part": "vision", "path": "model.visual.blocks", "visual_linears": []}, …],
     "full_precision": ["lm_head", …], "image_token_id": 151655, "answer_token_type": 0,
     "patches": {"order": "groups", "fold": 2, "left_out": 0, "from_end": 1,
                 "grids": {"name": "image_grid_thw", "unit": 2}}}

`patches` is there if patches can be dropped in the tower; `grids` is null where images are squares. The
record comes from strangers and is read strictly: names, patterns and small numbers, nothing that is run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import nn

from bivlm.errors import InputError
from bivlm.families.base import Family, Stack
from bivlm.families.found.patches import ORDERS, Patches, PatchTokens, TokenGrids, TowerOutputs
from bivlm.families.found.structure import ImageToken, family_from
from bivlm.types import PARTS

FIELD = "family"  # of the quantization_config
AUTO_CLASSES = ("AutoModelForImageTextToText", "AutoModelForCausalLM")
LONGEST, MOST = 300, 1000  # of a path; of entries in a list
LARGEST_TOKEN = 1 << 31
_PATH = re.compile(r"[A-Za-z_]\w*(\.\w+)*")
_NAME = re.compile(r"[A-Za-z_]\w*")
_PATTERN = re.compile(r"[\w*]+(\.[\w*]+)*")
_FIELDS = {"auto_class", "stacks", "full_precision", "image_token_id", "answer_token_type"}
_TAKES = "takes"  # recorded only for a model whose class is not transformers' own
_PATCHES = "patches"
_PATCH_FIELDS = {"order", "fold", "left_out", "from_end", "grids"}
_STACK_FIELDS = {"part", "path", "visual_linears"}


def to_record(family: Family) -> dict[str, Any]:
    """A found family as JSON."""
    token = family.image_token_id
    assert isinstance(token, ImageToken), "only a found family is recorded"
    record = {
        "auto_class": family.auto_class,
        "stacks": [
            {"part": stack.part, "path": stack.path, "visual_linears": list(stack.visual_linears)}
            for stack in family.stacks
        ],
        "full_precision": list(family.full_precision),
        "image_token_id": token.token,
        "answer_token_type": family.answer_token_type,
        **({_TAKES: list(family.takes)} if family.takes else {}),
    }
    return record if family.patch_tokens is None else {**record, _PATCHES: _patches_record(family)}


def _patches_record(family: Family) -> dict[str, Any]:
    tokens, outputs = family.patch_tokens, family.tower_outputs
    assert isinstance(tokens, PatchTokens), "only a found family is recorded"
    assert isinstance(outputs, TowerOutputs), "only a found family is recorded"
    return {
        "order": tokens.order,
        "fold": tokens.fold,
        "left_out": tokens.left_out,
        "from_end": outputs.from_end,
        "grids": None if tokens.grids is None else asdict(tokens.grids),
    }


def found_line(family: Family) -> str:
    """One line for people: that a family was found, and its stacks."""
    stacks = ", ".join(f"{stack.part} {stack.path}" for stack in family.stacks)
    return (
        f"{family.model_type} has no declaration; its structure was found on a small copy of it: {stacks}"
        " (bivlm inspect MODEL --structure shows more)"
    )


def read_record(model_type: str, record: Any) -> Family:
    """The family that a record describes. InputError, naming the field, for anything else."""
    optional = {name for name in (_TAKES, _PATCHES) if isinstance(record, Mapping) and name in record}
    fields = _object(record, "family", _FIELDS | optional)
    auto_class, token = fields["auto_class"], fields["image_token_id"]
    _need(auto_class in AUTO_CLASSES, "auto_class", auto_class, f"one of {', '.join(AUTO_CLASSES)}")
    _need(token is None or _is_number(token, LARGEST_TOKEN), "image_token_id", token, "a token's number")
    kind = fields["answer_token_type"]
    _need(_is_number(kind, 1), "answer_token_type", kind, "0 or 1")
    stacks = tuple(map(_stack, _list(fields["stacks"], "stacks")))
    _need(bool(stacks), "stacks", fields["stacks"], "at least one stack")
    patterns = _list(fields["full_precision"], "full_precision")
    for pattern in patterns:
        _need(_is_text(pattern, _PATTERN), "full_precision", pattern, "names of modules, with stars")
    takes = _list(fields.get(_TAKES, []), _TAKES)
    for name in takes:
        _need(_is_text(name, _NAME), _TAKES, name, "names of arguments")
    seen = _patches(fields[_PATCHES]) if _PATCHES in fields else None
    return family_from(model_type, auto_class, stacks, tuple(patterns), token, kind, tuple(takes), seen)


def recorded_family(config: Any) -> Family | None:
    """The family that the `quantization_config` of a model's config records; None if it records none."""
    quantization = getattr(config, "quantization_config", None)
    if quantization is not None and not isinstance(quantization, Mapping):
        quantization = quantization.to_dict()
    if not isinstance(quantization, Mapping) or quantization.get("quant_method") != "bivlm":
        return None
    record = quantization.get(FIELD)
    return None if record is None else read_record(config.model_type, record)


def check_paths(model: nn.Module, family: Family) -> None:
    """InputError if a stack of a recorded family is not in the model."""
    names = {name for name, _ in model.named_modules()}
    for stack in family.stacks:
        if stack.path not in names:
            raise InputError(
                f"quantization_config: the family's stack {stack.path} is not in {type(model).__name__};"
                " config.json was changed: get the folder again"
            )
    towers = [stack for stack in family.stacks if stack.part == "vision"]
    outputs = family.tower_outputs
    if isinstance(outputs, TowerOutputs):
        blocks = len(towers[-1].block_paths(model)) if towers else 0
        _need(outputs.from_end <= blocks, "from_end", outputs.from_end, "a block of the tower")


def _patches(given: Any) -> Patches:
    fields, grids = _object(given, _PATCHES, _PATCH_FIELDS), None
    _need(fields["order"] in ORDERS, "order", fields["order"], f"one of {', '.join(ORDERS)}")
    for name, least in (("fold", 1), ("left_out", 0), ("from_end", 1)):
        _need(_is_number(fields[name], MOST, least), name, fields[name], f"a number from {least} to {MOST}")
    if fields["grids"] is not None:
        sizes = _object(fields["grids"], "grids", {"name", "unit"})
        _need(_is_text(sizes["name"], _PATH), "name", sizes["name"], "an input's name")
        _need(_is_number(sizes["unit"], MOST, 1), "unit", sizes["unit"], f"a number from 1 to {MOST}")
        grids = TokenGrids(sizes["name"], sizes["unit"])
    tokens = PatchTokens(fields["order"], fields["fold"], fields["left_out"], grids)
    return Patches(tokens, TowerOutputs(fields["from_end"]))


def _stack(given: Any) -> Stack:
    fields = _object(given, "stacks", _STACK_FIELDS)
    _need(fields["part"] in PARTS, "part", fields["part"], f"one of {', '.join(PARTS)}")
    _need(_is_text(fields["path"], _PATH), "path", fields["path"], "a module's name")
    linears = _list(fields["visual_linears"], "visual_linears")
    for name in linears:
        _need(_is_text(name, _PATH), "visual_linears", name, "names of linears")
    return Stack(part=fields["part"], path=fields["path"], visual_linears=tuple(linears))


def _object(given: Any, name: str, fields: set[str]) -> Mapping[str, Any]:
    _need(isinstance(given, Mapping) and {*given} == fields, name, given, f"the fields {sorted(fields)}")
    return given


def _list(given: Any, name: str) -> list[Any]:
    _need(isinstance(given, list) and len(given) <= MOST, name, given, f"a list of at most {MOST}")
    return given


def _is_text(given: Any, form: re.Pattern[str]) -> bool:
    return isinstance(given, str) and len(given) <= LONGEST and form.fullmatch(given) is not None


def _is_number(given: Any, largest: int, least: int = 0) -> bool:
    return type(given) is int and least <= given <= largest


def _need(condition: bool, name: str, given: Any, wanted: str) -> None:
    if not condition:
        raise InputError(f"quantization_config: family: {name} is {repr(given)[:60]}; needs {wanted}")
