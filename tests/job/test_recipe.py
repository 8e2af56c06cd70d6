"""Recipes: what a file may say, settings behind a preset's name, lists of presets; every mistake is one
line.
"""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bivlm.errors import InputError
from bivlm.job.presets import preset_names, presets
from bivlm.job.recipe import (
    Recipe,
    Rule,
    build_quantizer,
    load_recipe,
    parse_recipe,
    recipe_of,
    split_presets,
)
from bivlm.quantizers import RTN, Trellis

RULE = {"quantizer": "bivlm", "settings": {"bands": 2, "compensate": False}}


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_whole(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    assert recipe.true_bits is None or recipe.true_bits > 0
    listed = next(preset for preset in presets() if preset.name == name)
    assert (listed.true_bits, listed.description) == (recipe.true_bits, recipe.description)
    assert listed.needs_data is recipe.needs_data


@pytest.mark.parametrize("value", [2, 2.25])
def test_true_bits_are_kept(value):
    recipe = parse_recipe({"name": "two", "true_bits": value, "rule": [RULE]}, "two.toml")
    assert recipe.true_bits == value
    assert recipe.to_dict()["true_bits"] == value


@pytest.mark.parametrize("value", [0, -1.0, "2", True, float("nan"), float("inf"), [2.0]])
def test_true_bits_must_be_a_positive_number(value):
    with pytest.raises(InputError, match=r"recipe two\.toml: true_bits"):
        parse_recipe({"true_bits": value, "rule": [RULE]}, "two.toml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "has no"),
        ({"rule": []}, "has no"),
        ({"rule": [RULE], "bits": 2}, "unknown entry 'bits'"),
        ({"rule": [{**RULE, "layers": "*"}]}, "unknown entry 'layers' in a rule"),
        ({"rule": [{"part": "vision"}]}, "names no quantizer"),
        ({"rule": [{**RULE, "part": "ears"}]}, "no part 'ears'"),
        ({"rule": [{"quantizer": "magic"}]}, "no quantizer 'magic'"),
        ({"rule": [{"quantizer": "treliss"}]}, "no quantizer 'treliss'; did you mean trellis"),
        ({"rule": [{"quantizer": "rtn"}], "needs_data": True}, "need no data; correct the entry"),
        ({"rule": [{**RULE, "settings": {"bands": 99}}]}, "bands=99 is refused"),
    ],
)
def test_what_a_file_must_not_say(content, message):
    with pytest.raises(InputError, match=message):
        parse_recipe(content, "mine.toml")


def test_the_first_rule_that_matches_wins():
    rules = [{"quantizer": "keep", "linears": "*.fc1"}, {**RULE, "part": "vision"}, {"quantizer": "keep"}]
    recipe = parse_recipe({"rule": rules}, "mine.toml")
    assert recipe.rule_for("vision", "a.fc1") is recipe.rules[0]
    assert recipe.rule_for("vision", "a.fc2") is recipe.rules[1]
    assert recipe.rule_for("language", "a.fc2") is recipe.rules[2]


def test_needs_data_is_that_of_its_quantizers():
    assert not parse_recipe({"rule": [RULE, {"quantizer": "keep"}]}, "x").needs_data
    assert parse_recipe(
        {"rule": [RULE, {"quantizer": "bivlm", "settings": {"compensate": True}}]}, "x"
    ).needs_data


def test_settings_behind_a_name_change_every_quantizer_and_show():
    recipe = load_recipe("bivlm-paper:bands=3,granularity=row")
    assert recipe.name == "bivlm-paper:bands=3,granularity=row"
    assert all(build_quantizer(rule).bands == 3 for rule in recipe.rules)
    assert all(rule.settings["granularity"] == "row" for rule in recipe.rules)
    assert recipe == load_recipe("bivlm-paper").with_settings({"bands": 3, "granularity": "row"})
    assert (
        recipe.with_settings({"compensate": False}).name
        == "bivlm-paper:bands=3,granularity=row,compensate=false"
    )


def test_the_name_with_settings_can_be_given_again():
    recipe = load_recipe("bivlm-paper").with_settings(
        {"bands": 2, "compensate": False, "salient_max": 0.02, "granularity": "row"}
    )
    assert load_recipe(recipe.name) == recipe


def test_changed_settings_promise_no_bits():
    recipe = Recipe("two", parse_recipe({"rule": [RULE]}, "x").rules, true_bits=2.0)
    assert recipe.with_settings({"bands": 5}).true_bits is None
    assert recipe.with_settings({}) is recipe


