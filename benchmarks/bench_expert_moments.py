"""How many tokens of the layer's moment an expert's is mixed with (`PRIOR` of calibration/experts.py).

    python benchmarks/bench_expert_moments.py --model FOLDER [--recipe gptq-2]

FOLDER is a language model of the Llama family, without experts; the text is that of this repository's
documents. In some blocks the tokens are clustered by what enters the MLP, as a router would send them
(k-means, COUNT clusters). Each cluster is an expert: its moment comes from few of its tokens, mixed with that
of all tokens, a weight of the MLP is quantized with it, and the error is measured on the cluster's other
tokens. A row is a number of tokens that the expert saw, for each column of the weight; a column is the prior,
in tokens for each column of the weight. The error is tr((W-Q)H(W-Q)ᵀ) / tr(WHWᵀ), its geometric mean over
blocks, clusters and both weights.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import torch
import transformers
import typer
from torch import Tensor, nn

from bivlm.job.recipe import build_quantizer, load_recipe
from bivlm.job.weight import output_energy
from bivlm.types import LinearStats
from machine import describe

DOCUMENTS = Path(__file__).parent.parent / "docs"
LENGTH, TOKENS = 512, 24576
COUNT, TRIED = 16, 2  # clusters, and those of them that are quantized
SEEN = (0.0, 1 / 8, 1 / 2, 2.0)
PRIORS = (0.0, 1 / 16, 1 / 4, 1.0, 4.0)


@torch.inference_mode()
def inputs_of(model: nn.Module, linears: Mapping[str, nn.Linear], ids: Tensor) -> dict[str, Tensor]:
    """What enters some linears, (tokens, in), for pieces of a text."""
    seen: dict[str, list[Tensor]] = {name: [] for name in linears}
    handles = [
        linear.register_forward_pre_hook(lambda _, args, name=name: seen[name].append(args[0][0].float()))
        for name, linear in linears.items()
    ]
    for piece in ids.split(LENGTH):
        model(input_ids=piece[None], use_cache=False)
    for handle in handles:
        handle.remove()
    return {name: torch.cat([rows[1:] for rows in parts]) for name, parts in seen.items()}  # no first tokens


def clusters(rows: Tensor) -> Tensor:
    """The cluster of every row, by 20 rounds of k-means on directions."""
    points = nn.functional.normalize(rows, dim=1)
    chosen = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:COUNT]
    centres = points[chosen]
    for _ in range(20):
        place = (points @ centres.T).argmax(1)
        centres = nn.functional.normalize(
            torch.stack([points[place == one].sum(0) for one in range(COUNT)]), dim=1
        )
    return place


def moment(rows: Tensor) -> Tensor:
    return rows.T @ rows / max(len(rows), 1)


def errors(weight: Tensor, own: Tensor, layer: Tensor, recipe: str) -> dict[tuple[float, float], float]:
    """The error for every number of seen tokens and every prior, on the half of the tokens `own` that is held
    out.
    """
    seen, judge = own[::2], moment(own[1::2])
    quantizer = build_quantizer(load_recipe(recipe).rules[0])
    whole, columns = output_energy(weight, judge), weight.shape[1]
    found = {}
    for share in SEEN:
        count = min(int(share * columns), len(seen))
        rows = seen[torch.randperm(len(seen), generator=torch.Generator().manual_seed(1))[:count]]
        for prior in PRIORS:
            k = prior * columns if count else 1.0
            if not count and prior != PRIORS[0]:
                continue
            if not k + count:
                continue
            mixed = (rows.T @ rows + k * layer) / (count + k)
            stats = LinearStats({"text": mixed}, {"text": count + k}, visual_share=0.0)
            lost = quantizer.quantize(weight, stats).dequantize() - weight
            found[share, prior] = float(output_energy(lost, judge) / whole)
    return found


def main(
    model: Annotated[Path, typer.Option(help="a language model's folder")],
    recipe: Annotated[str, typer.Option(help="a preset")] = "gptq-2",
    blocks: Annotated[str, typer.Option(help="the blocks")] = "4,14,24",
) -> None:
    print(describe())
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    language = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    text = "\n".join(path.read_text() for path in sorted(DOCUMENTS.glob("*.md")))
    ids = tokenizer(text, return_tensors="pt").input_ids[0][:TOKENS]
    logs: dict[tuple[float, float], list[float]] = {}
    for block in map(int, blocks.split(",")):
        mlp = language.model.layers[block].mlp
        linears = {"first": mlp.gate_proj, "second": mlp.down_proj}
        inputs = inputs_of(language, linears, ids)
        place = clusters(inputs["first"])
        largest = place.bincount(minlength=COUNT).argsort(descending=True)[:TRIED]
        for name, linear in linears.items():
            layer = moment(inputs[name])
            for cluster in largest.tolist():
                own = inputs[name][place == cluster]
                for key, error in errors(linear.weight.detach().float(), own, layer, recipe).items():
                    logs.setdefault(key, []).append(math.log(error))
        print(f"block {block}: {[int((place == one).sum()) for one in largest]} tokens", flush=True)
    print(f"{recipe}; {len(ids)} tokens\n\n| seen | " + " | ".join(f"{prior:g}" for prior in PRIORS) + " |")
    print("|--:|" + "--:|" * len(PRIORS))
    for share in SEEN:
        cells = [logs.get((share, prior)) for prior in PRIORS]
        shown = ["" if one is None else f"{math.exp(sum(one) / len(one)):.4f}" for one in cells]
        print(f"| {share:g} | " + " | ".join(shown) + " |")


if __name__ == "__main__":
    sys.exit(typer.run(main))
