"""What a kind of tiny model is, and how one is made: seeded weights, a small tokenizer, a chat template.

The weights are drawn in float32, with unit-variance layers and open gates, so that every part of a model
shows in its logits; other dtypes are those numbers rounded. Vocabularies hold the special tokens of the real
checkpoints and the pieces of a byte-level BPE, so every string has a code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers as T
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from bivlm.families import Family, family_of

TILE, PATCH = 32, 8
TEXT_LIMIT = 512
IMAGE_MARK = re.compile(r"image|img|vision", re.IGNORECASE)
CLIPPED = 3.0
CORPUS = (
    "What color is the square in the picture? Is it red, green or blue? How many circles are there? Answer"
    " yes or no."
)


@dataclass(frozen=True)
class Kind:
    """One kind of tiny model: three blocks in every stack, widths of 64 (vision) and 96 (language).

    model_type         of its family
    special            special tokens in the order of their ids, after "<pad>", "<s>" and "</s>"
    template           before a message's content (image and text), after it, and where the answer begins;
                       None for processors without a chat template
    config             the config, from the tokenizer and what says whether embedding and head are tied
    processor          the family's own processor class, from the tokenizer and the chat template
    prompt             how it asks "Is it red?" about the first image; a run of n image tokens is token×n
    tied               embedding and head share their weight
    named              special tokens that the tokenizer has as attributes, by their names
    adds_bos           the tokenizer puts "<s>" in front by itself
    after_vocabulary   special tokens whose ids come after the vocabulary
    fixed_tokens       some visual tokens are the same for every image
    scaled_embedding   the embedding is more than a table
    needs_image        the processor refuses a question without an image
    drops              tokens can be dropped from its language model (otherwise this is refused)
    video              what stands for a video in the template, if it has a place for one
    slow               tests that run on every kind run on this one only with the marker `slow`
    """

    model_type: str
    special: tuple[str, ...]
    template: tuple[str, str, str] | None
    config: Callable[[T.PreTrainedTokenizerFast, dict[str, bool]], T.PretrainedConfig]
    processor: Callable[[Any, str | None], Any]
    prompt: str
    named: Mapping[str, str] = field(default_factory=dict)
    tied: bool = False
    adds_bos: bool = False
    after_vocabulary: tuple[str, ...] = ()
    fixed_tokens: bool = False
    scaled_embedding: bool = False
    needs_image: bool = False
    drops: bool = True
    video: str | None = None
    slow: bool = False

    @property
    def family(self) -> Family:
        found = family_of(self.model_type)
        return family_of(self.make_config()) if found.variants else found

    def tokenizer(self) -> T.PreTrainedTokenizerFast:
        """A byte-level BPE; it pads on the right unless told otherwise, as many real tokenizers do."""
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=360,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=["<pad>", "<s>", "</s>", *self.special],
            show_progress=False,
        )
        backend.train_from_iterator([CORPUS], trainer)
        if self.adds_bos:
            backend.post_processor = processors.TemplateProcessing(
                single="<s> $A", special_tokens=[("<s>", 1)]
            )
        tokenizer = T.PreTrainedTokenizerFast(
            tokenizer_object=backend,
            pad_token="<pad>",
            bos_token="<s>",
            eos_token="</s>",
            padding_side="right",
            extra_special_tokens=dict(self.named),
        )
        tokenizer.add_tokens([*self.after_vocabulary], special_tokens=True)
        return tokenizer

    def chat_template(self) -> str | None:
        """A Jinja template that renders messages of texts and images in their order, one after the other.
        What stands for an image is the end of `template`'s first text, from the first special token that has
        to do with images.
        """
        if self.template is None:
            return None
        before, after, answer = self.template
        marks = (*self.special, *self.after_vocabulary)
        start = min(before.index(mark) for mark in marks if mark in before and IMAGE_MARK.search(mark))
        once = "<s>" if before.startswith("<s>") else ""
        return (
            once
            + "{% for message in messages %}"
            + before[len(once) : start]
            + "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
            + before[start:].replace("\n", "{{ '\n' }}")
            + (
                ""
                if self.video is None
                else "{% elif part['type'] == 'video' %}" + self.video.replace("\n", "{{ '\n' }}")
            )
            + "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
            + after
            + "{% endfor %}{% if add_generation_prompt %}"
            + answer
            + "{% endif %}"
        )

    def make_config(self) -> T.PretrainedConfig:
        return self.config(self.tokenizer(), {"tie_word_embeddings": self.tied})

    def make_model(self, dtype: torch.dtype) -> Any:
        """A seeded model in evaluation mode: the same numbers every time, rounded to `dtype`; computed
        buffers stay in float32.
        """
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = T.AutoModelForImageTextToText.from_config(self.make_config(), dtype=dtype)
            generator = torch.Generator().manual_seed(1)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.copy_(draw(name, parameter, generator))
                for name, buffer in model.named_buffers():
                    if name.endswith(("_min", "_max")):  # where Gemma 4 clips; stored with the weights
                        buffer.fill_(CLIPPED if name.endswith("_max") else -CLIPPED)
        return model.eval()

    def make_processor(self) -> Any:
        """The family's own processor class with a tiny tokenizer, 32-pixel tiles and a chat template."""
        return self.processor(self.tokenizer(), self.chat_template())


def draw(name: str, parameter: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Weights of variance 1 / in, norms about 1, gates about one half, small biases."""
    noise = torch.randn(parameter.shape, generator=generator)
    if parameter.ndim == 3 and "experts" in name:
        return noise * parameter.shape[-1] ** -0.5
    if parameter.ndim >= 2:
        return noise * parameter[0].numel() ** -0.5
    if "gate" in name.rpartition(".")[2]:
        return 0.5 + 0.1 * noise
    return (1.0 if "norm" in name and name.endswith("weight") else 0.0) + 0.1 * noise


def clip() -> dict[str, Any]:
    return {**tower("clip_vision_model"), "projection_dim": 64}


def siglip(use_head: bool = False) -> dict[str, Any]:
    return {**tower("siglip_vision_model"), "vision_use_head": use_head}


def tower(model_type: str) -> dict[str, Any]:
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    return {"model_type": model_type, **sizes, "image_size": TILE, "patch_size": PATCH}


def text(model_type: str, tokenizer: T.PreTrainedTokenizerFast, **more: Any) -> dict[str, Any]:
    sizes = {
        "hidden_size": 96,
        "intermediate_size": 160,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    ids = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    return {
        "model_type": model_type,
        **sizes,
        **ids,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": TEXT_LIMIT,
        **more,
    }
