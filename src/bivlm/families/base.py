"""A family is a declaration: where the blocks of each part are, what stays in full precision, and how a
question becomes the model's inputs.

The walk, the checkpoint and the evaluation read it; none of them knows a model by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor, nn
from transformers import PretrainedConfig

from bivlm.families import inputs as model_inputs
from bivlm.families import marked, text_inputs
from bivlm.families.videos import video_token
from bivlm.types import Clip, PartName, Sample

_IMAGES = re.compile(r"pixel|image")  # in the name of an argument


def last_block(config: PretrainedConfig, count: int) -> Sequence[int]:
    """The default of `Family.tower_outputs`: only the last block's output is read."""
    return (count - 1,)


KINDS_OF_BLOCKS = 2  # classes in one stack (Llama-3.2-Vision has two)


def are_blocks(module: nn.ModuleList | nn.Sequential) -> bool:
    """Whether all entries are blocks with linears, and of few classes; a row of bare linears is no stack."""
    return (
        len({type(one) for one in module}) <= KINDS_OF_BLOCKS
        and all(any(isinstance(inner, nn.Linear) for inner in one.modules()) for one in module)
        and not any(isinstance(one, nn.Linear) for one in module)
    )


def block_paths(model: nn.Module, path: str) -> list[str]:
    """The module paths of the blocks at a path: the entries of a ModuleList, or of a Sequential of blocks
    that are alike; otherwise the one module itself.
    """
    module = model.get_submodule(path)
    if isinstance(module, nn.ModuleList) or (
        isinstance(module, nn.Sequential) and len(module) > 1 and are_blocks(module)
    ):
        return [f"{path}.{index}" for index in range(len(module))]
    return [path]


@dataclass(frozen=True)
class Stack:
    """Blocks that each run once in a forward pass, one after the other; what the model does between them is
    its own affair.

    `path` names a `ModuleList` of blocks (or a `Sequential` of blocks that are alike), or one module that is
    a single block (a projector; it may be a lone `nn.Linear`). `visual_linears` are the linears of a language
    block whose input is visual tokens alone (cross-attention keys and values).
    """

    part: PartName
    path: str
    visual_linears: tuple[str, ...] = ()

    def block_paths(self, model: nn.Module) -> list[str]:
        """The module paths of the blocks."""
        return block_paths(model, self.path)


