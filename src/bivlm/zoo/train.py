# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# (transformers types token ids and configs more widely than they are here)
"""Trains the embedded model: a LLaVA of 7.6 million parameters that answers questions about easy-VQA images.

    python -m bivlm.zoo.train OUT      under an hour on two cores; the same seed gives the same weights

The architecture is transformers' own `LlavaForConditionalGeneration`: a SigLIP vision tower (64 x 64 pixels
in patches of 8: 64 visual tokens), a two-layer projector and a Llama language model, all from scratch: first
the tower alone learns to name shape and colour (a linear head that is thrown away), then all three learn to
answer. Only the answer tokens carry loss.

What makes it fit: several questions of an image share one sequence. The image stands once at the front, each
question sees the image and itself alone (a block mask, and positions that restart after the image), so that
four questions cost little more than one.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import transformers
import typer
from PIL import Image
from rich.progress import track
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from bivlm.data.builtin import easy_vqa
from bivlm.types import Sample

IMAGE_SIZE, PATCH_SIZE, VOCABULARY = 64, 8, 512
PIXEL_MEAN, PIXEL_STD = (
    0.95,
    0.25,
)  # the backgrounds lie near 0.95: taken as zero, the shape stands out and is learned in a tenth of the steps
SHAPES = ("circle", "rectangle", "triangle")
COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
VISUAL_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}USER: {% else %} ASSISTANT: {% endif %}{%"
    " for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text']"
    " }}{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
IGNORED = -100  # the label that torch's cross entropy leaves out


def build_tokenizer(texts: list[str]) -> transformers.PreTrainedTokenizerFast:
    """A byte-level BPE of 512 tokens trained on `texts`: every string has a code, every answer of the set is
    one token.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=special
    )
    tokenizer.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
    )


def build_processor(tokenizer: transformers.PreTrainedTokenizerFast) -> transformers.LlavaProcessor:
    """Pixels at 64 x 64, one image token per patch, and the chat template of LLaVA-1.5."""
    image_processor = transformers.SiglipImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3,
        do_convert_rgb=True,
    )
    return transformers.LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    )


def build_model(
    tokenizer: transformers.PreTrainedTokenizerFast,
) -> transformers.LlavaForConditionalGeneration:
    """The untrained model: 6 vision blocks of width 192, projector 192 → 256 → 256, 8 language blocks of
    width 256; embedding and head are tied.
    """
    vision = transformers.SiglipVisionConfig(
        hidden_size=192,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=6,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        vision_use_head=False,
    )
    text = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    config = transformers.LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image_token_id,
        image_token_id=image_token_id,
        image_seq_length=VISUAL_TOKENS,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )
    return transformers.LlavaForConditionalGeneration(config)


@dataclass(frozen=True)
class Picture:
    """One training image (3, 64, 64) with the token ids of its questions and answers; `shape` and `colour`
    are what its answers give away.
    """

    pixels: Tensor
    shape: int  # index into SHAPES, IGNORED when no answer tells
    colour: int
    questions: list[list[int]]  # with the text that asks for the answer, without the answer
    answers: list[list[int]]  # with the end-of-sequence token


def read_pixels(image: Path) -> Tensor:
    with Image.open(image) as file:
        pixels = torch.from_numpy(np.array(file.convert("RGB"), dtype=np.float32) / 255).permute(2, 0, 1)
    return (pixels - PIXEL_MEAN) / PIXEL_STD


def told_by_answers(samples: list[Sample], words: tuple[str, ...]) -> int:
    """Which of `words` is true of an image by its answers: "red", or "yes" to "is there a red shape?", or
    "no" to "is no red shape present?".
    """
    for sample in samples:
        answer, denied = sample.answers[0], " no " in sample.question or " not " in sample.question
        for index, word in enumerate(words):
            if answer == word or (
                word in sample.question.rstrip("?").split()
                and (answer == "yes") != denied
                and answer in ("yes", "no")
            ):
                return index
    return IGNORED


