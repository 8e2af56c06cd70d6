# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# (transformers types token ids and configs more widely than they are here)
"""Trains the embedded model's sister with experts: a LLaVA whose language model is a Mixtral.

    python -m bivlm.zoo.train_experts OUT      half an hour on one core; the same seed gives the same weights

The vision tower is the embedded model's, and stays as it is. The language model has every second block of the
embedded one: its attention and norms as they are, and in place of its MLP 16 experts, of which every token
takes 2. An expert begins as 128 of the MLP's 512 neurons, drawn at random, so that no two are alike (sparse
upcycling: Komatsuzaki et al., arXiv 2212.05055; from parts of the MLP: Dai et al., arXiv 2401.06066, section
3.1). The routers begin at random. Projector and language model then learn to answer easy-VQA's training
questions as the embedded model did, with the loss of Fedus et al. (arXiv 2101.03961, equation 4) that keeps
the experts equally busy.
"""

from __future__ import annotations

from pathlib import Path
from types import MethodType
from typing import Annotated, Any

import numpy as np
import torch
import transformers
import typer
from torch import Tensor, nn
from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter, load_balancing_loss_func

from bivlm.data.builtin import easy_vqa
from bivlm.loading import load
from bivlm.zoo import check_embedded_model, embedded_model
from bivlm.zoo.train import (
    IGNORED,
    VISUAL_TOKENS,
    answer_loss,
    build_optimizer,
    choose_questions,
    collate,
    group_by_image,
    learning_rate,
    save,
    take_step,
)

EXPERTS, CHOSEN, NEURONS = 16, 2, 128  # of a block, of a token, of an expert
KEPT_BLOCKS = (1, 3, 5, 7)  # of the embedded model's eight
BALANCE = 0.02  # share of the loss that keeps the experts equally busy
SAVED_EVERY = 100  # steps
STEP = 32


def build_model(
    small: transformers.LlavaForConditionalGeneration,
) -> transformers.LlavaForConditionalGeneration:
    """The model before its training, in float32, made from the embedded model `small`; torch's seed decides
    which neurons an expert gets.
    """
    given: Any = small.config.text_config
    shared = ("vocab_size", "hidden_size", "num_attention_heads", "num_key_value_heads", "rms_norm_eps")
    shared += ("max_position_embeddings", "pad_token_id", "bos_token_id", "eos_token_id", "rope_parameters")
    text = transformers.MixtralConfig(
        **{name: getattr(given, name) for name in shared},
        head_dim=given.head_dim,
        intermediate_size=NEURONS,
        num_hidden_layers=len(KEPT_BLOCKS),
        num_local_experts=EXPERTS,
        num_experts_per_tok=CHOSEN,
        router_aux_loss_coef=BALANCE,
        tie_word_embeddings=True,
    )
    config = transformers.LlavaConfig.from_dict({**small.config.to_dict(), "text_config": text.to_dict()})
    model = transformers.LlavaForConditionalGeneration(config).float()
    model.generation_config = small.generation_config
    model.model.vision_tower.load_state_dict(small.model.vision_tower.state_dict())
    model.model.multi_modal_projector.load_state_dict(small.model.multi_modal_projector.state_dict())
    language, source = model.model.language_model, small.model.language_model
    language.embed_tokens.load_state_dict(source.embed_tokens.state_dict())
    language.norm.load_state_dict(source.norm.state_dict())
    for block, number in zip(language.layers, KEPT_BLOCKS, strict=True):
        dense = source.layers[number]
        for name in ("self_attn", "input_layernorm", "post_attention_layernorm"):
            block.get_submodule(name).load_state_dict(dense.get_submodule(name).state_dict())
        draw_experts(block.mlp.experts, dense.mlp)
    return model


@torch.no_grad()
def draw_experts(experts: Any, dense: Any) -> None:
    """Give every expert some neurons of a dense MLP. The weights of a token's experts sum to one, so the
    second projection is larger by the ratio of all neurons to those of an expert.
    """
    neurons = dense.down_proj.in_features
    for number in range(EXPERTS):
        own = torch.randperm(neurons)[:NEURONS]
        experts.gate_up_proj[number] = torch.cat((dense.gate_proj.weight[own], dense.up_proj.weight[own]))
        experts.down_proj[number] = dense.down_proj.weight[:, own] * (neurons / NEURONS)


