"""The plan names every linear of a model once, with its quantizer or the reason why it stays, and refuses
rules that reach nothing.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from torch import nn

from bivlm.checkpoint.source import SourceModel
from bivlm.errors import InputError
from bivlm.job.plan import make_plan
from bivlm.job.recipe import parse_recipe
from bivlm.quantizers import Trellis
from bivlm.types import EMBEDDINGS, PARTS
from tiny import tiny_model

PLAIN = {"quantizer": "bivlm", "settings": {"compensate": False}}
FED = {"quantizer": "bivlm", "settings": {"compensate": True}}


@pytest.fixture(scope="module", params=["llava", "mllama", "qwen2_5_vl"])
def source(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "source"
    tiny_model(request.param).save_pretrained(folder)
    return SourceModel(folder)


def plan_of(source, *rules, parts=PARTS):
    return make_plan(source, parse_recipe({"rule": list(rules)}, "test"), parts)


def test_every_linear_of_the_model_is_named_once(source):
    linears = {
        name: (child.out_features, child.in_features)
        for name, child in source.model.named_modules()
        if isinstance(child, nn.Linear)
    }
    planned = plan_of(source, PLAIN).linears
    assert len(planned) == len(linears)
    assert {linear.name: linear.shape for linear in planned} == linears


def test_a_linear_is_quantized_or_kept_for_a_reason(source):
    plan = plan_of(source, {"quantizer": "keep", "linears": "*.q_proj"}, PLAIN, parts=("language",))
    reasons = {"kept by its family", "part not chosen", "kept by the recipe", "outside the blocks"}
    for linear in plan.linears:
        assert (linear.quantizer is None) == (linear.kept_because in reasons), linear.name
        if linear.name.endswith("q_proj") and linear.part == "language":
            assert linear.kept_because == "kept by the recipe"
    assert {linear.part for linear in plan.linears if linear.quantizer is not None} == {"language"}
    assert any(linear.kept_because == "part not chosen" for linear in plan.linears)


def test_what_the_family_keeps_is_kept_whatever_the_recipe_says(source):
    plan = plan_of(source, PLAIN)
    for linear in plan.linears:
        if any(fnmatchcase(linear.name, pattern) for pattern in source.family.full_precision):
            assert linear.quantizer is None, linear.name
    assert next(linear for linear in plan.outside if linear.name == "lm_head").quantizer is None


def embeddings_of(source, bits, rule=PLAIN):
    return make_plan(source, parse_recipe({"rule": [rule], "embeddings": bits}, "test"), PARTS)


def test_embedding_and_head_are_planned_once_each_or_as_one(source):
    model = source.model
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    plan, tied = embeddings_of(source, 3), "lm_head.weight" in model.all_tied_weights_keys
    found = {linear.kind: linear for linear in plan.tables}
    assert list(found) == (["embedding"] if tied else ["embedding", "head"])
    assert model.get_submodule(found["embedding"].name) is embedding
    assert found["embedding"].shape == tuple(embedding.weight.shape)
    assert found["embedding"].head == ("lm_head" if tied else None)
    assert plan.shared == ({"lm_head.weight"} if tied else frozenset())
    if not tied:
        assert (found["head"].name, found["head"].shape) == ("lm_head", tuple(head.weight.shape))
    assert {linear.place for linear in plan.tables} == {EMBEDDINGS}
    assert "lm_head" not in {linear.name for linear in plan.outside}
    assert plan.units[-len(found) :] == plan.tables
    assert len({linear.name for linear in plan.weights}) == len(plan.weights)


def test_what_reaches_the_head_is_looked_at_where_there_is_data(source):
    for rule, fed in ((PLAIN, False), (FED, True)):
        plan = embeddings_of(source, 3, rule)
        *own, head = plan.tables
        assert head.quantizer == Trellis(bits=3, feedback=fed)
        assert all(linear.quantizer == Trellis(bits=3, feedback=False) for linear in own)
        assert plan.head_needs_data is fed
    assert not embeddings_of(source, 6, FED).head_needs_data


def test_left_out_embeddings_stay(source):
    plan = plan_of(source, FED)
    assert plan.tables == ()
    assert plan.shared == frozenset()
    assert not plan.head_needs_data


def test_an_embedding_that_is_none_of_torchs_is_refused(source, monkeypatch):
    class Scaled(nn.Embedding):
        pass

    monkeypatch.setattr(source.model, "get_input_embeddings", lambda: Scaled(4, 4))
    with pytest.raises(
        InputError,
        match=(
            r"embeddings = 3: the embedding of \w+ is a Scaled and its head a Linear; .*leave embeddings out"
        ),
    ):
        embeddings_of(source, 3)


def test_blocks_come_in_the_order_of_the_stacks(source):
    blocks = plan_of(source, PLAIN).blocks
    assert [block.stack for block in blocks] == sorted(block.stack for block in blocks)
    assert {block.stack for block in blocks} == set(range(len(source.family.stacks)))
    for block in blocks:
        assert all(
            linear.name == block.path or linear.name.startswith(f"{block.path}.") for linear in block.linears
        )
        assert all(linear.part == source.family.stacks[block.stack].part for linear in block.linears)


def test_needs_data_only_where_a_quantizer_does(source):
    assert not plan_of(source, PLAIN).needs_data
    mixed = plan_of(source, {**FED, "part": "language"}, PLAIN)
    assert mixed.needs_data
    for block in mixed.blocks:
        assert block.needs_data == (
            source.family.stacks[block.stack].part == "language" and bool(block.quantized)
        ), block.path


@pytest.mark.parametrize(
    ("rules", "parts", "message"),
    [
        ([{**PLAIN, "linears": "*.nothing"}], PARTS, "matches no linear of the chosen parts"),
        (
            [{**PLAIN, "linears": "*.nothing"}, PLAIN],
            PARTS,
            r"rule 1 \(part any, linears '\*\.nothing'\) matches no linear",
        ),
        ([{**PLAIN, "part": "vision"}], ("language",), "nothing would be quantized"),
        ([PLAIN, {**PLAIN, "part": "vision"}], PARTS, "rule 2"),
    ],
)
def test_rules_that_reach_nothing_are_refused(source, rules, parts, message):
    with pytest.raises(InputError, match=message):
        plan_of(source, *rules, parts=parts)


def test_rules_of_other_parts_and_the_last_general_one_may_be_left_with_nothing(source):
    rules = [{**PLAIN, "part": "vision"}, {**PLAIN, "part": "language"}, PLAIN]
    for parts in (("vision",), ("language",), PARTS):
        planned = {
            linear.part
            for linear in plan_of(source, *rules, parts=parts).linears
            if linear.quantizer is not None
        }
        assert planned <= set(parts)
        assert planned
