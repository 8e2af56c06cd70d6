"""Parity with the numbers of the public code of VLM2Vec, and ties that earn nothing."""

from __future__ import annotations

import math

import pytest
import torch

from bivlm.eval.embedding.ranking import by_rank, hit, ndcg, recall, reciprocal_rank

# (ranking, right ones), and the means over the three that RankingMetrics.evaluate of the public code gives
# (TIGER-AI-Lab/VLM2Vec, commit 6e1e1d4)
CASES = (("abcde", ["c"]), ("xyzwv", ["x", "v"]), ("pqrst", ["nope"]))
REFERENCE = {
    "hit@1": 0.3333333333333333, "hit@5": 0.6666666666666666, "hit@10": 0.6666666666666666,
    "recall@1": 0.16666666666666666, "recall@5": 0.6666666666666666, "recall@10": 0.6666666666666666,
    "mrr@1": 0.3333333333333333, "mrr@5": 0.4444444444444444, "mrr@10": 0.4444444444444444,
}  # fmt: skip


@pytest.mark.parametrize("name", REFERENCE)
def test_the_numbers_of_the_public_code(name: str):
    measure, _, k = name.partition("@")
    ranked = [([one in right for one in order], len(right)) for order, right in CASES]
    found = {
        "hit": [hit(one, int(k)) for one, _ in ranked],
        "recall": [recall(one, int(k), count) for one, count in ranked],
        "mrr": [reciprocal_rank(one, int(k)) for one, _ in ranked],
    }[measure]
    assert sum(found) / len(found) == pytest.approx(REFERENCE[name], abs=1e-12)


def test_ndcg_by_its_definition():
    ranked = [False, True, False, True, True, True]
    gain = 1 / math.log2(3) + 1 / math.log2(5) + 1 / math.log2(6)
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4) + 1 / math.log2(5)
    assert ndcg(ranked, 5, 4) == pytest.approx(gain / ideal)
    assert ndcg([True, True, False], 5, 2) == 1
    assert ndcg([False] * 6 + [True], 5, 1) == 0


def test_equal_scores_count_against_the_right_ones_and_a_nan_is_the_lowest():
    right = torch.tensor([True, False, False])
    assert by_rank(torch.tensor([0.5, 0.5, 0.5]), right) == [False, False, True]
    assert by_rank(torch.tensor([math.nan, -0.5, 0.5]), right) == [False, False, True]
    assert by_rank(torch.tensor([0.9, math.inf, 0.5]), right) == [True, False, False]
    assert by_rank(torch.tensor([math.nan] * 3), right) == [False, False, True]