def group_by_image(samples: list[Sample], tokenizer: transformers.PreTrainedTokenizerFast) -> list[Picture]:
    by_image: dict[Path, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_image[sample.image].append(sample)
    end = [tokenizer.eos_token_id]

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids

    return [
        Picture(
            pixels=read_pixels(image),
            shape=told_by_answers(group, SHAPES),
            colour=told_by_answers(group, COLOURS),
            questions=[encode(f"{sample.question} ASSISTANT:") for sample in group],
            answers=[encode(f" {sample.answers[0]}") + end for sample in group],
        )
        for image, group in by_image.items()
    ]


def augment(pixels: Tensor, rng: np.random.Generator, reach: int = 12) -> Tensor:
    """Mirror, turn and shift: none of them changes an answer. The border is repeated where the shift uncovers
    it.
    """
    if rng.random() < 0.5:
        pixels = pixels.flip(2)
    if rng.random() < 0.3:
        pixels = pixels.rot90(int(rng.integers(1, 4)), (1, 2))
    padded = torch.nn.functional.pad(pixels[None], (reach,) * 4, mode="replicate")[0]
    top, left = rng.integers(0, 2 * reach + 1, size=2)
    return padded[:, top : top + IMAGE_SIZE, left : left + IMAGE_SIZE]


def choose_questions(picture: Picture, count: int, rng: np.random.Generator) -> Picture:
    chosen = rng.permutation(len(picture.questions))[:count]
    return replace(
        picture,
        questions=[picture.questions[i] for i in chosen],
        answers=[picture.answers[i] for i in chosen],
    )


def collate(
    pictures: list[Picture], prefix: list[int], rng: np.random.Generator, pad: int
) -> dict[str, Tensor]:
    """One batch: (n, t) ids, positions and labels, and the additive mask (n, 1, t, t) that hides the
    questions of an image from each other.
    """
    width = max(
        len(prefix) + sum(len(q) + len(a) for q, a in zip(p.questions, p.answers, strict=True))
        for p in pictures
    )
    ids = torch.full((len(pictures), width), pad)
    positions, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    segment = torch.full_like(ids, -1)  # -1 padding, 0 the image and the words before it, 1… the questions
    for row, picture in enumerate(pictures):
        ids[row, : len(prefix)], segment[row, : len(prefix)] = torch.tensor(prefix), 0
        positions[row, : len(prefix)] = torch.arange(len(prefix))
        start = len(prefix)
        for number, (question, answer) in enumerate(zip(picture.questions, picture.answers, strict=True), 1):
            here = slice(start, start + len(question) + len(answer))
            ids[row, here], segment[row, here] = torch.tensor(question + answer), number
            positions[row, here] = len(prefix) + torch.arange(len(question) + len(answer))
            labels[row, start + len(question) : here.stop] = torch.tensor(answer)
            start = here.stop
    same = (segment[:, :, None] == segment[:, None, :]) | (segment[:, None, :] == 0)
    visible = same & torch.ones(width, width, dtype=torch.bool).tril()
    return {
        "input_ids": ids,
        "position_ids": positions,
        "attention_mask": torch.where(visible, 0.0, -1e9)[:, None],
        "labels": labels,
        "pixel_values": torch.stack([augment(p.pixels, rng) for p in pictures]),
    }


def answer_loss(model: transformers.LlavaForConditionalGeneration, batch: dict[str, Tensor]) -> Tensor:
    labels = batch.pop("labels")[:, 1:]
    hidden = model.model(**batch, use_cache=False).last_hidden_state[:, :-1]
    kept = labels != IGNORED
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[kept]).float(), labels[kept])


def learning_rate(step: int, steps: int, peak: float, warmup: int = 100) -> float:
    """Linear warm-up, then a cosine down to 1 % of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))))


def take_step(loss: Tensor, optimizer: torch.optim.Optimizer, rate: float) -> float:
    """One update at a learning rate; returns the loss."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def build_optimizer(modules: list[torch.nn.Module]) -> torch.optim.Optimizer:
    """AdamW; weight decay on matrices only."""
    parameters = list({id(p): p for module in modules for p in module.parameters()}.values())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.05},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


