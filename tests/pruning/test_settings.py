"""A pruning in words and back, and every refusal in the user's words."""

from __future__ import annotations

import pytest

from bivlm.errors import InputError
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
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        parse_pruning(text)


def test_a_broken_record_is_refused():
    with pytest.raises(InputError, match="cannot be read"):
        parse_pruning({"pruner": "grid", "keep": 0.5, "colour": "red"})


def test_a_sweep_is_every_combination_once():
    found = sweep(["grid", "attention:attending=last"], ["language", "input"][:1], [0, 2], [0.5, 0.25])
    assert [str(pruning) for pruning in found][:3] == ["grid:layer=0,keep=0.5", "grid:layer=0,keep=0.25", "grid:layer=2,keep=0.5"]
    assert len(found) == 8
    assert len(sweep(["grid"], ["language", "input", "vision"], [0, 2], [0.5])) == 5, "the input has no layers"
    assert found[4] == Pruning("attention", 0.5, settings={"attending": "last"})
