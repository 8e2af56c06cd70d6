"""A recipe assigns a quantizer with its settings to every linear: rules in a TOML file; the first rule that
matches wins.

name = "bivlm-paper"
description = "Bi-VLM as printed"
true_bits = 3.5              # target, everything counted; left out: no target
needs_data = true            # whether it calibrates, for the list of presets; checked if it is given
propagation = 0.5            # 0…1: how much of the error of earlier blocks is corrected; left out: 0
tuning = 4                   # epochs of fitting each packed block to its full-precision output; left out: 0
distillation = 1             # rounds of tuning the whole packed model on the full-precision one; left out: 0
budget = 2.0                 # true bits of all packed weights together, allocated by measurement
budget_from = "gradients"    # …or by prediction from gradients; left out: "answers", by measurement
fidelity = "embedding"       # what budget and gradients keep: the last token's vector; left out: "answers"
embeddings = 4               # bits of token embedding and language head; left out: they are kept
calibration_top_k = 8        # experts that see each calibration token; left out: those of its router

[[rule]]
part = "vision"              # vision | projector | language; left out: every part
linears = "*.fc1"            # a glob on the linear's name; left out: every linear
quantizer = "bivlm"          # a method, built in or from another package, or "keep"
settings = { bands = 5 }     # the quantizer's own fields

A preset's name may be followed by settings: "bivlm:bands=5,granularity=group" changes these fields of every
quantizer in the preset, and "trellis-2:tuning=4,propagation=0.5" changes the settings of the recipe itself.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, cast, get_args

from bivlm.errors import InputError, no_such
from bivlm.job.presets import preset_names, preset_text
from bivlm.job.tables import FEWEST_BITS, GRID_BITS, TRELLIS_BITS
from bivlm.quantizers import Quantizer, quantizer_named, quantizer_names
from bivlm.settings import build, parse_settings
from bivlm.types import PARTS, PartName

KEEP = "keep"
MODEL_SETTINGS = (
    *("propagation", "tuning", "distillation", "budget", "budget_from", "embeddings", "calibration_top_k"),
    "fidelity",
)
BudgetFrom = Literal["answers", "gradients"]
Fidelity = Literal["answers", "embedding", "embedding-mean", "action"]
SETTING = re.compile(r"\s*\w+\s*=")  # the beginning of a setting; no preset's name contains "="


@dataclass(frozen=True)
class Rule:
    """One line of a recipe. `part` None and `linears` "*" match everything.

    `quantizer` is a method's name with its `settings`; a `Quantizer`, which has its settings already; or
    "keep", which leaves the linear in full precision.
    """

    quantizer: str | Quantizer
    part: PartName | None = None
    linears: str = "*"
    settings: Mapping[str, Any] = field(default_factory=dict)

    def matches(self, part: PartName, linear: str) -> bool:
        return self.part in (None, part) and fnmatchcase(linear, self.linears)

    @property
    def method(self) -> str:
        """The name of the quantizer, or "keep"."""
        return self.quantizer.name if isinstance(self.quantizer, Quantizer) else self.quantizer

    def with_settings(self, settings: Mapping[str, Any]) -> Rule:
        """The rule with some fields of its quantizer changed. Raises InputError as `build_quantizer` does."""
        if self.quantizer == KEEP or not settings:
            return self
        if isinstance(self.quantizer, Quantizer):
            given = {**asdict(cast(Any, self.quantizer)), **settings}
            kind, name = type(self.quantizer), self.quantizer.name
            return replace(self, quantizer=build(kind, given, f"quantizer {name}"))
        changed = replace(self, settings={**self.settings, **settings})
        build_quantizer(changed)
        return changed

    def to_dict(self) -> dict[str, Any]:
        """As a recipe file has it: the quantizer by its name, with its settings."""
        by_name = not isinstance(self.quantizer, Quantizer)
        settings = dict(self.settings) if by_name else asdict(cast(Any, self.quantizer))
        return {"quantizer": self.method, "part": self.part, "linears": self.linears, "settings": settings}


@dataclass(frozen=True)
class Recipe:
    """A named list of rules. `true_bits` is its target, None if it has no target.

    `propagation`, `tuning`, `distillation`, `budget`, `embeddings` and `calibration_top_k` concern the whole
    model, with any quantizers: calibration/propagation.py, calibration/tuning.py,
    calibration/distillation.py, job/budget/, `TablePlan` of job/plan.py, and calibration/experts.py.
    `fidelity` is what a budget and gradients are about: the next tokens of "answers", or the model as an
    "embedding" model (the last token's vector; "embedding-mean": the mean), or the values of "action" tokens.
    """

    name: str
    rules: tuple[Rule, ...]
    description: str = ""
    true_bits: float | None = None
    propagation: float = 0.0
    tuning: int = 0
    budget: float | None = None
    embeddings: float | None = None
    distillation: int = 0
    budget_from: BudgetFrom = "answers"
    calibration_top_k: int = 0
    fidelity: Fidelity = "answers"

    @property
    def needs_data(self) -> bool:
        return self.watches or any(
            build_quantizer(rule).needs_data for rule in self.rules if rule.quantizer != KEEP
        )

    @property
    def watches(self) -> bool:
        """Whether the full-precision model runs as well."""
        return bool(self.propagation or self.tuning or self.budget or self.distillation)

    def rule_for(self, part: PartName, linear: str) -> Rule | None:
        return next((rule for rule in self.rules if rule.matches(part, linear)), None)

    def with_settings(self, settings: Mapping[str, Any]) -> Recipe:
        """Every rule's quantizer with some fields changed, as by `--set bands=5` and "bivlm:bands=5". The
        recipe's name shows the settings; `true_bits` becomes None.

        Names of MODEL_SETTINGS change the recipe itself. Raises InputError if a quantizer has no such field
        or refuses the value.
        """
        if not settings:
            return self
        own = {name: value for name, value in settings.items() if name in MODEL_SETTINGS}
        fields = {name: value for name, value in settings.items() if name not in MODEL_SETTINGS}
        rules = tuple(rule.with_settings(fields) for rule in self.rules)
        changed = ",".join(
            f"{key}={value if isinstance(value, str) else json.dumps(value)}"
            for key, value in settings.items()
        )
        name = f"{self.name}{',' if ':' in self.name else ':'}{changed}"
        return replace(self, name=name, rules=rules, true_bits=None, **check_model_settings(own, self.name))

    def to_dict(self) -> dict[str, Any]:
        """The recipe as config.json records it."""
        found = {**asdict(replace(self, rules=())), "rules": [rule.to_dict() for rule in self.rules]}
        later = {"calibration_top_k": 0, "fidelity": "answers"}  # records are as before there were these
        return {name: value for name, value in found.items() if name not in later or value != later[name]}


def recipe_of(quantizer: Quantizer) -> Recipe:
    """A recipe with one rule: this quantizer everywhere."""
    return Recipe(quantizer.name, (Rule(quantizer),))


def check_model_settings(settings: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """The settings of MODEL_SETTINGS, each in its range; InputError otherwise."""
    for name, value in settings.items():
        number = type(value) in (int, float) and math.isfinite(value)
        if name == "propagation" and not (number and 0 <= value <= 1):
            raise InputError(f"recipe {origin}: propagation = {value!r}; needs a number from 0 (off) to 1")
        if name == "tuning" and not (type(value) is int and value >= 0):
            raise InputError(f"recipe {origin}: tuning = {value!r}; needs a number of epochs, 0 for none")
        if name == "distillation" and not (type(value) is int and value >= 0):
            raise InputError(
                f"recipe {origin}: distillation = {value!r}; needs a number of rounds through the samples, 0"
                " for none"
            )
        if name == "calibration_top_k" and not (type(value) is int and value >= 0):
            raise InputError(
                f"recipe {origin}: calibration_top_k = {value!r}; needs the number of experts that see each"
                " calibration token, 0 for those that its router chooses"
            )
        if name == "budget" and not (number and value > 0):
            raise InputError(
                f"recipe {origin}: budget = {value!r}; needs the true bits per weight of everything packed"
                " together, above 0"
            )
        if name == "budget_from" and value not in get_args(BudgetFrom):
            raise InputError(
                f"recipe {origin}: budget_from = {value!r}; needs one of {', '.join(get_args(BudgetFrom))}"
            )
        if name == "fidelity" and value not in get_args(Fidelity):
            raise InputError(
                f"recipe {origin}: fidelity = {value!r}; needs one of {', '.join(get_args(Fidelity))}"
            )
        if name == "embeddings" and not (
            number and (FEWEST_BITS <= value <= TRELLIS_BITS or value in GRID_BITS)
        ):
            grid = ", ".join(map(str, GRID_BITS))
            raise InputError(
                f"recipe {origin}: embeddings = {value!r}; needs bits per weight: {FEWEST_BITS:g} …"
                f" {TRELLIS_BITS:g}, or {grid}"
            )
    return dict(settings)


def build_quantizer(rule: Rule) -> Quantizer:
    """The quantizer of a rule; if a name or a value is wrong, InputError that lists the possible ones."""
    if isinstance(rule.quantizer, Quantizer):
        return rule.quantizer
    return build(quantizer_named(rule.quantizer), rule.settings, f"quantizer {rule.quantizer}")


def split_presets(lists: Sequence[str]) -> list[str]:
    """`["a,b", "c:x=1,y=2,d"]` as `["a", "b", "c:x=1,y=2", "d"]`: an entry that begins with NAME= belongs to
    the preset before it.

    Raises InputError if there is no preset, or if a setting comes before the first one.
    """
    presets: list[str] = []
    for item in (item.strip() for text in lists for item in text.split(",")):
        if not SETTING.match(item):
            presets += [item] if item else []
        elif presets:
            presets[-1] += f"{',' if ':' in presets[-1] else ':'}{item}"
        else:
            raise InputError(f"the setting {item!r} stands before any preset; write PRESET:NAME=VALUE")
    if not presets:
        raise InputError(
            f"no preset is given; there are {', '.join(preset_names())}, or give files that end in .toml"
        )
    return presets


def split_settings(name_or_path: str | Path) -> tuple[str, dict[str, Any]]:
    """The name or path of a recipe, and the settings that follow it after a colon ("bivlm:bands=5")."""
    name, colon, settings = str(name_or_path).partition(":")
    if not colon or Path(name_or_path).exists():
        return str(name_or_path), {}
    return name, parse_settings(settings.split(","))


def load_recipe(name_or_path: str | Path) -> Recipe:
    """A preset by its name, or a recipe from a TOML file, either with settings after a colon
    ("bivlm:bands=5").

    Every rule is checked before anything starts; InputError says what is wrong.
    """
    name, settings = split_settings(name_or_path)
    if settings:
        return load_recipe(name).with_settings(settings)
    path = Path(name_or_path)
    if path.suffix == ".toml":
        if not path.exists():
            raise InputError(f"there is no recipe file {path}")
        text = path.read_text(encoding="utf-8")
    elif str(name_or_path) in preset_names():
        text = preset_text(str(name_or_path))
    else:
        raise no_such("preset", str(name_or_path), preset_names(), ", or give a file that ends in .toml")
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"recipe {name_or_path} is no valid TOML: {error}") from error
    return parse_recipe(content, str(name_or_path))


def parse_recipe(content: Mapping[str, Any], origin: str) -> Recipe:
    """A recipe from the content of its TOML file; `origin` is what errors call it."""
    unknown = set(content) - {"name", "description", "true_bits", "needs_data", "rule", *MODEL_SETTINGS}
    if unknown:
        known = ", ".join(("name", "description", "true_bits", "needs_data", *MODEL_SETTINGS))
        raise InputError(
            f"recipe {origin}: unknown entry {sorted(unknown)[0]!r}; known are {known} and [[rule]]"
        )
    true_bits = content.get("true_bits")
    if true_bits is not None and (type(true_bits) not in (int, float) or not 0 < true_bits < math.inf):
        raise InputError(
            f"recipe {origin}: true_bits = {true_bits!r} is no number above 0; write the bits per weight that"
            " it is meant to take"
        )
    rules = content.get("rule")
    if not isinstance(rules, Sequence) or not rules:
        raise InputError(f"recipe {origin} has no [[rule]]")
    parsed = tuple(_parse_rule(rule, origin) for rule in rules)
    walk = check_model_settings({name: content[name] for name in MODEL_SETTINGS if name in content}, origin)
    recipe = Recipe(
        content.get("name", Path(origin).stem), parsed, content.get("description", ""), true_bits, **walk
    )
    said = content.get("needs_data", recipe.needs_data)
    if said is not recipe.needs_data:
        raise InputError(
            f"recipe {origin}: needs_data = {said!r}, but its quantizers and settings"
            f" {'need' if recipe.needs_data else 'need no'} data; correct the entry, or leave it out"
        )
    return recipe


def _parse_rule(content: Mapping[str, Any], origin: str) -> Rule:
    unknown = set(content) - {"quantizer", "part", "linears", "settings"}
    if unknown:
        raise InputError(
            f"recipe {origin}: unknown entry {sorted(unknown)[0]!r} in a rule; known are quantizer, part,"
            " linears and settings"
        )
    if "quantizer" not in content:
        raise InputError(
            f"recipe {origin}: a rule names no quantizer; there are {', '.join(quantizer_names())} and"
            f" {KEEP!r}"
        )
    if content.get("part") not in (None, *PARTS):
        raise InputError(
            f"recipe {origin}: there is no part {content['part']!r}; parts are {', '.join(PARTS)}"
        )
    rule = Rule(
        content["quantizer"], content.get("part"), content.get("linears", "*"), content.get("settings", {})
    )
    if rule.quantizer != KEEP:
        build_quantizer(rule)
    return rule