def test_a_recipe_file_takes_settings_too(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(
        'name = "mine"\ntrue_bits = 2.0\n[[rule]]\nquantizer = "bivlm"\nsettings = { compensate = false }\n'
    )
    assert load_recipe(file).true_bits == 2.0
    assert build_quantizer(load_recipe(f"{file}:bands=4").rules[0]).bands == 4
    odd = tmp_path / "a:bands=4.toml"
    odd.write_text(file.read_text())
    assert load_recipe(odd).name == "mine"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("magic:bands=2", "no preset 'magic'"),
        ("bivlm-paper:bands", "'bands' is no NAME=VALUE"),
        ("bivlm-paper:", "is no NAME=VALUE"),
        ("bivlm-paper:bands=99", "bands=99 is refused"),
        ("bivlm-paper:band=2", "band=2 is refused"),
        ("bivlm-paper:granularity=column", "granularity='column' is refused"),
        ("nowhere.toml:bands=2", "no recipe file nowhere.toml"),
    ],
)
def test_wrong_settings_are_told(name, message):
    with pytest.raises(InputError, match=message) as caught:
        load_recipe(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("lists", "presets"),
    [
        (["a,b"], ["a", "b"]),
        (["a", "b"], ["a", "b"]),
        (["a, b ,", "", "c"], ["a", "b", "c"]),
        (["a,c:x=1,y=2,d"], ["a", "c:x=1,y=2", "d"]),
        (["a,x=1,b:y=2"], ["a:x=1", "b:y=2"]),
        (["a:x=1", "y=2"], ["a:x=1,y=2"]),
        (["dir/my.toml:x=1,b"], ["dir/my.toml:x=1", "b"]),
    ],
)
def test_lists_of_presets(lists, presets):
    assert split_presets(lists) == presets


@pytest.mark.parametrize(
    ("lists", "message"), [([], "no preset"), (["", " , "], "no preset"), (["x=1,a"], "before any preset")]
)
def test_lists_that_are_none(lists, message):
    with pytest.raises(InputError, match=message):
        split_presets(lists)


NAMES = st.from_regex(r"[a-z][a-z0-9.-]{0,8}", fullmatch=True)
PAIRS = st.lists(
    st.tuples(st.from_regex(r"[a-z_]{1,6}", fullmatch=True), st.sampled_from(["1", "0.5", "true", "row"])),
    max_size=3,
)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(NAMES, PAIRS), min_size=1, max_size=4))
def test_any_list_comes_apart_as_it_was_put_together(items):
    presets = [
        name + (":" + ",".join(f"{key}={value}" for key, value in pairs) if pairs else "")
        for name, pairs in items
    ]
    assert split_presets([",".join(presets)]) == presets == split_presets(presets)


MODEL_SETTINGS = {"propagation": 0.5, "tuning": 4, "budget": 1.75}
DATA_FREE = {"rule": [RULE]}


