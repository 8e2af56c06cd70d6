"""What no method packs is always said, and a model that consists of it is packed only if the user says so.

Fused experts are split and packed, unless the family keeps them or they cannot be read one by one.
"""

from __future__ import annotations

import json

import pytest

from bivlm import families
from bivlm.checkpoint import stacks
from bivlm.checkpoint.source import SourceModel
from bivlm.errors import InputError
from bivlm.eval.inspection import inspect
from bivlm.job.kept import EXPERTS, kept_weights
from bivlm.job.request import make_request
from bivlm.job.run import prepare, run
from tiny import tiny_checkpoint
from tiny.experts import expert_family, expert_model

ROUTER = "language_model.model.layers.*.feed_forward.router.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return expert_model("llama4", tmp_path_factory.mktemp("kept") / "llama4")


@pytest.fixture(autouse=True)
def declared(monkeypatch):
    monkeypatch.setattr(families, "USED", {"llama4": expert_family("llama4")})
    monkeypatch.setattr(stacks, "_is_separable", lambda entry: False)


def test_linears_of_other_kinds_and_experts_are_found(folder):
    source = SourceModel(folder)
    router, experts = sorted(kept_weights(source), key=lambda kept: kept.kind)
    assert (router.kind, router.part, router.names, router.matrices) == (
        "Llama4Router",
        "language",
        (ROUTER,),
        1,
    )
    assert router.weights == 4 * 96
    assert router.because == "Llama4Router is no plain linear"
    assert (experts.kind, experts.part, experts.because, experts.matrices) == (
        EXPERTS,
        "language",
        EXPERTS,
        8,
    )
    shapes = [entry.shape for name, entry in source.entries.items() if ".experts." in name]
    assert experts.weights == sum(e * rows * columns for e, rows, columns in shapes)
    assert experts.nbytes == 4 * experts.weights
    assert len(experts.names) == len(shapes) == 2


def test_the_plan_and_the_records_say_what_stays(folder, tmp_path):
    prepared = prepare(folder, make_request("bivlm-paper", allow_kept_experts=True))
    rows = {row.treatment: row for row in prepared.expected.rows}
    assert rows["kept: Llama4Router is no plain linear"].weights == 4 * 96
    assert rows[f"kept: {EXPERTS}"].linears == 8
    planned = {linear.name for linear in prepared.plan.linears}
    assert not any("router" in name for name in planned)
    source = prepared.source
    packed = sum(
        source.entries[f"{weight.name}.weight"].nbytes
        for weight in prepared.plan.weights
        if weight.quantizer is not None
    )
    total = sum(entry.nbytes for entry in source.entries.values())
    assert prepared.expected.kept_bytes == total - packed
    assert prepared.expected.kept_share == pytest.approx(1 - packed / total)
    out = run(prepared, tmp_path / "out")
    kept = json.loads((out / "config.json").read_text())["quantization_config"]["kept"]
    assert kept["bytes"] == prepared.expected.kept_bytes
    assert {row["kind"] for row in kept["weights"]} == {"Llama4Router", EXPERTS}
    card = (out / "README.md").read_text()
    assert f"{kept['bytes']:,} bytes, {kept['share']:.1%} of the model before" in card
    assert f"Llama4Router, {EXPERTS}" in card
    assert inspect(out).kept_share == kept["share"]


def test_a_model_of_experts_is_refused_unless_the_user_says_so(folder, monkeypatch):
    message = r"\d\d% of the weights in its blocks are fused experts .*--allow-kept-experts"
    with pytest.raises(InputError, match=message):
        prepare(folder, make_request("rtn-3", parts=["language"]))
    assert prepare(folder, make_request("rtn-3", parts=["vision"]))  # whose blocks have none
    assert prepare(folder, make_request("rtn-3", parts=["language"], allow_kept_experts=True))
    monkeypatch.setitem(families.USED, "llama4", expert_family("llama4", "*.experts"))
    assert prepare(folder, make_request("rtn-3", parts=["language"]))  # its family keeps them on purpose


def test_a_model_of_plain_linears_has_none(tmp_path):
    prepared = prepare(tiny_checkpoint("llava", tmp_path / "source"), make_request("rtn-3"))
    assert kept_weights(prepared.source) == ()
    assert not any("plain linear" in row.treatment for row in prepared.expected.rows)
    assert 0 < prepared.expected.kept_share < 1