def run_experts(experts: Any, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """What transformers' own loop over the experts computes, all experts in one product: hidden (t, in),
    index and weights (t, k). Every expert has the same room, in steps of STEP rows: the library behind
    torch's products compiles one for every new shape, which takes longer than the product.
    """
    chosen = index.reshape(-1)
    order = chosen.argsort(stable=True)
    counts, tokens = chosen.bincount(minlength=EXPERTS), order // index.shape[1]
    room = rounded(int(counts.max()))
    before = (counts.cumsum(0) - counts)[chosen[order]]
    slots = chosen[order] * room + torch.arange(len(order)) - before
    rows = hidden.new_zeros(EXPERTS * room, hidden.shape[1]).index_copy(
        0, slots, hidden.index_select(0, tokens)
    )
    both = torch.bmm(rows.view(EXPERTS, room, -1), experts.gate_up_proj.transpose(1, 2))
    gate, up = both.chunk(2, dim=-1)
    outputs = torch.bmm(experts.act_fn(gate) * up, experts.down_proj.transpose(1, 2))
    found = outputs.flatten(0, 1).index_select(0, slots) * weights.reshape(-1)[order, None]
    return torch.zeros_like(hidden).index_add(0, tokens, found.to(hidden.dtype))


def rounded(count: int) -> int:
    return -(-count // STEP) * STEP


def padded(batch: dict[str, Tensor], pad: int) -> dict[str, Tensor]:
    """A batch of `collate`, as wide as the next step of STEP tokens."""
    more = rounded(batch["input_ids"].shape[1]) - batch["input_ids"].shape[1]
    fills = {"input_ids": pad, "position_ids": 0, "labels": IGNORED}
    wide = {name: nn.functional.pad(batch[name], (0, more), value=fill) for name, fill in fills.items()}
    mask = nn.functional.pad(batch["attention_mask"], (0, more, 0, more), value=-1e9)
    return {**batch, **wide, "attention_mask": mask}


def watch_routers(model: nn.Module) -> list[Tensor]:
    """The list that every router's logits (tokens, experts) are added to from now on."""
    logits: list[Tensor] = []
    for module in model.modules():
        if isinstance(module, MixtralTopKRouter):
            module.register_forward_hook(lambda _module, _inputs, outputs: logits.append(outputs[0]))
    return logits


def train(out: Path, steps: int, batch_size: int, questions: int, peak: float, seed: int) -> None:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    small, processor = load(embedded_model(), dtype=torch.float32)
    model, tokenizer = build_model(small).train(), processor.tokenizer
    del small
    pictures = group_by_image(easy_vqa("train"), tokenizer)
    prefix = tokenizer("USER: " + "<image>" * VISUAL_TOKENS + "\n", add_special_tokens=False).input_ids
    model.set_attn_implementation("eager")
    for block in model.model.language_model.layers:
        block.mlp.experts.forward = MethodType(run_experts, block.mlp.experts)
    model.model.vision_tower.requires_grad_(False)
    learned = [model.model.multi_modal_projector, model.model.language_model]
    optimizer, logits, told = build_optimizer(learned), watch_routers(model), np.zeros(2)
    for step in range(steps):
        chosen = [
            choose_questions(pictures[i], questions, rng) for i in rng.integers(0, len(pictures), batch_size)
        ]
        batch = padded(collate(chosen, prefix, rng, tokenizer.pad_token_id), tokenizer.pad_token_id)
        real = batch["input_ids"] != tokenizer.pad_token_id
        with torch.autocast("cpu", torch.bfloat16):
            loss = answer_loss(model, batch)
        balance = load_balancing_loss_func(tuple(logits), EXPERTS, CHOSEN, real) / CHOSEN
        logits.clear()
        take_step(loss + BALANCE * balance, optimizer, learning_rate(step, steps, peak))
        told += loss.item(), balance.item()
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}: loss {told[0] / 50:.4f}, balance {told[1] / 50:.3f}", flush=True)
            told[:] = 0
        if (step + 1) % SAVED_EVERY == 0 or step + 1 == steps:
            save(model, processor, out)


def main(
    out: Annotated[Path, typer.Argument(help="folder for the trained model")],
    steps: int = 500,
    batch_size: Annotated[int, typer.Option(help="images in a step")] = 16,
    questions: Annotated[int, typer.Option(help="questions per image and step, drawn at random")] = 4,
    peak: Annotated[float, typer.Option(help="highest learning rate")] = 5e-4,
    seed: int = 0,
) -> None:
    """Train the embedded model's sister with experts on easy-VQA and save it in bfloat16."""
    check_embedded_model()
    train(out, steps, batch_size, questions, peak, seed)


if __name__ == "__main__":
    typer.run(main)