@dataclass(frozen=True)
class Family:
    """One architecture of transformers, by its `model_type`.

    `stacks` are listed in the order in which the model first comes to them. `full_precision` are glob
    patterns of modules outside the stacks, or of linears inside them, that are not quantized.
    `image_token_id(config)` is the id that marks a visual token in `input_ids`; None for a model whose image
    enters the language model through cross-attention only. `prompt` has the places `{image}`, `{question}`
    and `{bos}`; it is used for processors without a chat template, and without it a chat template is needed.
    `image_place` is what stands in the prompt for each image, with the place `{image}` of the processor's
    token. `vision_types` are the `model_type`s of the vision towers that have these paths; empty if the
    architecture has only one. `variants` are declarations for other towers of the same architecture, whose
    paths differ. `answer_token_type` is the value of an answer's tokens in `token_type_ids`, if the model
    reads them (in most models they mark the image, and 0 is text). `most_images` of one question is None for
    any number. `mixed_batches` is False for a model in which the number of images of one question changes
    what it computes for others in its batch. `mixes_videos` is False for a model that cannot read an image
    and a video in one pass. `auto_class` is the class of transformers that builds the model. `takes` are the
    arguments of the model's `forward`; left out, those of transformers' class. `origin` is "found" for a
    family that was found and not declared.

    For pruning: `patch_tokens(config, inputs, rows, patches)` says which visual token each patch of the
    tower's sequences becomes, (rows, patches) int64 numbered in each row, -1 for none; None if patches and
    tokens do not correspond. `token_grids(config, inputs)` gives rows and columns of each image's tokens from
    the inputs; None if images are squares. `tower_outputs(config, count)` gives the indices of the blocks of
    the last vision stack whose outputs the model reads, other than by the blocks of a projector.
    """

    model_type: str
    stacks: tuple[Stack, ...]
    full_precision: tuple[str, ...]
    image_token_id: Callable[[PretrainedConfig], int | None]
    prompt: str | None = None
    vision_types: tuple[str, ...] = ()
    variants: tuple[Family, ...] = ()
    image_place: str = "{image}"
    answer_token_type: int = 0
    most_images: int | None = None
    mixed_batches: bool = True
    mixes_videos: bool = True
    auto_class: str = "AutoModelForImageTextToText"
    patch_tokens: Callable[[PretrainedConfig, Mapping[str, Tensor], int, int], Tensor] | None = None
    token_grids: Callable[[PretrainedConfig, Mapping[str, Tensor]], list[tuple[int, int]]] | None = None
    tower_outputs: Callable[[PretrainedConfig, int], Sequence[int]] = last_block
    takes: tuple[str, ...] = ()
    origin: str = "declared"

    @property
    def auto_model(self) -> Any:
        """The class of transformers that builds the model, from a config or a folder."""
        return getattr(transformers, self.auto_class)

    @property
    def reads_images(self) -> bool:
        """Whether the model takes images; a language model alone does not. (The code of a folder may offer a
        model that does as a causal language model.)
        """
        return self.auto_class != "AutoModelForCausalLM" or any(map(_IMAGES.search, self.takes))

    @property
    def draws_masks(self) -> bool:
        """Whether the model draws masks, of what boxes or points mark in an image."""
        return self.auto_class == "AutoModelForMaskGeneration"

    @property
    def answers(self) -> bool:
        """Whether the model reads questions, to answer them or, without its head, for their vectors; a
        vision-only model gives masks or features.
        """
        reads = self.auto_class != "AutoModel" or any(stack.part == "language" for stack in self.stacks)
        return reads and not self.draws_masks

    @property
    def arguments(self) -> frozenset[str]:
        """The names of what the model's `forward` takes."""
        return frozenset(self.takes) or model_inputs.forward_arguments(self.auto_class, self.model_type)

    def inputs(
        self,
        processor: Any,
        samples: Sequence[Sample],
        images: Sequence[Image.Image | Clip | Sequence[Image.Image | Clip]],
        config: PretrainedConfig | None = None,
    ) -> dict[str, Tensor]:
        """The model's inputs for a batch of questions, prompts padded on the left and ending where the answer
        begins. `images` has an entry for each sample: its image or opened video, or several in their order.

        Only arguments of the model's `forward` are returned; the processor is not changed, and nothing is
        ever truncated. Raises InputError, naming the sample, if a question cannot be asked, or, given the
        model's `config`, if a prompt is longer than the model's limit.
        """
        if not self.reads_images:
            limit = None if config is None else self.token_limit(config)
            return text_inputs.build(processor, self, samples, limit)
        opened = [(own,) if isinstance(own, Image.Image | Clip) else tuple(own) for own in images]
        if not self.answers:
            return marked.build(processor, self, samples, opened)
        return model_inputs.build(processor, self, samples, opened, config)

    def extend(self, inputs: Mapping[str, Tensor], answers: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """The inputs of prompt and answer, for teacher forcing: `answers` (n, a) are token ids after the
        prompts, `mask` (n, a) is 0 at padding.

        The logits that predict answer token j are those at position t - 1 + j, with t the length of the
        padded prompts. Answers are text: a model that counts its image tokens refuses them in an answer, so
        suppress `visual_tokens` when generating answers for a comparison.
        """
        return model_inputs.extend(inputs, answers, mask, self.answer_token_type)

    def visual_mask(self, config: PretrainedConfig, input_ids: Tensor) -> Tensor:
        """True where a token of the prompt is visual, of an image or a video, in the shape of `input_ids`;
        all False if the image enters through cross-attention.
        """
        mask = torch.zeros_like(input_ids, dtype=torch.bool)
        for token in self.visual_tokens(config):
            mask |= input_ids == token
        return mask

    def visual_tokens(self, config: PretrainedConfig) -> tuple[int, ...]:
        """The ids that mark a visual token: of images, and of videos where they have one of their own; none
        if the image enters through cross-attention.
        """
        image, video = self.image_token_id(config), video_token(config)
        return () if image is None else (image,) if video in (None, image) else (image, video)

    def token_limit(self, config: PretrainedConfig) -> int | None:
        """The most tokens, visual ones included, that the language model has positions for; None if its
        config does not say.
        """
        return getattr(config.get_text_config(), "max_position_embeddings", None)

    def untied_head(self, model: Any) -> frozenset[str]:
        """Names of the language head's parameters, which are not needed before the end of the last block;
        none if the head shares the embedding's weight.
        """
        head = model.get_output_embeddings()
        names = {f"{name}.weight" for name, module in model.named_modules() if module is head}
        return frozenset(names - set(model.all_tied_weights_keys))
