"""The checks of a comparison's arguments before any long work: recipes, parts, questions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from bivlm.errors import InputError
from bivlm.eval.run import check_answers
from bivlm.eval.scoring import BY_REFERENCES
from bivlm.job.recipe import Recipe, load_recipe
from bivlm.studies.compare.folder import run_name
from bivlm.types import PARTS, PartName, Sample


def checked_recipes(presets: Sequence[str | Path | Recipe]) -> list[Recipe]:
    """The recipes, each once. InputError when there is none, or when two that differ would have one name."""
    by_name: dict[str, Recipe] = {}
    for preset in presets:
        recipe = preset if isinstance(preset, Recipe) else load_recipe(preset)
        if by_name.setdefault(run_name(recipe.name, PARTS), recipe) != recipe:
            raise InputError(
                f"two recipes that differ are called {recipe.name!r}; give one of them another name in its"
                " file"
            )
    if not by_name:
        raise InputError("no preset is given; give at least one to compare with full precision")
    return list(by_name.values())


def checked_parts(parts: Collection[str]) -> tuple[PartName, ...]:
    """The parts in the model's order. InputError when there is none, or one that is no part."""
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise InputError(
            f"there is no part {', '.join(map(repr, unknown)) or '(none given)'}; parts are"
            f" {', '.join(PARTS)}"
        )
    return tuple(part for part in PARTS if part in parts)


def check_draws(draws: Sequence[Sequence[str]]) -> None:
    """InputError where two calibration draws, as digests of their samples, are the same: they would say that
    the choice does not matter.
    """
    if len({frozenset(draw) for draw in draws}) < len(draws):
        raise InputError(
            "two calibration draws hold the same samples; give a data set with more of them, or fewer draws"
            " (--seeds)"
        )


def check_samples(
    samples: Sequence[Sample],
    calibration: Sequence[Sample],
    recipes: Sequence[Recipe],
    scorer: str = BY_REFERENCES,
) -> None:
    """InputError without questions, for one without an answer, and where a recipe lacks calibration data."""
    if not samples:
        raise InputError("there are no questions; a comparison needs questions with answers")
    check_answers(samples, scorer)
    needing = next((recipe for recipe in recipes if recipe.needs_data), None)
    if needing is not None and not calibration:
        raise InputError(
            f"preset {needing.name} calibrates on data and there are no calibration samples; give some, or"
            " leave the preset out"
        )
