"""A search over vectors against its definition, and a packed folder next to its source."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import bivlm
from bivlm.data.retrieval import Entry, RetrievalSet
from bivlm.errors import InputError
from bivlm.eval.embedding.files import check_new, read_vectors, write_vectors
from bivlm.eval.embedding.run import judge_vectors, measure_embedding
from bivlm.types import Sample
from tiny import tiny_checkpoint, tiny_samples

DOCUMENTS = tuple(Entry(f"d{n}", Sample(None, f"a {n}")) for n in range(3))
QUERIES = tuple(Entry(f"q{n}", Sample(sample.image, "")) for n, sample in enumerate(tiny_samples(2)))
SET = RetrievalSet(QUERIES, DOCUMENTS, ((1,), (0, 2)), ((0, 1, 2), (0, 1, 2)))
# the first query is nearest to d0, then to d1; the second to d2
VECTORS = torch.tensor([[1.0, 0, 0], [0, 0, 1.0], [1.0, 0, 0], [0.6, 0.8, 0], [0, 0, 1.0]])


def test_a_search_by_hand():
    found = judge_vectors(VECTORS, SET).retrieval
    assert found is not None
    assert found.hits == {1: 0.5, 5: 1.0, 10: 1.0}
    assert found.first_ranks == (2, 1)
    assert found.mrr == pytest.approx(0.75)
    assert found.hit_intervals[1][0] < 0.5 < found.hit_intervals[1][1]


def test_one_candidate_is_enough_to_rank():
    """And one item alone has no neighbours and no distance to tell."""
    pair = RetrievalSet(QUERIES[:1], DOCUMENTS[:2], ((1,),), ((1, 0),))
    result = judge_vectors(VECTORS[[0, 2, 3]], pair, VECTORS[[0, 3, 2]])
    assert result.retrieval is not None
    assert (result.retrieval.hits[1], result.retrieval.hits[5], result.retrieval.mrr) == (0, 1, 0.5)
    assert result.closeness is not None
    assert (result.closeness.neighbours, result.closeness.agreement) == (1, 0)
    alone = judge_vectors(VECTORS[:1], RetrievalSet((), DOCUMENTS[:1], (), ()), VECTORS[:1])
    assert alone.retrieval is None
    assert alone.closeness is None


def test_vectors_that_are_not_finite_are_counted_and_find_nothing():
    broken = torch.full_like(VECTORS, torch.nan)
    result = judge_vectors(broken, SET, VECTORS)
    assert result.non_finite == 5
    assert result.retrieval is not None
    assert result.retrieval.hits[1] == 0
    assert result.closeness is not None
    assert result.closeness.drift == 2


def test_a_result_is_json_and_a_table_for_notebooks():
    result = judge_vectors(VECTORS, SET, VECTORS, seconds=1.0)
    told = result.to_dict()
    assert told["retrieval"]["queries"] == 2
    assert "first_ranks" not in told["retrieval"]
    assert "hit@1" in result._repr_html_()


def test_a_packed_folder_next_to_its_source(tmp_path: Path):
    source = tiny_checkpoint("llava", tmp_path / "source")
    bivlm.quantize(source, tmp_path / "out", recipe="rtn-3")
    same, own = measure_embedding(source, SET, reference=source, batch_size=2)
    assert same.closeness is not None
    assert same.closeness.drift == pytest.approx(0, abs=1e-6)
    packed, vectors = measure_embedding(tmp_path / "out", SET, reference=source, running={"expand": False})
    assert packed.closeness is not None
    assert packed.closeness.drift > 1e-4
    torch.testing.assert_close(own.norm(dim=1), torch.ones(5))
    write_vectors(tmp_path / "v.safetensors", vectors, SET, {"pooling": "last"})
    kept = read_vectors(tmp_path / "v.safetensors")
    assert (kept.query_ids, kept.document_ids) == (("q0", "q1"), ("d0", "d1", "d2"))
    assert torch.equal(torch.cat([kept.queries, kept.documents]), vectors)


def test_files_that_are_there_or_are_no_vectors(tmp_path: Path):
    (tmp_path / "there").write_text("x")
    with pytest.raises(InputError, match="is there already"):
        check_new(tmp_path / "there")
    with pytest.raises(InputError, match="is no folder"):
        check_new(tmp_path / "nowhere" / "v.safetensors")
    with pytest.raises(InputError, match="holds no vectors"):
        read_vectors(tmp_path / "there")
