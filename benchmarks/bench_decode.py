"""How fast a packed model answers: tokens per second, time to the first token and resident memory, against
bf16, through the ordinary `generate()`.

    python benchmarks/bench_decode.py [--json docs/results/decode.json] [--markdown docs/results/decode.md]
        [--tokens 32] [--prompt 128] [--layers 28] [--size 7b] [--device cuda]

The model has the shape of a Qwen2.5-VL of 1.5 billion parameters: the language model of Qwen2.5-1.5B (28
blocks of 1536, feed-forward 8960, 12 heads, 2 for keys and values, 151 936 tokens, embedding and head tied)
after two blocks of Qwen2.5-VL's vision tower, which a text prompt leaves alone. Its weights are random: how
long a product takes does not depend on what the codes say. The linears of the language model's blocks are
packed with random codes, in the variants with a head the tied embedding and head as well; what is not packed
stays in bf16.

Every variant runs in a process of its own, so that its resident memory is its own, twice, in turns; the
better run counts. Before it is timed, the packed model's logits are compared with those of the same model
computed by the reference kernel on its first two blocks.

`--size 7b` is Qwen2.5-7B's shape (28 blocks of 3584, feed-forward 18944, 28 heads, 4 for keys and values, 152
064 tokens, embedding and head apart). With `--device cuda` memory is the card's, the largest while answering,
and every step is also timed as a CUDA graph with a static cache, which Python does not slow down. Without a
card: exit code 2.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
from torch import nn

import card
from machine import describe

# kind and bits of the linears, and the bits of the head, which is a trellis
VARIANTS: dict[str, tuple[str, int, int | None] | None] = {
    "bf16": None,
    "levels, 1 bit": ("levels", 1, None),
    "levels, 2 bits": ("levels", 2, None),
    "levels, 2 bits, head 4": ("levels", 2, 4),
    "levels, 3 bits": ("levels", 3, None),
    "trellis, 1 bit": ("trellis", 1, None),
    "trellis, 1 bit, head 2": ("trellis", 1, 2),
    "trellis, 2 bits": ("trellis", 2, None),
    "trellis, 2 bits, head 3": ("trellis", 2, 3),
    "trellis, 2 bits, head 4": ("trellis", 2, 4),
    "trellis, 3 bits": ("trellis", 3, None),
}
CARD_VARIANTS = ("bf16", "levels, 2 bits, head 4", "trellis, 2 bits", "trellis, 2 bits, head 4")
SIZES: dict[str, dict[str, Any]] = {
    "1.5b": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "7b": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
    },
}
POOL = 1_000_003  # random numbers that the weights repeat; a prime, so that rows differ
ACTIVATIONS = ("float", "int8")
TOLERANCE = {"float": 3e-2, "int8": 1.5e-1}  # of the largest logit, in bf16, two blocks
COLUMNS = (
    "model",
    "activations",
    "tokens / s",
    "times bf16",
    "first token, s",
    "resident, GB",
    "of bf16's",
    "packed, MB",
)
GRAPH_COLUMNS = ("tokens / s, graph", "times bf16, graph")


def build(layers: int, size: str = "1.5b") -> Any:
    """The model on the meta device."""
    shape = SIZES[size]
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            **shape,
            "num_hidden_layers": layers,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        vision_config={
            "depth": 2,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": shape["hidden_size"],
        },
        tie_word_embeddings=shape["tie_word_embeddings"],
    )
    with torch.device("meta"):
        return (
            transformers.Qwen2_5_VLForConditionalGeneration(config)
            .to(torch.bfloat16)
            .eval()
            .requires_grad_(False)
        )


def fill(model: Any, kind: str | None, bits: int, head_bits: int | None = None) -> int:
    """Give every parameter random values, the linears of the language blocks and perhaps the head packed
    ones; returns the bytes of these.
    """
    from bivlm.packed.embedding import replace_embedding
    from bivlm.packed.linear import PackedLinear, replace_linear
    from random_weights import random_weight

    stored, made = 0, {}  # weights of the same shape are copies of one
    pool = torch.randn(POOL, generator=torch.Generator().manual_seed(0)).bfloat16()
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and "language_model.layers" in name and kind is not None:
            shape = (module.out_features, module.in_features)
            if shape not in made:
                made[shape] = random_weight(kind, bits, shape)
            packed = replace(
                made[shape], tensors={part: tensor.clone() for part, tensor in made[shape].tensors.items()}
            )
            bias = None if module.bias is None else torch.zeros(module.out_features, dtype=torch.bfloat16)
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, PackedLinear(packed, bias, torch.bfloat16))
            stored += packed.nbytes
    if head_bits is not None:
        embedding = model.get_input_embeddings()
        name = next(name for name, module in model.named_modules() if module is embedding)
        table = random_weight("trellis", head_bits, (embedding.num_embeddings, embedding.embedding_dim))
        tied = model.config.tie_word_embeddings
        replace_embedding(model, name, table, "lm_head" if tied else None)
        if not tied:
            copy = replace(table, tensors={part: tensor.clone() for part, tensor in table.tensors.items()})
            replace_linear(model, "lm_head", copy)
        model._tied_weights_keys = {}
        stored += table.nbytes * (1 if tied else 2)
    for name, parameter in list(model.named_parameters()):
        if parameter.device.type == "meta":
            if parameter.dim() == 1:
                value = torch.full(parameter.shape, 1.0 if "norm" in name else 0.0, dtype=parameter.dtype)
            else:
                value = (
                    pool.repeat(-(-parameter.numel() // POOL))[: parameter.numel()].view(parameter.shape)
                    * parameter.shape[-1] ** -0.5
                )
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, nn.Parameter(value, requires_grad=False))
    model.tie_weights()
    for (
        _,
        module,
    ) in (
        model.named_modules()
    ):  # rotary frequencies are computed, not stored: modules made on the meta device have none
        if hasattr(module, "inv_freq"):
            fresh = (
                type(module)(module.config)
                if hasattr(module, "config")
                else type(module)(module.inv_freq.numel() * 2)
            )
            for name, buffer in fresh.named_buffers():
                module.register_buffer(name, buffer, persistent=False)
    return stored


def check(
    kind: str, bits: int, head_bits: int | None, activations: str, size: str = "1.5b", device: str = "cpu"
) -> float:
    """Largest difference of the logits from the reference kernel's, of the largest logit, on two blocks.
    SystemExit when it is too large.
    """
    from bivlm.kernels import reference
    from bivlm.packed.module import packed_modules, set_activations

    model = build(2, size)
    fill(model, kind, bits, head_bits)
    set_activations(model.to(device), activations)
    ids = torch.arange(1, 9, device=device)[None]
    with torch.inference_mode():
        found = model(input_ids=ids, use_cache=False).logits.float()
        for packed in packed_modules(model).values():
            packed.product = lambda _, packed=packed: reference.ReferenceProduct(packed.packed)
        expected = model(input_ids=ids, use_cache=False).logits.float()
    error = float((found - expected).abs().max() / expected.abs().max())
    if not error < TOLERANCE[activations]:
        raise SystemExit(
            f"{kind}, {bits} bits, {activations}: the logits differ by {error:.1e} of the largest"
        )
    return error


def one(
    variant: str,
    activations: str,
    layers: int,
    prompt: int,
    tokens: int,
    size: str = "1.5b",
    device: str = "cpu",
) -> dict[str, Any]:
    """One variant in this process."""
    transformers.logging.set_verbosity_error()
    from bivlm.packed.module import set_activations

    chosen = VARIANTS[variant]
    error = None if chosen is None else check(*chosen, activations, size, device)
    gc.collect()  # the model that was checked goes only then
    model = build(layers, size)
    stored = fill(model, *(chosen or (None, 0)))
    set_activations(model.to(device), activations)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    ids = torch.randint(0, 150000, (1, prompt), generator=torch.Generator().manual_seed(1)).to(device)
    settings = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with torch.inference_mode():
        model.generate(input_ids=ids[:, :4], max_new_tokens=2, **settings)  # every kernel prepares its weight
        if device == "cuda":  # and compiles for the prompt's number of tokens
            model.generate(input_ids=ids, max_new_tokens=1, **settings)
        start = time.perf_counter()
        model.generate(input_ids=ids, max_new_tokens=1, **settings).cpu()
        first = time.perf_counter() - start
        start = time.perf_counter()
        made = model.generate(input_ids=ids, max_new_tokens=tokens + 1, **settings).cpu()
        seconds = time.perf_counter() - start - first
        memory = torch.cuda.max_memory_allocated() if device == "cuda" else psutil.Process().memory_info().rss
        step = step_in_a_graph(model, prompt, tokens) if device == "cuda" else None
    assert made.shape[1] == prompt + tokens + 1
    return {
        "variant": variant,
        "activations": activations,
        "tokens_per_second": tokens / seconds,
        "first_token": first,
        "resident": memory,
        "packed_bytes": stored,
        "error": error,
        "graph_tokens_per_second": None if step is None else 1 / step,
    }


def step_in_a_graph(model: Any, prompt: int, tokens: int) -> float | None:
    """Seconds of one decoding step of the language model and its head as a CUDA graph, with a static cache of
    the prompt and the answer; None if it cannot be captured.
    """
    step = decoding_step(model, prompt, tokens)
    graph = card.captured(step)
    return None if graph is None else card.seconds_of(graph, 10)


def decoding_step(model: Any, prompt: int, tokens: int) -> Callable[[], torch.Tensor]:
    """What computes the next token after `prompt` others, which are zeros in the cache."""
    config, device = model.config.text_config, model.device
    cache = transformers.StaticCache(config=config, max_cache_len=prompt + tokens + 1)
    token = torch.ones(1, 1, dtype=torch.int64, device=device)
    place = torch.full((1,), prompt, dtype=torch.int64, device=device)
    mask = (torch.arange(prompt + tokens + 1, device=device) <= prompt)[None, None, None]
    language = model.model.language_model

    def step() -> torch.Tensor:
        states = language(
            input_ids=token,
            position_ids=place.expand(3, 1, 1),
            attention_mask={"full_attention": mask},
            past_key_values=cache,
            cache_position=place,
            use_cache=True,
        ).last_hidden_state
        return model.lm_head(states).argmax(-1)

    return step


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every variant, each in a fresh process, in turns; of each the run with the most tokens per second."""
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for _ in range(options.rounds):
        for variant in options.variants or (CARD_VARIANTS if options.device == "cuda" else VARIANTS):
            both = VARIANTS[variant] and options.device == "cpu"  # cards use inputs as they are
            for activations in ACTIVATIONS if both else ("float",):
                words = [
                    "--one",
                    variant,
                    activations,
                    "--layers",
                    options.layers,
                    "--prompt",
                    options.prompt,
                    "--tokens",
                    options.tokens,
                    "--size",
                    options.size,
                    "--device",
                    options.device,
                ]
                environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
                command = [sys.executable, __file__, *map(str, words)]
                done = subprocess.run(command, capture_output=True, text=True, env=environment)
                if done.returncode:
                    raise SystemExit(f"{variant}, {activations}: {done.stderr.strip()[-2000:]}")
                row = json.loads(done.stdout.splitlines()[-1])
                print(f"{variant}, {activations}: {row['tokens_per_second']:.2f} tokens / s", file=sys.stderr)
                known = best.get((variant, activations))
                if known is None or row["tokens_per_second"] > known["tokens_per_second"]:
                    best[variant, activations] = row
    return list(best.values())


