"""The kept tokens: evenly spread, bounded, with their marks."""

import pytest
import torch

from bivlm.calibration.token_sample import MOST_TOKENS, TokenSample


@pytest.mark.parametrize(
    "sizes", [(5,), (600, 424), (600, 425), (3000,), (7, 1, 1024, 333, 0, 5000), (1,) * 1100]
)
def test_every_nth_token_is_kept_however_they_arrive(sizes):
    total = sum(sizes)
    tokens, visual = torch.arange(total).float()[:, None], torch.arange(total) % 3 == 0
    sample, start = TokenSample(), 0
    for size in sizes:
        sample.add(tokens[start : start + size], visual[start : start + size])
        start += size
    stride = 1
    while -(-total // stride) > MOST_TOKENS:
        stride *= 2
    assert torch.equal(sample.inputs, tokens[::stride])
    assert torch.equal(sample.visual, visual[::stride])
    assert min(total, MOST_TOKENS // 2) <= len(sample.inputs) <= MOST_TOKENS


def test_without_marks_all_are_visual():
    sample = TokenSample()
    sample.add(torch.ones(3, 2), None)
    assert sample.visual.tolist() == [True] * 3


def test_the_kept_tokens_are_copies_in_float32():
    rows, sample = torch.ones(4, 2, dtype=torch.bfloat16), TokenSample()
    sample.add(rows, None)
    rows.zero_()
    assert sample.inputs.dtype == torch.float32
    assert bool((sample.inputs == 1).all())
