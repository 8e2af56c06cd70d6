"""A pruning as text: "attention:layer=2,keep=0.25" has a pruner, its place, the share that stays, and the
pruner's own settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, cast, get_args

from bivlm.errors import InputError
from bivlm.pruning import Pruner, pruner_named
from bivlm.settings import build, parse_settings

Site = Literal["language", "input", "vision"]
Tokens = Literal["image", "text"]
EXAMPLE = "attention:layer=2,keep=0.25"
OWN = ("keep", "layer", "site", "tokens")  # settings that every pruning has


@dataclass(frozen=True)
class Pruning:
    """Which tokens of a prompt stay.

    pruner    the name of a pruner, and `settings` its fields; or, from Python, a Pruner (config.json then
              records its name and fields, so loading the model needs its package)
    keep      share of the tokens that stays, above 0 and at most 1; 1 changes nothing
    site      "language": dropped inside the language model, from block `layer` on, by what enters that block;
              "input": dropped before the language model, by the vision tower's output;
              "vision": inside the vision tower from block `layer` on
    tokens    "image"; or "text", a probe that shows how much the text tokens matter (language only; the last
              token always stays)

    Raises InputError for what does not fit together.
    """

    pruner: str | Pruner
    keep: float
    layer: int = 0
    site: Site = "language"
    tokens: Tokens = "image"
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.pruner, Pruner) and self.settings:
            raise InputError(
                f"{self.name} is given as an object, which has its settings; leave `settings` out"
            )
        if isinstance(self.keep, bool) or not isinstance(self.keep, int | float) or not 0 < self.keep <= 1:
            raise InputError(
                f"keep is {self.keep!r}; it is the share of tokens that stays: above 0 and at most 1"
            )
        if isinstance(self.layer, bool) or not isinstance(self.layer, int) or self.layer < 0:
            raise InputError(
                f"layer is {self.layer!r}; it is the number of the block from which on tokens are dropped: 0"
                " or more"
            )
        for name, value, known in (
            ("site", self.site, get_args(Site)),
            ("tokens", self.tokens, get_args(Tokens)),
        ):
            if value not in known:
                raise InputError(f"{name} is {value!r}; it is one of {', '.join(known)}")
        if self.site == "input" and self.layer:
            raise InputError(
                f"layer is {self.layer} and the site is input, which has no layers; leave one of the two out"
            )
        if self.tokens == "text" and self.site != "language":
            raise InputError(
                f"text tokens are dropped inside the language model only; the site is {self.site}"
            )
        queries = self.build().queries
        if self.site != "language" and queries == "last":
            raise InputError(
                "attending is 'last' and a vision tower has no last token; use attending=all, or the site"
                " language"
            )

    def build(self) -> Pruner:
        """The pruner with its settings; InputError that lists what there is when a name or a value is
        wrong.
        """
        if isinstance(self.pruner, Pruner):
            return self.pruner
        return build(pruner_named(self.pruner), self.settings, f"pruner {self.pruner}", others=OWN)

    @property
    def name(self) -> str:
        """What the pruner is called."""
        return self.pruner.name if isinstance(self.pruner, Pruner) else self.pruner

    @property
    def own_settings(self) -> dict[str, Any]:
        """The pruner's settings in words: what was given, or the fields of an object that are not the
        default.
        """
        if not isinstance(self.pruner, Pruner):
            return dict(self.settings)
        given = {
            one.name: (getattr(self.pruner, one.name), one.default) for one in fields(cast(Any, self.pruner))
        }
        return {name: value for name, (value, default) in given.items() if value != default}

    def to_dict(self) -> dict[str, Any]:
        """The record in config.json; `Pruning(**…)` is the inverse, with the pruner by its name."""
        own = {one.name: getattr(self, one.name) for one in fields(self)}
        return {**own, "pruner": self.name, "settings": self.own_settings}

    def __str__(self) -> str:
        own = {"tokens": self.tokens} if self.tokens != "image" else {}
        where = (
            {"layer": self.layer}
            if self.site == "language"
            else {"site": self.site, **({"layer": self.layer} if self.site == "vision" else {})}
        )
        words = {**where, "keep": self.keep, **own, **self.own_settings}
        return f"{self.name}:{','.join(f'{name}={value}' for name, value in words.items())}"


def sweep(
    pruners: Sequence[str],
    sites: Sequence[str],
    layers: Sequence[int],
    keeps: Sequence[float],
    tokens: str = "image",
) -> list[Pruning]:
    """Every pruner ("attention:attending=last") at every site, from every layer on, with every share: what a
    study measures, each once.

    Raises InputError for what does not fit together.
    """
    prunings: dict[str, Pruning] = {}
    for pruner in pruners:
        name, colon, settings = pruner.partition(":")
        for site in (site.strip() for site in sites):
            for layer in [0] if site == "input" else layers:
                for keep in keeps:
                    where = f"site={site},layer={layer},keep={keep},tokens={tokens}"
                    pruning = parse_pruning(f"{name}:{where}{',' if colon else ''}{settings}")
                    prunings[str(pruning)] = pruning
    return list(prunings.values())


def parse_pruning(text: str | Mapping[str, Any] | Pruning) -> Pruning:
    """ "attention:layer=2,keep=0.25", or a record of config.json, as a Pruning. Raises InputError that says
    how it is written.
    """
    if isinstance(text, Pruning):
        return text
    if isinstance(text, Mapping):
        try:
            return Pruning(**text)
        except TypeError as error:
            raise InputError(
                f"the pruning {dict(text)} cannot be read ({error}); quantize the model again"
            ) from error
    name, _, rest = text.partition(":")
    settings = parse_settings(list(filter(None, (pair.strip() for pair in rest.split(",")))), like=EXAMPLE)
    if "keep" not in settings:
        raise InputError(f"the pruning {text!r} does not say how much stays; write it like {EXAMPLE}")
    own = {key: settings.pop(key) for key in OWN if key in settings}
    return Pruning(name, settings=settings, **cast(Any, own))
