"""bivlm adapt: an adapter is trained, used by ask and eval, and every mistake is one line."""

from __future__ import annotations

import json

import pytest

from bivlm.job.run import quantize

FEW = ("--rank", "2", "--linears", "*language*mlp*", "--batch-size", "2")


@pytest.fixture(scope="module")
def packed(source, tmp_path_factory):
    return quantize(source, tmp_path_factory.mktemp("adapt") / "packed", recipe="rtn-2")


@pytest.fixture
def data(questions):
    """Eight questions, the one of the fixture repeated."""
    questions["DATA"].write_text(8 * questions["DATA"].read_text())
    return questions["DATA"]


def test_adapt_ask_eval(run, source, packed, data, questions, tmp_path):
    out, words = tmp_path / "adapter", ("--data", data, "--rate", "0.01", *FEW)
    code, text, error = run("adapt", packed, tmp_path / "json", *words, "--teacher", source, "--json")
    assert code == 0, error
    result = json.loads(text)
    assert result["bits"] == result["base_bits"] + result["adapter_bits"]
    assert min(result["losses"]) < result["losses"][0]
    code, text, error = run("adapt", packed, out, *words)
    assert code == 0, error
    assert "9 linears with rank 2: true bits per packed weight" in text
    assert "held-out loss" in error
    code, text, error = run("adapt", packed, out, *words)
    assert "nothing to do" in error
    asked = ("What color?", "--image", questions["IMAGE"], "--max-new-tokens", 2, "--json")
    assert run("ask", packed, *asked, "--adapter", out)[0] == 0
    measured = ("--data", data, "--max-new-tokens", 2, "--reference", source, "--json")
    plain, adapted = (
        json.loads(run("eval", packed, *measured, *more)[1])["kl"]
        for more in ((), ("--adapter", tmp_path / "json"))
    )
    assert adapted != plain


def test_no_gain_is_said(run, packed, data, tmp_path):
    code, text, _ = run("adapt", packed, tmp_path / "adapter", "--data", data, "--rate", "1e-30", *FEW)
    assert code == 0
    assert "No adapter was better than none" in text
    assert not (tmp_path / "adapter").exists()


MISTAKES = {
    "a model that is not packed": ("adapt", "SOURCE", "OUT", "--data", "DATA"),
    "both sizes": ("adapt", "PACKED", "OUT", "--data", "DATA", "--rank", "2", "--budget-bits", "0.1"),
    "too few bits": ("adapt", "PACKED", "OUT", "--data", "DATA", "--budget-bits", "1e-9"),
    "no such linears": ("adapt", "PACKED", "OUT", "--data", "DATA", "--linears", "ears"),
    "no answers": ("adapt", "PACKED", "OUT", "--data", "UNANSWERED"),
    "no such adapter": ("ask", "PACKED", "What?", "--image", "IMAGE", "--adapter", "nowhere"),
    "an adapter that is a model": ("eval", "PACKED", "--data", "DATA", "--adapter", "SOURCE"),
    "an adapter for a model that is not packed": ("eval", "SOURCE", "--data", "DATA", "--adapter", "OUT"),
}


@pytest.mark.parametrize("words", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_and_exits_with_2(words, run, source, packed, data, questions, tmp_path):
    places = {"SOURCE": source, "PACKED": packed, "OUT": tmp_path / "out", **questions}
    code, _, error = run(*(places.get(word, word) for word in words))
    assert code == 2
    assert error.splitlines()[-1].startswith("bivlm: error:")
    assert "Traceback" not in error
    assert not (tmp_path / "out" / "adapter_config.json").exists()
