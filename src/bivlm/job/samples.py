"""The built-in calibration samples, for a job without data of its own; and whether a job has the samples that
it needs: enough of them, and questions with images for the parts that see images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bivlm.calibration.distillation import HELD_OUT as WHOLE_HELD_OUT
from bivlm.calibration.inputs import CalibrationInput
from bivlm.calibration.tuning import HELD_OUT
from bivlm.checkpoint.source import SourceModel
from bivlm.data.general_set import general_samples
from bivlm.errors import InputError
from bivlm.events import SILENT, Events
from bivlm.families import load_processor, tokenizer_of
from bivlm.families.pixels import UNBOUNDED, PixelBounds
from bivlm.job.plan import BlockPlan, Plan
from bivlm.job.recipe import Recipe
from bivlm.job.vision_only import marked_whole
from bivlm.types import PARTS, Sample

NO_DATA = "none"  # in place of data: calibrate on nothing
DATA_FREE = ("rtn-3", "trellis-3:feedback=false")  # presets for it


def built_in(
    source: SourceModel, count: int, seed: int, pixels: PixelBounds = UNBOUNDED, events: Events = SILENT
) -> list[Sample]:
    """Samples of the built-in set for a model, in words that its tokenizer knows; `events` hears that they
    stand in for data of the user's own.
    """
    events.say(
        "no data were given: calibrating on the built-in set. Your own questions are better (--data); --data"
        " none calibrates on nothing"
    )
    return samples_for(source, count, seed, pixels)


def samples_for(source: SourceModel, count: int, seed: int, pixels: PixelBounds = UNBOUNDED) -> list[Sample]:
    """Samples of the built-in set for a model, in words that its tokenizer knows: what a job without data and
    a comparison calibrate on.
    """
    images = source.family.reads_images
    if not source.family.answers:
        return [marked_whole(source.family, sample) for sample in general_samples(count, seed)]
    processor = load_processor(source.folder, images, pixels, source.trust_remote_code)
    tokenizer = tokenizer_of(processor)
    return general_samples(
        count,
        seed,
        images=images,
        tokens=lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"]),
    )


def check_samples(recipe: Recipe, samples: Sequence[Any]) -> None:
    """InputError if a recipe needs more calibration samples than there are."""
    if recipe.needs_data and not samples:
        raise InputError(
            f"recipe {recipe.name} calibrates on data and none was given; leave --data out for the built-in"
            f" set, name your own, or take a preset that needs no data: {' or '.join(DATA_FREE)}"
        )
    if recipe.tuning and len(samples) < HELD_OUT:
        raise InputError(
            f"recipe {recipe.name} tunes on calibration samples of which every {HELD_OUT}th is held out, and"
            f" {len(samples)} are given; give at least {HELD_OUT}, or leave tuning out"
        )
    if recipe.distillation and len(samples) < WHOLE_HELD_OUT:
        raise InputError(
            f"recipe {recipe.name} tunes the whole model on calibration samples of which every"
            f" {WHOLE_HELD_OUT}th is held out, and {len(samples)} are given; give at least {WHOLE_HELD_OUT},"
            " or leave distillation out"
        )


def check_images(source: SourceModel, plan: Plan, inputs: Sequence[CalibrationInput]) -> None:
    """InputError if blocks that only a question with an image reaches are calibrated, and none of the samples
    has an image, or fewer than their tuning needs.
    """
    needed = [block for block in plan.blocks if plan.runs(block) and _sees_images(source, block)]
    parts = {source.family.stacks[block.stack].part for block in needed}
    seeing = sum(sample.has_image for sample in inputs)
    least = HELD_OUT if plan.tuning else 1
    if not needed or seeing >= least:
        return
    named = " and ".join(part for part in PARTS if part in parts)
    places = needed[0].path if len(needed) == 1 else f"{needed[0].path} and others"
    other = "" if "language" in parts else ", or pack the language model alone (--parts language)"
    count = (
        "no calibration sample has" if not seeing else f"{seeing} of {len(inputs)} calibration samples have"
    )
    why = "calibrated on images" if least == 1 else f"tuned on {least} samples with images or more"
    raise InputError(
        f"{count} an image, and {places} ({named}) {'is' if len(needed) == 1 else 'are'} {why}; give"
        f" questions with images{other}"
    )


def check_actions(plan: Plan, inputs: Sequence[CalibrationInput]) -> None:
    """InputError if the plan is about actions, and a sample's answer, given or the model's own, has none."""
    if plan.actions is None:
        return
    for number, sample in enumerate(inputs, start=1):
        if not bool(plan.actions.among(sample.labels).any()):
            first, last = plan.actions.vocabulary - plan.actions.bins, plan.actions.vocabulary - 1
            raise InputError(
                f"calibration sample {number}: its answer has no action token (ids {first} to {last}), and"
                " the recipe is about actions; give instructions in the words of the model's card, with the"
                " actions as answers or without answers"
            )


def _sees_images(source: SourceModel, block: BlockPlan) -> bool:
    """Whether a question without an image leaves out a block: one of another part than the language model, or
    one that reads the image by cross-attention.
    """
    stack = source.family.stacks[block.stack]
    visual = tuple(f".{name}" for name in stack.visual_linears)
    return stack.part != "language" or any(linear.name.endswith(visual) for linear in block.linears)