def warm_up_vision(
    tower: torch.nn.Module, pictures: list[Picture], steps: int, batch_size: int, rng: np.random.Generator
) -> None:
    """Teach the tower shape and colour through a linear head on its mean output; the head is dropped
    afterwards.
    """
    head = torch.nn.Linear(tower.config.hidden_size, len(SHAPES) + len(COLOURS))
    optimizer, correct = build_optimizer([tower, head]), 0.0
    for step in track(range(steps), "vision warm-up"):
        chosen = [pictures[i] for i in rng.integers(0, len(pictures), batch_size)]
        with torch.autocast("cpu", torch.bfloat16):
            scores = head(
                tower(torch.stack([augment(p.pixels, rng) for p in chosen])).last_hidden_state.mean(1)
            ).float()
        shapes, colours = torch.tensor([p.shape for p in chosen]), torch.tensor([p.colour for p in chosen])
        shape_scores, colour_scores = scores.split([len(SHAPES), len(COLOURS)], dim=1)
        loss = torch.nn.functional.cross_entropy(shape_scores, shapes) + torch.nn.functional.cross_entropy(
            colour_scores, colours
        )
        take_step(loss, optimizer, 5e-4 * min(1.0, (step + 1) / 100))
        correct = 0.98 * correct + 0.02 * float(
            (shape_scores.argmax(1) == shapes)[shapes != IGNORED].float().mean()
        )
        if (step + 1) % 100 == 0:
            print(f"vision warm-up, step {step + 1}: {correct:.3f} of the shapes named", flush=True)


def train(
    out: Path, epochs: int, warm_up_steps: int, batch_size: int, questions: int, peak: float, seed: int
) -> None:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    samples = easy_vqa("train")
    tokenizer = build_tokenizer(
        [f"USER: \n{sample.question} ASSISTANT: {sample.answers[0]}" for sample in samples]
    )
    processor, model = build_processor(tokenizer), build_model(tokenizer).train()
    pictures = group_by_image(samples, tokenizer)
    warm_up_vision(model.model.vision_tower, pictures, warm_up_steps, batch_size, rng)
    model.set_attn_implementation(
        "eager"
    )  # on a CPU its backward pass is 1.6 times as fast as torch's fused attention at this length
    prefix = tokenizer("USER: " + "<image>" * VISUAL_TOKENS + "\n", add_special_tokens=False).input_ids
    optimizer = build_optimizer([model])
    per_epoch = len(pictures) // batch_size
    for epoch in range(epochs):
        order, total = rng.permutation(len(pictures)), 0.0
        for index in track(range(per_epoch), f"epoch {epoch + 1}/{epochs}"):
            chosen = [
                choose_questions(pictures[i], questions, rng)
                for i in order[index * batch_size : (index + 1) * batch_size]
            ]
            with torch.autocast("cpu", torch.bfloat16):
                loss = answer_loss(model, collate(chosen, prefix, rng, tokenizer.pad_token_id))
            total += take_step(
                loss, optimizer, learning_rate(epoch * per_epoch + index, epochs * per_epoch, peak)
            )
        print(f"epoch {epoch + 1}: loss {total / per_epoch:.4f}", flush=True)
        save(model, processor, out)


def save(
    model: transformers.LlavaForConditionalGeneration, processor: transformers.LlavaProcessor, out: Path
) -> None:
    """The model in bfloat16, readable by everyone, with its processor; after every epoch, so that an
    interrupted run leaves a model.
    """
    tied = model.all_tied_weights_keys  # the head is the embedding: stored once
    weights = {
        name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items() if name not in tied
    }
    model.save_pretrained(out, state_dict=weights)
    config = json.loads((out / "config.json").read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = "bfloat16"
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (out / "model.safetensors").chmod(0o644)
    processor.save_pretrained(out)


def main(
    out: Annotated[Path, typer.Argument(help="folder for the trained model")],
    epochs: int = 6,
    warm_up_steps: Annotated[int, typer.Option(help="steps of the vision tower alone")] = 1500,
    batch_size: int = 32,
    questions: Annotated[int, typer.Option(help="questions per image and step, drawn at random")] = 4,
    peak: Annotated[float, typer.Option(help="highest learning rate")] = 6e-4,
    seed: int = 0,
) -> None:
    """Train the embedded model on easy-VQA and save it as a Hugging Face folder in bfloat16."""
    train(out, epochs, warm_up_steps, batch_size, questions, peak, seed)


if __name__ == "__main__":
    typer.run(main)
