"""What a job on a vision-only model cannot do, and what it calibrates on without data."""

from __future__ import annotations

from dataclasses import replace

from bivlm.data.images import open_image
from bivlm.errors import InputError
from bivlm.families import Family
from bivlm.families.marked import whole_image
from bivlm.job.recipe import KEEP, build_quantizer
from bivlm.job.request import Request
from bivlm.types import Sample, Video


def check_request(family: Family, request: Request) -> None:
    """InputError for a request that measures answers, of a model that gives none."""
    if family.answers:
        return
    recipe, gives = request.recipe, "masks" if family.draws_masks else "features"
    fisher = any(build_quantizer(rule).needs_fisher for rule in recipe.rules if rule.quantizer != KEEP)
    asked = {
        "a budget (--bits) is dealt out": recipe.budget is not None,
        "the whole model (--effort max) is tuned": bool(recipe.distillation),
        "Fisher information (SqueezeLLM) is measured": fisher,
        "embeddings are packed": recipe.embeddings is not None,
        "visual tokens are dropped (--prune)": request.pruning is not None,
    }
    for what, wanted in asked.items():
        if wanted:
            raise InputError(
                f"{what} for models that answer questions, and a {family.model_type} model gives {gives};"
                " leave it out, or take another preset, such as trellis-2"
            )


def marked_whole(family: Family, sample: Sample) -> Sample:
    """A sample of the built-in set for a vision-only model: its first image, and the whole of it as a box if
    masks are drawn (the encoder does not see boxes).
    """
    first = sample.visuals[0]
    assert not isinstance(first, Video), sample.origin
    marks = whole_image(open_image(first, sample.origin).size) if family.draws_masks else None
    return replace(sample, image=first, question="", answers=(), places=(), turns=(), marks=marks)
