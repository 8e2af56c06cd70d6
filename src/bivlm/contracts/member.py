"""A small model of a family with its processor and prompt: the contracts of families and pruners run on
it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from bivlm.contracts.samples import opened, tiny_samples
from bivlm.families import Family, Stack, family_of, load_processor
from bivlm.types import Sample
from bivlm.zoo import embedded_model


@dataclass(frozen=True)
class Member:
    """A small model of a family. The tests leave it as it is.

    name              what test ids call it
    family            the declaration under test
    source            a model folder, or a function that makes (model, processor) in a dtype: seeded, in
                      evaluation mode, every weight at work
    prompt            how it asks "Is it red?" about the first sample's image, decoded from the token ids; a
                      run of n image tokens is written as token×n
    tied              the language head has the embedding's weight
    fixed_tokens      some visual tokens are the same for every image (a learned end of a row)
    scaled_embedding  its embedding is more than a table: packing it is refused
    needs_image       its processor refuses a question without an image
    drops             tokens can be dropped from its language model; otherwise this is refused
    slow              its tests have the marker `slow`, to be registered where it is used
    """

    name: str
    family: Family
    source: Path | Callable[[torch.dtype], tuple[Any, Any]]
    prompt: str = ""
    tied: bool = False
    fixed_tokens: bool = False
    scaled_embedding: bool = False
    needs_image: bool = False
    drops: bool = True
    slow: bool = False

    def __str__(self) -> str:
        return self.name

    def make(self, dtype: torch.dtype) -> tuple[Any, Any]:
        """Model and processor, made anew."""
        if not isinstance(self.source, Path):
            return self.source(dtype)
        model = transformers.AutoModelForImageTextToText.from_pretrained(self.source, dtype=dtype)
        return model.eval(), load_processor(self.source)

    @cached_property
    def made(self) -> tuple[Any, Any]:
        return self.make(torch.float32)

    @property
    def model(self) -> Any:
        return self.made[0]

    @property
    def processor(self) -> Any:
        return self.made[1]

    @property
    def config(self) -> transformers.PretrainedConfig:
        return self.model.config

    @property
    def crosses(self) -> bool:
        """Whether the image reaches the language model through cross-attention alone."""
        return any(stack.visual_linears for stack in self.family.stacks)

    def takes(self, sample: Sample) -> bool:
        """Whether the model takes a question with as many images."""
        most = self.family.most_images
        return bool(sample.images or not self.needs_image) and (most is None or len(sample.images) <= most)

    def save(self, folder: Path, dtype: torch.dtype) -> Path:
        """Model and processor as `save_pretrained` writes them; returns the folder."""
        for one in self.make(dtype):
            one.save_pretrained(folder)
        return folder

    def ask(self, *numbers: int) -> dict[str, Tensor]:
        """The inputs of some of the three samples, as one batch."""
        return self.inputs([tiny_samples(3)[number] for number in numbers])

    def inputs(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """The inputs of samples with images in memory, as one batch."""
        return self.family.inputs(self.processor, samples, opened(samples), self.config)

    def visual(self, inputs: dict[str, Tensor]) -> Tensor:
        """(batch, t) bool: where the prompt's tokens are visual."""
        return self.family.visual_mask(self.config, inputs["input_ids"])

    def blocks(self, stack: Stack) -> list[nn.Module]:
        return [self.model.get_submodule(path) for path in stack.block_paths(self.model)]

    @property
    def paths(self) -> list[str]:
        """The paths of all blocks, in the order of the declaration."""
        return [path for stack in self.family.stacks for path in stack.block_paths(self.model)]

    def last_stack(self, part: str) -> list[nn.Module]:
        """The blocks of the last stack of a part."""
        return self.blocks([stack for stack in self.family.stacks if stack.part == part][-1])

    @torch.inference_mode()
    def logits(self, inputs: dict[str, Tensor]) -> Tensor:
        """(batch, t, vocabulary), without a cache."""
        return self.model(**inputs, use_cache=False).logits


def embedded_member() -> Member:
    """The model that comes with bivlm, a small LLaVA."""
    return Member("easy-llava", family_of("llava"), embedded_model())
