"""The small embedding model: its loss by hand, its vectors next to `bivlm.embed`, and a short training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from bivlm.eval.embedding.vectors import embed
from bivlm.loading import load
from bivlm.zoo import embedded_model
from bivlm.zoo.scenes import scenes
from bivlm.zoo.train_embedding import captions, info_nce, pictures, search_set, train, vectors_of


def test_the_loss_is_the_mean_of_both_directions_cross_entropies():
    random = torch.Generator().manual_seed(0)
    queries, documents = (normalize(torch.randn(4, 6, generator=random), dim=1) for _ in range(2))
    chances = (queries.double() @ documents.double().T / 0.1).exp()
    by_row = -(chances.diag() / chances.sum(1)).log().mean()
    by_column = -(chances.diag() / chances.sum(0)).log().mean()
    found = info_nce(queries, documents, 0.1)
    assert float(found) == pytest.approx(float(by_row + by_column) / 2, rel=1e-5)


def test_every_query_is_ranked_against_all_documents():
    shown = scenes(3, 0)
    data = search_set(pictures(shown), captions(shown), [range(1), [1], [2, 0]])
    assert data.relevant == ((0,), (1,), (2, 0))
    assert data.pools == ((0, 1, 2),) * 3
    assert [entry.sample.question for entry in data.documents] == [one.caption for one in shown]
    assert [entry.sample.image for entry in data.queries] == [one.image for one in shown]


def test_what_is_trained_is_what_embed_gives():
    """But for bfloat16, in which a training computes."""
    model, processor = load(embedded_model(), dtype=torch.float32)
    shown = scenes(3, 0)
    for samples in (pictures(shown), captions(shown)):
        with torch.no_grad():
            found = vectors_of(model, processor, samples)
        assert float((found * embed(model, processor, samples)).sum(1).min()) > 0.99


@pytest.mark.slow
def test_a_short_training_leaves_a_folder_and_the_same_seed_the_same_weights(tmp_path: Path):
    for name in ("one", "two"):
        loss = train(tmp_path / name, steps=2, batch_size=3, peak=1e-3, seed=0)
        told = json.loads((tmp_path / name / "training.json").read_text())
        assert told == {"steps": 2, "batch_size": 3, "seed": 0, "loss": loss}
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    model, processor = load(tmp_path / "one")
    samples = pictures(scenes(2, 5))
    found = embed(model, processor, samples)
    assert found.isfinite().all()
    assert not torch.allclose(found, embed(*load(embedded_model()), samples), atol=1e-3)
