"""The request of a job: a recipe with everything that changes it, checked once.

A preset's name may contain settings ("trellis-2:tuning=4"), `settings` has more of them, and `bits`, `effort`
and `embeddings` are short forms of some. A setting that is given twice is refused, so nothing is ignored
silently. The command line and `bivlm.quantize` share this file.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bivlm.errors import InputError, no_such
from bivlm.families import Family
from bivlm.families.pixels import UNBOUNDED, PixelBounds
from bivlm.job.device import CPU, packing_device
from bivlm.job.presets import DEFAULT_PRESET
from bivlm.job.recipe import Recipe, load_recipe, recipe_of, split_settings
from bivlm.pruning.settings import Pruning, parse_pruning
from bivlm.quantizers import Quantizer
from bivlm.types import PARTS, PartName

EFFORTS: dict[str, dict[str, Any]] = {  # how long may it take?
    "fast": {"propagation": 0.0, "tuning": 0},
    "normal": {"propagation": 0.25, "tuning": 0},
    "high": {"propagation": 0.25, "tuning": 4},
    "max": {"propagation": 0.25, "tuning": 0, "distillation": 1},
}


@dataclass(frozen=True)
class Request:
    """A checked request. `pruning` is the packed model's default pruning; `family` declares an architecture
    that is not in the table; `sensitivities` is a file that keeps the measurements of a budget;
    `measurements` a folder that keeps gradients and predictions for other jobs; `merge_adapter` says that a
    LoRA adapter in the model's folder belongs to its weights; `allow_kept_experts` that a model may be packed
    most of whose weights stay, because they are fused experts. `pixels` bounds the images, in calibration and
    as the packed model's default. `trust_remote_code` runs the code of the model's folder where it is needed.
    Blocks run and weights are quantized on `device`.
    """

    recipe: Recipe
    parts: tuple[PartName, ...] = PARTS
    pruning: Pruning | None = None
    family: Family | None = None
    sensitivities: Path | None = None
    measurements: Path | None = None
    merge_adapter: bool = False
    allow_kept_experts: bool = False
    pixels: PixelBounds = UNBOUNDED
    trust_remote_code: bool = False
    device: torch.device = CPU


def make_request(
    recipe: str | Path | Recipe | Quantizer = DEFAULT_PRESET,
    *,
    bits: float | None = None,
    effort: str | None = None,
    embeddings: float | None = None,
    settings: Mapping[str, Any] | None = None,
    parts: Collection[str] = PARTS,
    pruning: str | Mapping[str, Any] | Pruning | None = None,
    family: Family | None = None,
    sensitivities: str | Path | None = None,
    measurements: str | Path | None = None,
    merge_adapter: bool = False,
    allow_kept_experts: bool = False,
    max_pixels: int | None = None,
    min_pixels: int | None = None,
    trust_remote_code: bool = False,
    device: str = "cpu",
) -> Request:
    """Check the arguments and combine them into a request.

    `recipe` is a preset's name, a TOML file, a `Recipe`, or one `Quantizer` for everything. `bits` is a
    budget of true bits per weight for all packed weights; `effort` is "fast", "normal", "high" or "max";
    `embeddings` is the bits of token embedding and language head. `settings` change fields of the recipe's
    quantizers, or of the recipe. `device` is "cpu", or a card on which blocks run and weights are quantized.

    Raises InputError for an argument that is wrong, unknown, or given twice.
    """
    chosen = _recipe(recipe, bits, effort, embeddings, dict(settings or {}))
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise InputError(
            f"there is no part {', '.join(unknown) or '(none given)'}; parts are {', '.join(PARTS)}"
        )
    if sensitivities is not None and chosen.budget is None:
        raise InputError(
            f"sensitivities are kept in {sensitivities}, but nothing is measured without a budget; add bits,"
            " or leave sensitivities out"
        )
    if chosen.budget_from != "answers" and chosen.budget is None:
        raise InputError(
            f"budget_from={chosen.budget_from} says how a budget is dealt out, and there is none; add bits,"
            " or leave budget_from out"
        )
    _check_fidelity(chosen, sensitivities)
    return Request(
        chosen,
        tuple(part for part in PARTS if part in parts),
        None if pruning is None else parse_pruning(pruning),
        family,
        None if sensitivities is None else Path(sensitivities),
        None if measurements is None else Path(measurements),
        merge_adapter,
        allow_kept_experts,
        PixelBounds(max_pixels, min_pixels),
        trust_remote_code,
        packing_device(device),
    )


def _check_fidelity(recipe: Recipe, sensitivities: str | Path | None) -> None:
    """InputError for what is about answers in a recipe that is about something else."""
    if recipe.fidelity == "answers":
        return
    if recipe.distillation and recipe.fidelity != "action":
        raise InputError(
            f"fidelity={recipe.fidelity} keeps vectors, and distillation learns the next tokens; leave one of"
            " them out (--effort max distils)"
        )
    if sensitivities is not None:
        raise InputError(
            f"a file of sensitivities is about answers, and fidelity={recipe.fidelity} is not; leave"
            " sensitivities out"
        )


def _recipe(
    recipe: str | Path | Recipe | Quantizer,
    bits: float | None,
    effort: str | None,
    embeddings: float | None,
    settings: dict[str, Any],
) -> Recipe:
    """The recipe with all changes applied; InputError for a setting that is given twice."""
    own = split_settings(recipe)[1] if isinstance(recipe, str | Path) else {}
    said = {
        f"the recipe {recipe}": own,
        f"effort={effort}": _effort(effort),
        "settings": settings,
        f"bits={bits}": {} if bits is None else {"budget": _plain(bits)},
        f"embeddings={embeddings}": {} if embeddings is None else {"embeddings": _plain(embeddings)},
    }
    by: dict[str, str] = {}
    for who, values in said.items():
        for name in values:
            if name in by:
                raise InputError(f"{name} is given twice, by {by[name]} and by {who}; give it once")
            by[name] = who
    if bits is not None and "bits" in by:
        raise InputError(
            f"bits={bits} is a budget, which deals out the bits of every linear, and {by['bits']} set the"
            " bits of all of them; give one"
        )
    changes = {
        name: value for who, values in said.items() if values is not own for name, value in values.items()
    }
    if isinstance(recipe, Quantizer):
        return recipe_of(recipe).with_settings(changes)
    return (recipe if isinstance(recipe, Recipe) else load_recipe(recipe)).with_settings(changes)


def _effort(effort: str | None) -> dict[str, Any]:
    if effort is None:
        return {}
    if effort not in EFFORTS:
        raise no_such("effort", effort, EFFORTS)
    return EFFORTS[effort]


def _plain(number: float) -> float | int:
    """2.0 as 2, for names and records."""
    return int(number) if isinstance(number, float) and number.is_integer() else number
