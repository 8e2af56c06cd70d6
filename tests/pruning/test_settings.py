"""A pruning in words and back, and every refusal in the user's words."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bivlm.errors import InputError
from bivlm.pruning.attention import AttentionPruner
from bivlm.pruning.settings import Pruning, parse_pruning, sweep


@pytest.mark.parametrize(
    "text",
    [
        "attention:layer=2,keep=0.25",
        "attention:layer=0,keep=0.5,attending=last",
        "grid:site=input,keep=0.1",
        "random:site=vision,layer=3,keep=0.5,seed=7",
        "attention:layer=1,keep=0.5,tokens=text",
        "joined:layer=2,keep=0.25,share=0.3",
    ],
)
def test_there_and_back(text):
    pruning = parse_pruning(text)
    assert str(pruning) == text
    assert parse_pruning(pruning.to_dict()) == pruning
    assert parse_pruning(pruning) is pruning


def test_a_pruner_can_be_given_as_an_object():
    pruning = Pruning(AttentionPruner(attending="last"), 0.25, layer=2)
    assert pruning.build() is pruning.pruner
    assert str(pruning) == "attention:layer=2,keep=0.25,attending=last"
    again = parse_pruning(json.loads(json.dumps(pruning.to_dict())))
    assert again.build() == pruning.build()
    assert str(again) == str(pruning)
    with pytest.raises(InputError, match="no last token"):
        Pruning(AttentionPruner(attending="last"), 0.25, site="input")
    with pytest.raises(InputError, match="attention is given as an object, which has its settings"):
        Pruning(AttentionPruner(), 0.25, settings={"attending": "last"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("attention", "does not say how much stays"),
        ("magic:keep=0.5", "there is no pruner 'magic'; there are attention"),
        ("grid:keep=0", "above 0 and at most 1"),
        ("grid:keep=1.01", "above 0 and at most 1"),
        ("grid:keep=nan", "above 0 and at most 1"),
        ("grid:keep=half", "above 0 and at most 1"),
        ("grid:keep=true", "above 0 and at most 1"),
        ("grid:keep=0.5,layer=-1", "0 or more"),
        ("grid:keep=0.5,layer=1.5", "0 or more"),
        ("grid:keep=0.5,site=head", "site is 'head'; it is one of language, input, vision"),
        ("grid:keep=0.5,tokens=sound", "tokens is 'sound'"),
        ("grid:keep=0.5,site=input,layer=2", "which has no layers"),
        ("grid:keep=0.5,site=vision,tokens=text", "inside the language model only"),
        ("attention:keep=0.5,site=input,attending=last", "no last token"),
        ("attention:keep=0.5,attending=some", "attending='some' is refused"),
        ("attention:keep=0.5,heads=3", "heads=3 is refused"),
        ("attention:keep=0.5,layer", "no NAME=VALUE"),
        ("joined:keep=0.5,share=2", "share=2 is refused"),
        ("grid:keep=0.5,layer=true", "layer is True"),
        ("grid:keep=0.5,keep=0.25", "keep is given twice"),
        ("grid:keep=0.5,=3", "the setting '=3' is no NAME=VALUE; write it like attention:layer=2,keep=0.25"),
        (
            "random:keep=0.5,seed=often",
            "seed='often' is refused: .*; its settings are keep, layer, site, tokens, seed",
        ),
        ("", "does not say how much stays"),
        (":keep=0.5", "there is no pruner ''; there are attention, diversity, grid, joined, random"),
        ("joined:keep=0.5,site=vision,attending=last", "use attending=all, or the site language"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        parse_pruning(text)


def test_spaces_and_a_last_comma_mean_nothing():
    assert parse_pruning("grid: layer = 2 , keep=0.5,") == parse_pruning("grid:layer=2,keep=0.5")


OWN = {
    "attention": st.fixed_dictionaries({}, optional={"attending": st.sampled_from(["all", "last"])}),
    "joined": st.fixed_dictionaries({}, optional={"share": st.floats(0, 1)}),
    "random": st.fixed_dictionaries({}, optional={"seed": st.integers(-5, 2**40)}),
    "grid": st.just({}),
    "diversity": st.just({}),
}


@given(
    st.sampled_from(sorted(OWN)).flatmap(lambda name: st.tuples(st.just(name), OWN[name])),
    st.floats(0, 1, exclude_min=True),
    st.data(),
)
@settings(deadline=None, max_examples=100)
def test_words_say_everything(named, keep, data):
    name, own = named
    site = data.draw(
        st.sampled_from(["language"] if own.get("attending") == "last" else ["language", "input", "vision"])
    )
    tokens = data.draw(st.sampled_from(["image", "text"])) if site == "language" else "image"
    pruning = Pruning(name, keep, 0 if site == "input" else data.draw(st.integers(0, 99)), site, tokens, own)
    assert parse_pruning(str(pruning)) == pruning
    assert str(parse_pruning(str(pruning))) == str(pruning)
    assert parse_pruning(pruning.to_dict()) == pruning


def test_what_is_built_has_the_settings():
    pruner = parse_pruning("joined:keep=0.5,share=0.3,attending=last").build()
    assert (pruner.name, pruner.queries, pruner.share) == ("joined", "last", 0.3)


def test_a_broken_record_is_refused():
    with pytest.raises(InputError, match="cannot be read"):
        parse_pruning({"pruner": "grid", "keep": 0.5, "colour": "red"})
    with pytest.raises(InputError, match="missing 1 required positional argument: 'keep'"):
        parse_pruning({"pruner": "grid"})


def test_a_sweep_is_every_combination_once():
    found = sweep(["grid", "attention:attending=last"], ["language", "input"][:1], [0, 2], [0.5, 0.25])
    assert [str(pruning) for pruning in found][:3] == [
        "grid:layer=0,keep=0.5",
        "grid:layer=0,keep=0.25",
        "grid:layer=2,keep=0.5",
    ]
    assert len(found) == 8
    assert len(sweep(["grid"], ["language", "input", "vision"], [0, 2], [0.5])) == 5, (
        "the input has no layers"
    )
    assert found[4] == Pruning("attention", 0.5, settings={"attending": "last"})
