"""The evaluation of a model as an embedding model: a search over queries and documents, and the distance of
its vectors from a reference's. The models are in memory one after the other.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bivlm.data.retrieval import RetrievalSet
from bivlm.eval.embedding.closeness import Closeness, closeness
from bivlm.eval.embedding.ranking import by_rank, hit, ndcg, reciprocal_rank
from bivlm.eval.embedding.vectors import PromptStyle, embed
from bivlm.eval.measure import EXPANDED
from bivlm.eval.statistics.intervals import mean_interval
from bivlm.events import SILENT, Events
from bivlm.loading import load
from bivlm.notebook import html_table
from bivlm.pooling import Pooling

HITS = (1, 5, 10)
DISCOUNTED = 5  # ranks that count in nDCG


@dataclass(frozen=True)
class Retrieval:
    """What a search found: means over queries, each with its 95 % interval, queries taken as independent.

    `hits[k]` is the share of the queries with a right document among the first k, `mrr` the mean of one over
    the first right document's rank, `ndcg` that of the first five ranks. `first_ranks` has the rank of the
    first right document of every query, from 1.
    """

    queries: int
    documents: int
    hits: Mapping[int, float]
    hit_intervals: Mapping[int, tuple[float, float]]
    mrr: float
    mrr_interval: tuple[float, float]
    ndcg: float
    ndcg_interval: tuple[float, float]
    first_ranks: tuple[int, ...]


@dataclass(frozen=True)
class EmbeddingResult:
    """What an evaluation of embeddings found. `retrieval` is None for a set without queries, `closeness`
    without a reference; `non_finite` counts the vectors with a NaN or an infinity. `seconds` is the time of
    embedding, images included, without the reference's.
    """

    items: int
    dimensions: int
    pooling: Pooling
    prompt: PromptStyle
    non_finite: int
    seconds: float
    retrieval: Retrieval | None
    closeness: Closeness | None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON, without the single ranks."""
        fields = asdict(self)
        if self.retrieval is not None:
            fields["retrieval"].pop("first_ranks")
        return fields

    def _repr_html_(self) -> str:
        """For notebooks."""
        return html_table(("", ""), self.numbers().items())

    def numbers(self) -> dict[str, str]:
        """The numbers as they are shown, by their names."""
        found = {"items": str(self.items), "dimensions": str(self.dimensions)}
        if self.retrieval is not None:
            found |= {f"hit@{k}": f"{value:.1%}" for k, value in self.retrieval.hits.items()}
            found |= {"MRR": f"{self.retrieval.mrr:.3f}", f"nDCG@{DISCOUNTED}": f"{self.retrieval.ndcg:.3f}"}
        if self.closeness is not None:
            found["drift"] = f"{self.closeness.drift:.2e}"
            if self.closeness.agreement is not None:
                found[f"same {self.closeness.neighbours} nearest"] = f"{self.closeness.agreement:.1%}"
        if self.non_finite:
            found["not finite"] = str(self.non_finite)
        return found


def search(vectors: Tensor, data: RetrievalSet) -> Retrieval:
    """Rank every query's pool by cosine: `vectors` (n, d) of length one, queries first, then documents."""
    queries, documents = vectors.split([len(data.queries), len(data.documents)])
    ranked, counts = [], [len(right) for right in data.relevant]
    for own, right, pool in zip(queries, data.relevant, data.pools, strict=True):
        places = torch.tensor(pool)
        ranked.append(by_rank(documents[places] @ own, torch.isin(places, torch.tensor(right))))
    hits = {k: [hit(one, k) for one in ranked] for k in HITS}
    reciprocal = [reciprocal_rank(one) for one in ranked]
    gains = [ndcg(one, DISCOUNTED, count) for one, count in zip(ranked, counts, strict=True)]
    return Retrieval(
        len(ranked),
        len(documents),
        {k: _mean(scores) for k, scores in hits.items()},
        {k: mean_interval(scores) for k, scores in hits.items()},
        _mean(reciprocal),
        mean_interval(reciprocal),
        _mean(gains),
        mean_interval(gains),
        tuple(one.index(True) + 1 for one in ranked),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def judge_vectors(
    vectors: Tensor,
    data: RetrievalSet,
    reference: Tensor | None = None,
    *,
    pooling: Pooling = "last",
    prompt: PromptStyle = "chat",
    seconds: float = 0.0,
) -> EmbeddingResult:
    """The result of vectors (n, d) that were made already, queries first, then documents."""
    near = None
    if reference is not None and len(vectors) > 1:
        near = closeness(vectors, reference, len(data.queries), data.pools)
    return EmbeddingResult(
        len(vectors),
        vectors.shape[1],
        pooling,
        prompt,
        int((~vectors.isfinite().all(dim=1)).sum()),
        seconds,
        search(vectors, data) if data.queries else None,
        near,
    )


def measure_embedding(
    model: str | Path,
    data: RetrievalSet,
    *,
    reference: str | Path | None = None,
    pooling: Pooling = "last",
    prompt: PromptStyle = "chat",
    batch_size: int = 16,
    running: Mapping[str, Any] = EXPANDED,
    trust_remote_code: bool = False,
    events: Events = SILENT,
    **loading: Any,
) -> tuple[EmbeddingResult, Tensor]:
    """Embed a set with a model folder, and judge the vectors; returns them too, (n, d), queries first.

    `running` are arguments of `bivlm.load` for the model: device, dtype, expand, activations; the reference
    runs on the same device in its own dtype. `loading` are arguments for both: max_pixels, min_pixels. No
    model drops visual tokens. Raises InputError as `bivlm.load` and `embed` do.
    """
    loading |= {"pruning": None, "trust_remote_code": trust_remote_code}
    how: dict[str, Any] = {"pooling": pooling, "prompt": prompt, "batch_size": batch_size, "events": events}
    expected = None
    if reference is not None:
        loaded, processor = load(reference, device=running.get("device", "cpu"), expand=True, **loading)
        expected = embed(loaded, processor, data.samples, **how)
        del loaded
    loaded, processor = load(model, **running, **loading)
    start = time.perf_counter()
    vectors = embed(loaded, processor, data.samples, **how)
    seconds = time.perf_counter() - start
    return judge_vectors(vectors, data, expected, pooling=pooling, prompt=prompt, seconds=seconds), vectors
