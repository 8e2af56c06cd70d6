"""Time to the first token against the share of visual tokens that stays, on a random model of
one-billion-parameter shape with 1 024 visual tokens.

    python benchmarks/bench_prefill.py [--json docs/results/prefill.json] [--tokens 1024] [--layers 16]

The language model has the shape of Llama-3.2-1B, the vision tower that of SigLIP-Base on images of 448 x 448
pixels in patches of 14; bfloat16, one prompt of 1 024 visual and 32 text tokens. Speed does not depend on the
weights' values, so they are random. Before anything is timed the pruned model is checked: at keep = 1 its
logits are those of the plain model, and the cache holds exactly the tokens that stay. Every pruning is timed
in turns with no pruning, and the medians' ratio is printed: of the whole prefill, image encoding included,
and of the language model's part alone.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median

import torch
import transformers
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import DynamicCache, LlavaConfig, LlavaForConditionalGeneration

from bivlm.pruning import tokens_kept
from bivlm.pruning.apply import prune
from bivlm.pruning.dropping.cache import cache_argument, cache_bytes
from machine import describe

TEXT = 32
PRUNINGS = [
    *(f"attention:layer=2,keep={keep}" for keep in (0.75, 0.5, 0.25, 0.05)),
    "attention:layer=2,keep=0.25,attending=last",
    "diversity:layer=2,keep=0.25",
    "attention:layer=8,keep=0.25",
    "diversity:site=input,keep=0.25",
    "grid:site=vision,layer=6,keep=0.25",
]


def random_model(tokens: int, layers: int) -> LlavaForConditionalGeneration:
    side = round(tokens**0.5) * 14
    config = LlavaConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "image_size": side,
            "patch_size": 14,
            "vision_use_head": False,
        },
        text_config={
            "model_type": "llama",
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": layers,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "vocab_size": 128256,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
        },
        image_token_index=128255,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = LlavaForConditionalGeneration(config).eval().requires_grad_(False)
    torch.set_default_dtype(torch.float32)
    return model


def prefill(
    model: LlavaForConditionalGeneration, inputs: dict[str, torch.Tensor]
) -> tuple[float, float, DynamicCache, torch.Tensor]:
    """Seconds of the whole prefill and of the language model in it, the cache, and the last logits."""
    cache, marks = DynamicCache(config=model.config.text_config), []
    hooks = [
        model.model.language_model.register_forward_pre_hook(lambda *_: marks.append(time.perf_counter())),
        model.model.language_model.register_forward_hook(lambda *_: marks.append(time.perf_counter())),
    ]
    start = time.perf_counter()
    logits = model(**inputs, **cache_argument(model, cache), use_cache=True, logits_to_keep=1).logits
    end = time.perf_counter()
    for hook in hooks:
        hook.remove()
    return end - start, marks[1] - marks[0], cache, logits


def check(model: LlavaForConditionalGeneration, inputs: dict[str, torch.Tensor], tokens: int) -> None:
    expected = prefill(model, inputs)[3]
    prune(model, "attention:layer=2,keep=1")
    assert torch.equal(prefill(model, inputs)[3], expected), "keep = 1 must change nothing"
    prune(model, "attention:layer=2,keep=0.25")
    lengths = [layer.keys.shape[-2] for layer in prefill(model, inputs)[2].layers]
    stays = TEXT + tokens_kept(tokens, 0.25)
    assert lengths == [TEXT + tokens] * 2 + [stays] * (len(lengths) - 2), lengths
    prune(model, None)


def measure(
    model: LlavaForConditionalGeneration, inputs: dict[str, torch.Tensor], pruning: str, rounds: int
) -> dict[str, float | str]:
    taken: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    sizes: dict[bool, int] = {}
    for _ in range(rounds):
        for cut in (False, True):
            prune(model, pruning if cut else None)
            whole, language, cache, _ = prefill(model, inputs)
            taken[cut].append((whole, language))
            sizes[cut] = cache_bytes(cache)
    prune(model, None)
    whole, language = (
        median(times[part] for times in taken[True]) / median(times[part] for times in taken[False])
        for part in (0, 1)
    )
    plain, alone = (median(times[part] for times in taken[False]) for part in (0, 1))
    cache = sizes[True] / sizes[False]
    return {
        "pruning": pruning,
        "prefill": whole,
        "language": language,
        "cache": cache,
        "plain_seconds": plain,
        "plain_language_seconds": alone,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--tokens", type=int, default=1024, help="visual tokens, a square number")
    parser.add_argument("--layers", type=int, default=16, help="blocks of the language model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--pruning", action="append", help="time this one; may be repeated; left out: nine of them"
    )
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    model = random_model(options.tokens, options.layers)
    ids = torch.cat([torch.full((1, options.tokens), 128255), torch.arange(1000, 1000 + TEXT)[None]], dim=1)
    side = model.config.vision_config.image_size
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0)).bfloat16()
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
    with torch.inference_mode():
        check(model, inputs, options.tokens)
        rows = [
            measure(model, inputs, pruning, options.rounds)
            for pruning in track(options.pruning or PRUNINGS, "prunings")
        ]
    table = Table(
        "pruning",
        "prefill",
        "language model alone",
        "keys and values",
        title="as ratios to no pruning",
        title_justify="left",
    )
    for row in rows:
        table.add_row(str(row["pruning"]), *(f"{row[name]:.3f}" for name in ("prefill", "language", "cache")))
    Console(width=120).print(table)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    found = {
        "machine": describe(),
        "parameters": parameters,
        "visual_tokens": options.tokens,
        "text_tokens": TEXT,
        "rows": rows,
    }
    plain, alone = (median(row[name] for row in rows) for name in ("plain_seconds", "plain_language_seconds"))
    print(
        f"{parameters / 1e9:.2f} billion parameters; without pruning {plain:.2f} s, {alone:.2f} s of it the"
        " language model"
    )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
