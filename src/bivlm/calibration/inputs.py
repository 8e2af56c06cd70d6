"""Calibration samples as inputs of the model: whole prompts, one by one, never truncated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bivlm.checkpoint.source import SourceModel
from bivlm.data.images import open_images
from bivlm.families import load_processor
from bivlm.types import Sample


@dataclass(frozen=True)
class CalibrationInput:
    """One sample as input of the model: its input tensors (batch of one) and the mask (t,) of the visual
    tokens in its prompt.
    """

    tensors: Mapping[str, Tensor]
    visual: Tensor


def calibration_inputs(
    source: SourceModel, samples: Sequence[Sample | CalibrationInput]
) -> list[CalibrationInput]:
    """The samples as inputs of `source`; samples that are inputs already are not changed.

    Raises InputError, naming the sample, if it cannot be read or asked.
    """
    if all(isinstance(sample, CalibrationInput) for sample in samples):
        return [sample for sample in samples if isinstance(sample, CalibrationInput)]
    processor = load_processor(source.folder, source.family.reads_images)
    return [
        sample if isinstance(sample, CalibrationInput) else calibration_input(source, processor, sample)
        for sample in samples
    ]


def calibration_input(source: SourceModel, processor: Any, sample: Sample) -> CalibrationInput:
    """One sample, floating-point tensors in the model's dtype."""
    tensors = source.family.inputs(
        processor, [sample], open_images([sample], source.family.reads_images), source.config
    )
    cast = {
        name: tensor.to(source.dtype) if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }
    return CalibrationInput(cast, source.family.visual_mask(source.config, tensors["input_ids"])[0])
