"""Samples of texts and images in their order; how text and visual tokens share a second moment."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bivlm.types import LinearStats, Sample, Turn

A, B = Path("a.png"), Path("b.png")


@pytest.mark.parametrize(
    ("sample", "parts"),
    [
        (Sample(A, "What?"), (A, "What?")),
        (Sample(None, "What?"), ("What?",)),
        (Sample((A, B), "What?"), (A, B, "What?")),
        (Sample([A, B], "What?"), (A, B, "What?")),
        (Sample((A, B), "What?", places=(0, 4)), (A, "What", B, "?")),
        (Sample.of(("Is ", A, "or", B, "?")), ("Is ", A, "or", B, "?")),
        (Sample.of(("Is ", "it ", A, B)), ("Is it ", A, B)),
    ],
)
def test_texts_and_images_stand_in_their_order(sample, parts):
    assert sample.parts == parts
    assert sample.images == tuple(part for part in parts if isinstance(part, Path))
    assert Sample.of(parts).parts == parts


def test_the_images_of_earlier_turns_come_first():
    sample = Sample.of(("Is ", B, "?"), ("no",), group="animals", turns=(Turn((A, "What?"), "A cat."),))
    assert sample.images == (A, B)
    assert sample.parts == ("Is ", B, "?")
    assert (sample.places, sample.group) == ((3,), "animals")


def test_one_image_before_the_question_is_the_plain_form():
    assert Sample.of((A, "What?"), ("red",), "x:1", "Be brief.") == Sample(
        A, "What?", ("red",), "x:1", "Be brief."
    )
    assert Sample.of(("What?",)) == Sample(None, "What?")


@pytest.mark.parametrize("places", [(0,), (3, 2), (-1, 2), (0, 6)])
def test_places_that_do_not_fit_are_refused(places):
    with pytest.raises(ValueError, match="do not fit 2 images in 5 characters"):
        replace(Sample((A, B), "What?"), places=places)


TEXT, VISUAL = torch.diag(torch.tensor([1.0, 2.0])), torch.diag(torch.tensor([5.0, 0.0]))
BOTH = LinearStats({"text": TEXT, "visual": VISUAL}, {"text": 10, "visual": 30})


@pytest.mark.parametrize(
    ("weight", "visual"),
    [("tokens", 0.75), ("balanced", 0.5), (0.2, 0.2), (0.0, 0.0), (1.0, 1.0)],
    ids=["tokens", "balanced", "0.2", "0", "1"],
)
def test_shares(weight, visual):
    torch.testing.assert_close(BOTH.second_moment(weight), (1 - visual) * TEXT + visual * VISUAL)


def test_the_hessian_counts_every_token_once():
    assert torch.equal(BOTH.hessian, BOTH.second_moment("tokens"))


@pytest.mark.parametrize("weight", ["tokens", "balanced", 0.0, 0.2, 1.0])
def test_a_modality_that_is_alone_counts_alone(weight):
    assert torch.equal(LinearStats({"visual": VISUAL}, {"visual": 3}).second_moment(weight), VISUAL)
    assert torch.equal(LinearStats({"text": TEXT}, {"text": 3}).second_moment(weight), TEXT)


@pytest.mark.parametrize("weight", ["balanced", "gradient", 0.3])
def test_joined_moments_are_the_same_to_the_bit(weight):
    random = torch.Generator().manual_seed(0)
    text, visual = (torch.randn(1029, 1029, generator=random) for _ in range(2))
    for moment in (text, visual):
        moment.copy_(moment + moment.T)
    stats = LinearStats({"text": text, "visual": visual}, {"text": 7, "visual": 31}, visual_share=0.17)
    by_token, by_weight = stats.hessian, stats.second_moment(weight)
    joined = stats.joined_by(weight)
    assert joined.device == text.device
    for found in (joined, joined.to("cpu")):
        assert torch.equal(found.hessian, by_token)
        assert torch.equal(found.second_moment(weight), by_weight)
    assert joined.second_moment(weight) is text  # in its place
    assert sum(block.numel() for block in joined.upper) < 0.8 * text.numel()
    with pytest.raises(ValueError, match="were joined by"):
        joined.second_moment(0.9)
