"""Models whose folders bring their own code, and when that code is run: if the user says so, and transformers
has no class of its own for the model.

    config.json ─ auto_map ─► {"AutoConfig": "configuration_mine.MineConfig",
                               "AutoModelForCausalLM": "modeling_mine.MineForCausalLM"}

`trust_remote_code` says so. Without it no file of a folder is ever imported. Code in another repository
("owner/name--modeling_mine.Mine") is never fetched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers

from bivlm.errors import InputError, cut

FIELD = "auto_map"  # of a JSON file: which classes of the folder's code transformers shall use
OPTION = "--trust-remote-code (trust_remote_code=True)"
AUTO_CLASSES = ("AutoModelForImageTextToText", "AutoModelForCausalLM")  # which bivlm builds models with
# models that need code of their own, by the `model_type` of the originals, and the same models in the form
# that transformers knows, where there is one
CONVERTED: dict[str, str | None] = {
    "deepseek_vl_v2": None,
    "internvl_chat": "OpenGVLab/InternVL3-1B-hf (its folders are named -hf or -HF)",
    "kimi_vl": None,
    "llava_llama": "llava-hf/llava-1.5-7b-hf",
    "llava_mistral": "llava-hf/llava-v1.6-mistral-7b-hf",
    "llava_qwen": "llava-hf/llava-onevision-qwen2-7b-ov-hf",
    "minicpmv": "openbmb/MiniCPM-V-4.6",
    "molmo": None,
    "multi_modality": "deepseek-community/deepseek-vl-1.3b-chat",
    "ovis": "thisisiron/Ovis2-1B-hf",
    "phi3_v": None,
}


def advice(model_type: str, code: bool = False) -> str | None:
    """What to say about an architecture that needs code of its own, and is not trusted with it; None for any
    other. `code`: its folder has some.
    """
    if model_type not in CONVERTED and not code:
        return None
    instead = CONVERTED.get(model_type)
    what = f"the architecture {model_type!r} needs the code of its folder, which bivlm does not run by itself"
    if instead is None:
        return (
            f"{what}; transformers has no class for it: {OPTION} runs the code, if you trust where it is from"
        )
    return (
        f"{what}; take a model of this family that transformers has a class for, such as {instead}, or give"
        f" {OPTION}, which runs the code, if you trust where it is from"
    )


def code_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """The `auto_map` of a JSON file; empty if it has none."""
    found = content.get(FIELD)
    return dict(found) if isinstance(found, Mapping) else {}


def is_needed(content: Mapping[str, Any]) -> bool:
    """Whether the model of a config.json is built with code of its folder: it has some, and transformers has
    no class for the model.
    """
    known, model_type = transformers.CONFIG_MAPPING, str(content.get("model_type"))
    own = model_type in known and known[model_type].__module__.startswith("transformers.")
    return "AutoConfig" in code_of(content) and not own


def check_code(folder: Path, content: Mapping[str, Any]) -> None:
    """InputError if the code that a folder's config.json names cannot be used."""
    code = code_of(content)
    if not any(name in code for name in AUTO_CLASSES):
        raise InputError(
            f"{folder / 'config.json'}: its code offers {cut(', '.join(code), 200)}; bivlm builds models with"
            f" {' or '.join(AUTO_CLASSES)}"
        )
    code_files(folder)


def code_files(folder: Path) -> list[Path]:
    """The files of code that the JSON files of a folder name, with those that they import from the folder,
    sorted; nothing is run. InputError if one is missing, or belongs to another repository.
    """
    found: set[Path] = set()
    for place in sorted(folder.glob("*.json")):
        left = [reference.partition(".")[0] for reference in _references(place)]
        while left:
            path = folder / f"{left.pop()}.py"
            if path not in found:
                found.add(path)
                left += _imported(path, place)
    return sorted(found)


def _imported(path: Path, place: Path) -> list[str]:
    """The modules next to it that a file of code imports, as transformers sees them. `place` names it."""
    from transformers.dynamic_module_utils import get_relative_imports

    try:
        names = get_relative_imports(path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{place}: its code {path.name} is not in the folder, or cannot be read; get the folder again"
        ) from error
    other = next((name for name in names if not name.isidentifier()), None)
    if other is not None:
        raise InputError(
            f"{path} imports .{cut(other, 100)}, which is no file next to it; put all into one folder"
        )
    return names


def _references(place: Path) -> list[str]:
    """What the `auto_map` of a JSON file names, as MODULE.CLASS; a tokenizer may have two classes."""
    text = place.read_text(errors="replace")
    if f'"{FIELD}"' not in text:
        return []
    try:
        content = json.loads(text)
    except ValueError as error:
        raise InputError(f"{place} is no JSON ({error}); get the folder again") from error
    code = code_of(content) if isinstance(content, Mapping) else {}
    given = [one for value in code.values() for one in (value if isinstance(value, list) else [value])]
    references = [one for one in given if one is not None]
    for one in references:
        if isinstance(one, str) and "--" in one:
            raise InputError(
                f"{place}: its code is that of another repository, {cut(one.partition('--')[0], 100)}, which"
                " is not fetched; put its files into the folder, and take the repository's name out of"
                " auto_map"
            )
        if not isinstance(one, str) or re.fullmatch(r"\w+\.\w+", one) is None:
            raise InputError(f"{place}: auto_map has {cut(repr(one), 100)}; needs MODULE.CLASS")
    return references


def read_config(folder: Path, content: Mapping[str, Any], trust_remote_code: bool = False) -> Any:
    """The config of a model folder, as transformers makes it of config.json's `content`.

    Where the model needs the code of its folder (and only with `trust_remote_code`), the code is run, and
    transformers knows the model's class from then on, for configs that were made by it. InputError if the
    code needs a package that is missing.
    """
    if not trust_remote_code or not is_needed(content):
        return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    from transformers.dynamic_module_utils import get_class_from_dynamic_module
    from transformers.models.auto.auto_factory import add_generation_mixin_to_remote_model

    name = next(name for name in AUTO_CLASSES if name in code_of(content))
    try:
        config = transformers.AutoConfig.from_pretrained(
            folder, trust_remote_code=True, local_files_only=True
        )
        found = get_class_from_dynamic_module(code_of(content)[name], folder, local_files_only=True)
    except ImportError as error:
        raise InputError(f"{folder}: its code cannot be imported ({cut(str(error), 300)})") from error
    complete = add_generation_mixin_to_remote_model(found)
    getattr(transformers, name).register(type(config), complete, exist_ok=True)
    return config


def own_class(config: Any) -> tuple[str, type] | None:
    """The name of transformers' class that builds the model of a config that the code of its folder made, and
    the model's class; None for every other config.
    """
    if type(config).__module__.startswith("transformers.") or not code_of(vars(config)):
        return None
    for name in AUTO_CLASSES:
        mapping = getattr(transformers, name)._model_mapping
        if name in code_of(vars(config)) and type(config) in mapping:
            return name, mapping[type(config)]
    return None
