"""Requests: what is said in several ways becomes one recipe, and what is said twice is refused."""

import inspect
from pathlib import Path

import pytest

from bivlm.errors import InputError
from bivlm.job.recipe import Recipe, Rule, load_recipe
from bivlm.job.request import EFFORTS, Request, make_request
from bivlm.job.run import quantize
from bivlm.pruning.settings import parse_pruning
from bivlm.quantizers import RTN, Trellis
from bivlm.types import PARTS


def test_words_are_settings_of_the_recipe():
    request = make_request("trellis-2", bits=2.0, effort="normal", embeddings=4, settings={"window": 12})
    settings = {"propagation": 0.25, "tuning": 0, "window": 12, "budget": 2, "embeddings": 4}
    assert request.recipe == load_recipe("trellis-2").with_settings(settings)
    assert request.recipe.name == "trellis-2:propagation=0.25,tuning=0,window=12,budget=2,embeddings=4"
    assert request == Request(request.recipe, PARTS)


def test_nothing_said_is_the_preset_itself():
    assert make_request("bivlm").recipe == load_recipe("bivlm")
    assert make_request("bivlm", effort=None, settings={}).recipe == load_recipe("bivlm")


@pytest.mark.parametrize("effort", EFFORTS)
def test_every_effort_is_known_to_recipes(effort):
    recipe = make_request("trellis-2", effort=effort).recipe
    assert {name: getattr(recipe, name) for name in EFFORTS[effort]} == EFFORTS[effort]


def test_recipes_and_quantizers_are_taken_as_objects():
    recipe = Recipe("mine", (Rule(RTN(bits=3)),))
    assert make_request(recipe).recipe is recipe
    request = make_request(Trellis(bits=1.5), embeddings=3)
    assert request.recipe.rules == (Rule(Trellis(bits=1.5)),)
    assert request.recipe.embeddings == 3


@pytest.mark.parametrize(
    ("recipe", "said", "message"),
    [
        (
            "trellis-2",
            {"bits": 2, "settings": {"budget": 3}},
            "budget is given twice, by settings and by bits=2",
        ),
        (
            "trellis-2:budget=3",
            {"bits": 2},
            "budget is given twice, by the recipe trellis-2:budget=3 and by bits=2",
        ),
        (
            "trellis-2:tuning=2",
            {"effort": "high"},
            "tuning is given twice, by the recipe .* and by effort=high",
        ),
        ("trellis-2", {"effort": "fast", "settings": {"propagation": 1}}, "propagation is given twice"),
        ("trellis-2", {"embeddings": 4, "settings": {"embeddings": 4}}, "embeddings is given twice"),
        ("trellis-2:embeddings=3", {"embeddings": 4}, "embeddings is given twice"),
        ("trellis-2:bits=3", {"settings": {"bits": 2}}, "bits is given twice"),
        ("trellis-2:window=12", {"settings": {"window": 12}}, "window is given twice"),
        ("trellis-2", {"bits": 2, "settings": {"bits": 3}}, "bits=2 is a budget, .* give one"),
        ("trellis-2:bits=3", {"bits": 2}, "bits=2 is a budget, .* give one"),
    ],
)
def test_what_is_said_twice_is_refused(recipe, said, message):
    with pytest.raises(InputError, match=message):
        make_request(recipe, **said)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"effort": "huge"}, "there is no effort 'huge'; there are fast, normal, high"),
        ({"bits": -1}, "budget = -1"),
        ({"embeddings": 4.5}, "embeddings = 4.5"),
        ({"settings": {"bands": 2}}, "quantizer trellis: bands=2 is refused"),
        ({"parts": ["ears"]}, "there is no part ears"),
        ({"parts": []}, r"there is no part \(none given\)"),
        ({"pruning": "attention"}, "does not say how much stays"),
        ({"sensitivities": "kept.json"}, "nothing is measured without a budget"),
    ],
)
def test_mistakes_are_told(said, message):
    with pytest.raises(InputError, match=message):
        make_request("trellis-2", **said)


def test_the_rest_is_checked_and_kept():
    request = make_request(
        "trellis-2",
        bits=2,
        parts=["language", "vision"],
        pruning="grid:layer=1,keep=0.5",
        sensitivities="a.json",
    )
    assert request.parts == ("vision", "language")
    assert request.pruning == parse_pruning("grid:layer=1,keep=0.5")
    assert request.sensitivities == Path("a.json")


def test_python_offers_what_a_request_can_say():
    assert inspect.signature(make_request).parameters.keys() <= inspect.signature(quantize).parameters.keys()
