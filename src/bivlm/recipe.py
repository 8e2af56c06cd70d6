"""A recipe says which quantizer, with which settings, serves which part and linear: rules in a TOML file, the first that matches wins.

name = "bivlm-paper"
description = "Bi-VLM as printed"

[[rule]]
part = "vision"              # vision | projector | language; left out: every part
linears = "*.fc1"            # a glob on the linear's name; left out: every linear
quantizer = "bivlm"          # a name in bivlm.quantizers.QUANTIZERS, or "keep"
settings = { bands = 5 }     # the quantizer's own fields
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from importlib import resources
from inspect import signature
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bivlm.errors import InputError
from bivlm.quantizers import QUANTIZERS, Quantizer
from bivlm.types import PARTS, PartName

KEEP = "keep"


@dataclass(frozen=True)
class Rule:
    """One line of a recipe. `part` None and `linears` "*" match everything; `quantizer` "keep" leaves the linear in full precision."""

    quantizer: str
    part: PartName | None = None
    linears: str = "*"
    settings: Mapping[str, Any] = field(default_factory=dict)

    def matches(self, part: PartName, linear: str) -> bool:
        return self.part in (None, part) and fnmatchcase(linear, self.linears)


@dataclass(frozen=True)
class Recipe:
    """A named list of rules. `to_dict` is what the checkpoint's config.json remembers."""

    name: str
    rules: tuple[Rule, ...]
    description: str = ""

    def rule_for(self, part: PartName, linear: str) -> Rule | None:
        return next((rule for rule in self.rules if rule.matches(part, linear)), None)

    def with_settings(self, settings: Mapping[str, Any]) -> Recipe:
        """Every rule's quantizer with some fields changed: what `--set bands=5` does."""
        if not settings:
            return self
        rules = tuple(rule if rule.quantizer == KEEP else replace(rule, settings={**rule.settings, **settings}) for rule in self.rules)
        changed = ",".join(f"{key}={value}" for key, value in settings.items())
        return replace(self, name=f"{self.name}[{changed}]", rules=rules)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def build_quantizer(rule: Rule) -> Quantizer:
    """The quantizer of a rule; InputError that lists what there is when a name or a value is wrong."""
    if rule.quantizer not in QUANTIZERS:
        raise InputError(f"there is no quantizer {rule.quantizer!r}; there are {', '.join(sorted(QUANTIZERS))} and {KEEP!r}")
    method = QUANTIZERS[rule.quantizer]
    try:
        return method(**rule.settings)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or rule.quantizer
        known = ", ".join(signature(method).parameters)
        raise InputError(f"quantizer {rule.quantizer}: {place}={first['input']!r} is refused: {first['msg']}; its settings are {known}") from error


def preset_names() -> list[str]:
    return sorted(file.name.removesuffix(".toml") for file in resources.files("bivlm").joinpath("recipes").iterdir() if file.name.endswith(".toml"))


def load_recipe(name_or_path: str | Path) -> Recipe:
    """A preset by its name, or a recipe from a TOML file. Every rule is checked before anything starts; InputError says what is wrong."""
    path = Path(name_or_path)
    if path.suffix == ".toml":
        if not path.exists():
            raise InputError(f"there is no recipe file {path}")
        text = path.read_text(encoding="utf-8")
    elif str(name_or_path) in preset_names():
        text = resources.files("bivlm").joinpath("recipes", f"{name_or_path}.toml").read_text(encoding="utf-8")
    else:
        raise InputError(f"there is no preset {str(name_or_path)!r}; there are {', '.join(preset_names())}, or give a file that ends in .toml")
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"recipe {name_or_path} is no valid TOML: {error}") from error
    return parse_recipe(content, str(name_or_path))


def parse_recipe(content: Mapping[str, Any], origin: str) -> Recipe:
    """A recipe from the content of its TOML file; `origin` is what errors call it."""
    unknown = set(content) - {"name", "description", "rule"}
    if unknown:
        raise InputError(f"recipe {origin}: unknown entry {sorted(unknown)[0]!r}; known are name, description and [[rule]]")
    rules = content.get("rule")
    if not isinstance(rules, Sequence) or not rules:
        raise InputError(f"recipe {origin} has no [[rule]]")
    return Recipe(content.get("name", Path(origin).stem), tuple(_parse_rule(rule, origin) for rule in rules), content.get("description", ""))


def _parse_rule(content: Mapping[str, Any], origin: str) -> Rule:
    unknown = set(content) - {"quantizer", "part", "linears", "settings"}
    if unknown:
        raise InputError(f"recipe {origin}: unknown entry {sorted(unknown)[0]!r} in a rule; known are quantizer, part, linears and settings")
    if "quantizer" not in content:
        raise InputError(f"recipe {origin}: a rule names no quantizer; there are {', '.join(sorted(QUANTIZERS))} and {KEEP!r}")
    if content.get("part") not in (None, *PARTS):
        raise InputError(f"recipe {origin}: there is no part {content['part']!r}; parts are {', '.join(PARTS)}")
    rule = Rule(content["quantizer"], content.get("part"), content.get("linears", "*"), content.get("settings", {}))
    if rule.quantizer != KEEP:
        build_quantizer(rule)
    return rule