def table(rows: list[dict[str, Any]]) -> list[list[str]]:
    base = rows[0]
    return [
        [
            row["variant"],
            row["activations"],
            f"{row['tokens_per_second']:.1f}",
            f"{row['tokens_per_second'] / base['tokens_per_second']:.2f}",
            f"{row['first_token']:.2f}",
            f"{row['resident'] / 1e9:.2f}",
            f"{row['resident'] / base['resident']:.0%}",
            f"{row['packed_bytes'] / 1e6:.0f}" if row["packed_bytes"] else "",
            *graph_cells(row, base),
        ]
        for row in rows
    ]


def graph_cells(row: dict[str, Any], base: dict[str, Any]) -> list[str]:
    """Tokens per second in a CUDA graph, and as a ratio; none on the CPU."""
    if base.get("graph_tokens_per_second") is None:
        return []
    rate = row["graph_tokens_per_second"]
    if rate is None:
        return ["", ""]
    return [f"{rate:.1f}", f"{rate / base['graph_tokens_per_second']:.2f}"]


def markdown(rows: list[dict[str, Any]], machine: str, options: argparse.Namespace) -> str:
    columns = COLUMNS + GRAPH_COLUMNS[: len(graph_cells(rows[0], rows[0]))]
    head = [f"| {' | '.join(columns)} |", "|---|---|" + "--:|" * (len(columns) - 2)]
    shape = (
        f"{options.layers} blocks, a prompt of {options.prompt} tokens, {options.tokens} tokens more,"
        f" {options.threads} threads"
    )
    memory = (
        "The embedding, which is also the head, takes 467 MB in bf16 where it is not packed (a head of so"
        " many bits is a trellis), and Python,\ntorch and transformers take about 0.45 GB."
    )
    if options.device == "cuda":
        memory = (
            "Memory is the card's, the largest while answering. *Graph*: a decoding step as a CUDA graph with"
            " a static cache."
        )
    return "\n".join(
        [
            "# Decoding with packed weights",
            "",
            f"A random model of {options.size[:-1]}-billion-parameter Qwen2.5-VL shape ({shape}),",
            "through `generate()`; see `benchmarks/bench_decode.py`.",
            memory,
            "",
            *head,
            *(f"| {' | '.join(cells)} |" for cells in table(rows)),
            "",
            f"Machine: {machine}.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, help="left out: all")
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--size", choices=SIZES, default="1.5b")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--one", nargs=2, metavar=("VARIANT", "ACTIVATIONS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        sizes = (options.layers, options.prompt, options.tokens, options.size, options.device)
        print(json.dumps(one(*options.one, *sizes)))
        return
    if options.device == "cuda":
        card.require_card("bench_decode")
    rows = measure(options)
    machine = card.describe_card() if options.device == "cuda" else describe()
    text = markdown(rows, machine, options)
    print(text)
    if options.json:
        options.json.write_text(
            json.dumps({"machine": machine, "layers": options.layers, "rows": rows}, indent=1) + "\n"
        )
    if options.markdown:
        options.markdown.write_text(text)


if __name__ == "__main__":
    main()