def test_a_file_says_how_the_blocks_are_walked(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('propagation = 0.5\ntuning = 4\nbudget = 1.75\n[[rule]]\nquantizer = "trellis"\n')
    recipe = load_recipe(file)
    assert (recipe.propagation, recipe.tuning, recipe.budget) == (0.5, 4, 1.75)
    assert {name: recipe.to_dict()[name] for name in MODEL_SETTINGS} == MODEL_SETTINGS
    assert json.loads(json.dumps(recipe.to_dict())) == {
        **recipe.to_dict(),
        "rules": [{**asdict(rule)} for rule in recipe.rules],
    }


def test_left_out_the_walk_is_the_plain_one():
    recipe = parse_recipe(DATA_FREE, "x")
    assert (recipe.propagation, recipe.tuning, recipe.budget) == (0.0, 0, None)
    assert {name: recipe.to_dict()[name] for name in MODEL_SETTINGS} == {
        "propagation": 0.0,
        "tuning": 0,
        "budget": None,
    }


@pytest.mark.parametrize(("name", "value"), MODEL_SETTINGS.items())
def test_what_a_recipe_says_about_the_walk_needs_data(name, value):
    assert not parse_recipe(DATA_FREE, "x").needs_data
    assert parse_recipe({**DATA_FREE, name: value}, "x").needs_data
    assert parse_recipe(DATA_FREE, "x").with_settings({name: value}).needs_data


def test_packed_embeddings_need_no_data_of_their_own():
    assert not parse_recipe({**DATA_FREE, "embeddings": 4}, "x").needs_data
    assert parse_recipe(DATA_FREE, "x").embeddings is None
    assert load_recipe("trellis-2:embeddings=3").embeddings == 3


def test_a_walk_that_is_switched_off_needs_none():
    assert not parse_recipe({**DATA_FREE, "propagation": 0, "tuning": 0}, "x").needs_data


def test_settings_behind_a_name_are_the_recipes_or_the_quantizers():
    recipe = load_recipe("trellis-2:tuning=4,window=12,propagation=0.25,budget=2")
    assert recipe.name == "trellis-2:tuning=4,window=12,propagation=0.25,budget=2"
    assert (recipe.propagation, recipe.tuning, recipe.budget) == (0.25, 4, 2)
    assert recipe.rules[0].settings == load_recipe("trellis-2").rules[0].settings | {"window": 12}
    assert build_quantizer(recipe.rules[0]).window == 12
    assert recipe.true_bits is None
    assert load_recipe(recipe.name) == recipe
    again = recipe.with_settings({"tuning": 0})
    assert (again.tuning, again.propagation) == (0, 0.25)


ENDS = {
    "propagation": [0, 0.0, 1, 1.0, 0.3],
    "tuning": [0, 1, 50],
    "budget": [0.5, 1, 2.125],
    "embeddings": [0.5, 2.25, 4, 5, 6.0, 8],
}


@pytest.mark.parametrize(("name", "values"), ENDS.items())
def test_the_ends_of_the_ranges_are_taken(name, values):
    for value in values:
        assert getattr(parse_recipe({**DATA_FREE, name: value}, "x"), name) == value


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("propagation", [-0.1, 1.1, True, "0.5", None, float("nan"), [0.5]], "needs a number from 0"),
        ("tuning", [-1, 1.5, 2.0, True, "2", None], "needs a number of epochs"),
        ("budget", [0, -1.0, True, "2", None, float("inf"), float("nan")], "needs the true bits per weight"),
        (
            "embeddings",
            [0, 0.4, 4.5, 9, True, "4", None, float("nan")],
            "needs bits per weight: 0.5 … 4, or 5, 6, 7, 8",
        ),
    ],
)
def test_what_is_out_of_its_range_is_refused(name, values, message):
    for value in values:
        with pytest.raises(InputError, match=rf"recipe mine\.toml: {name} = .*; {message}") as caught:
            parse_recipe({**DATA_FREE, name: value}, "mine.toml")
        assert "\n" not in str(caught.value)
        with pytest.raises(InputError, match=f"recipe bivlm-paper: {name} = .*; {message}"):
            load_recipe("bivlm-paper").with_settings({name: value})


@pytest.mark.parametrize("setting", ["propagation=2", "tuning=half", "budget=none"])
def test_what_is_out_of_its_range_behind_a_name_is_refused(setting):
    with pytest.raises(InputError, match=f"recipe trellis-2: {setting.partition('=')[0]} = "):
        load_recipe(f"trellis-2:{setting}")


# ---- quantizers as objects


def test_a_rule_takes_a_quantizer_as_it_is():
    by_name = Rule("trellis", "language", "*.q_proj", {"bits": 1.5, "window": 12})
    by_object = Rule(Trellis(bits=1.5, window=12), "language", "*.q_proj")
    assert build_quantizer(by_object) is by_object.quantizer
    assert build_quantizer(by_name) == build_quantizer(by_object)
    changed = by_object.with_settings({"bits": 3})
    assert changed.quantizer == Trellis(bits=3, window=12)
    with pytest.raises(InputError, match="quantizer trellis: bits=9 is refused"):
        by_object.with_settings({"bits": 9})


def test_what_a_recipe_of_objects_remembers_makes_the_same_quantizers():
    recipe = Recipe("mine", (Rule(RTN(bits=3), "vision"), Rule("keep", linears="*.o_proj"), Rule(Trellis())))
    remembered = json.loads(json.dumps(recipe.to_dict()))
    again = [Rule(**rule) for rule in remembered["rules"]]
    assert [rule.part for rule in again] == ["vision", None, None]
    kept = [rule for rule in zip(recipe.rules, again, strict=True) if rule[0].quantizer != "keep"]
    assert all(build_quantizer(one) == build_quantizer(other) for one, other in kept)
    assert recipe_of(Trellis()).needs_data
    assert not recipe_of(RTN()).needs_data
