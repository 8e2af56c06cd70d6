# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# (transformers types token ids and configs more widely than they are here)
"""Trains a small embedding model: the embedded model learns that a picture and its caption have one vector.

    python -m bivlm.zoo.train_embedding OUT      minutes on one core; the same seed gives the same weights

Pictures and captions are those of `scenes.py`. Every prompt goes through the chat template, and its vector is
the last token's state (VLM2Vec, arXiv 2410.05160), so `bivlm embed` needs no settings for the model. The loss
is InfoNCE in both directions (van den Oord et al., arXiv 1807.03748; Radford et al., arXiv 2103.00020) at a
fixed temperature: of a step's captions the right one has the largest cosine with a picture, and of its
pictures with a caption. Scenes come in sets of four that are nearly alike, and so do a step's. All weights
learn, from those of the embedded model. It is made to measure packing on, and not shipped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.progress import track
from torch import Tensor
from torch.nn.functional import cross_entropy

from bivlm.data.retrieval import Entry, RetrievalSet
from bivlm.data.videos import open_visuals
from bivlm.families import family_of
from bivlm.families.final_states import final_states
from bivlm.loading import load
from bivlm.pooling import pool
from bivlm.types import Sample
from bivlm.zoo import check_embedded_model, embedded_model
from bivlm.zoo.scenes import Scene, scenes
from bivlm.zoo.train import build_optimizer, learning_rate, save, take_step

TEMPERATURE = 0.05
WARMUP = 30  # steps
HELD_OUT = 1_000_000  # the first seed of scenes that are not trained on


def pictures(shown: Sequence[Scene]) -> list[Sample]:
    """The pictures alone, as samples."""
    return [Sample(scene.image, "", origin=f"the picture of {scene.caption}") for scene in shown]


def captions(shown: Sequence[Scene]) -> list[Sample]:
    """The captions alone, as samples."""
    return [Sample(None, scene.caption, origin=f"the caption {scene.caption}") for scene in shown]


def search_set(
    queries: Sequence[Sample], documents: Sequence[Sample], relevant: Sequence[Sequence[int]]
) -> RetrievalSet:
    """The search of every query among all documents, of which those with the numbers `relevant` are right."""
    return RetrievalSet(
        tuple(Entry(f"q{number}", sample) for number, sample in enumerate(queries)),
        tuple(Entry(f"d{number}", sample) for number, sample in enumerate(documents)),
        tuple(tuple(one) for one in relevant),
        (tuple(range(len(documents))),) * len(queries),
    )


def info_nce(queries: Tensor, documents: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """The mean of both directions' cross-entropies (nats), for vectors (n, d) of length one whose pairs have
    the same number.
    """
    scores = queries @ documents.T / temperature
    own = torch.arange(len(scores))
    return (cross_entropy(scores, own) + cross_entropy(scores.T, own)) / 2


def vectors_of(model: Any, processor: Any, samples: Sequence[Sample]) -> Tensor:
    """The vectors (n, d), with gradients, of samples that all have an image or all have none: what
    `bivlm.embed` gives.
    """
    family = family_of(model.config)
    images = open_visuals(samples, family.reads_images)
    inputs = family.inputs(processor, samples, images, model.config)
    with torch.autocast("cpu", torch.bfloat16):
        states = final_states(model, inputs)
    return pool(states.float(), inputs["attention_mask"])


def train(out: Path, steps: int, batch_size: int, peak: float, seed: int) -> float:
    """Train and write the folder; returns the mean loss (nats) of the last twentieth of the steps."""
    torch.manual_seed(seed)
    model, processor = load(embedded_model(), dtype=torch.float32)
    model.train().requires_grad_(True)
    model.set_attn_implementation("eager")
    optimizer, losses = build_optimizer([model.model]), list[float]()
    for step in track(range(steps), description="training"):
        shown = scenes(batch_size, 2 * seed * HELD_OUT + step)
        loss = info_nce(*(vectors_of(model, processor, of(shown)) for of in (pictures, captions)))
        losses.append(take_step(loss, optimizer, learning_rate(step, steps, peak, WARMUP)))
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}: loss {sum(losses[-50:]) / 50:.4f}", flush=True)
    save(model, processor, out)
    last = losses[-max(1, steps // 20) :]
    mean = sum(last) / len(last)
    (out / "training.json").write_text(
        json.dumps({"steps": steps, "batch_size": batch_size, "seed": seed, "loss": mean}, indent=2) + "\n"
    )
    return mean


def main(
    out: Annotated[Path, typer.Argument(help="folder for the trained model")],
    steps: Annotated[int, typer.Option(min=1)] = 300,
    batch_size: Annotated[int, typer.Option(min=2, help="scenes in a step")] = 40,
    peak: Annotated[float, typer.Option(help="highest learning rate")] = 5e-4,
    seed: int = 0,
) -> None:
    """Train a small embedding model on rendered scenes and save it in bfloat16."""
    check_embedded_model()
    torch.set_num_threads(1)
    print(f"loss {train(out, steps, batch_size, peak, seed):.4f}")


if __name__ == "__main__":
    typer.run(main)
