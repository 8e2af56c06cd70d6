"""What a language model is judged by: divergence and agreement against their definitions, greedy writing
against a plain loop, and the rows that a file keeps.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from bivlm.errors import InputError
from bivlm.job.recipe import load_recipe
from bivlm.loading import load
from kept_rows import is_current, kept_rows, plain_recipe, save_rows
from language_judge import Judge, prompts_of, text_loss, written, written_alike
from tiny.language import tiny_language_model


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return tiny_language_model("llama", folder / "a"), tiny_language_model("qwen3", folder / "b")


@pytest.fixture(scope="module")
def windows():
    return torch.randint(0, 60, (3, 12), generator=torch.Generator().manual_seed(0))


def loaded(folder):
    return load(folder)[0]


def test_divergence_and_agreement_are_those_of_every_predicted_token(folders, windows):
    original, model = map(loaded, folders)
    loss, fidelity = text_loss(model, windows, original)
    p, q = (one(input_ids=windows).logits[:, :-1].double().log_softmax(-1) for one in (original, model))
    assert fidelity.kl == pytest.approx((p.exp() * (p - q)).sum(-1).mean().item(), rel=1e-4)
    assert fidelity.top1_agreement == (p.argmax(-1) == q.argmax(-1)).double().mean().item()
    assert loss == pytest.approx(-q.gather(-1, windows[:, 1:, None]).mean().item(), rel=1e-5)


def test_a_model_goes_on_after_its_own_tokens_and_nothing_ends_it(folders, windows):
    model = loaded(folders[0])
    tokens = windows
    for _ in range(windows.shape[1]):
        following = model(input_ids=tokens).logits[:, -1].argmax(-1)
        tokens = torch.cat([tokens, following[:, None]], 1)
    model.generation_config.eos_token_id = int(tokens[0, 13])
    assert torch.equal(written(model, windows, 12), tokens[:, 12:])
    assert model.generation_config.eos_token_id == int(tokens[0, 13])


def test_writing_is_compared_up_to_the_first_difference_and_over_all():
    expected = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    given = torch.tensor([[1, 2, 0, 4], [0, 6, 7, 8]])
    assert written_alike(expected, given) == (2 / 8, 6 / 8)
    assert written_alike(expected, expected) == (1, 1)


def test_prompts_are_the_beginnings_of_pieces():
    windows = torch.arange(2 * 300).view(2, 300)
    prompts = prompts_of(windows)
    assert prompts.shape == (4, 64)
    assert prompts[:, 0].tolist() == [0, 128, 300, 428]
    assert prompts_of(windows[:, :11]).tolist() == windows[:, :5].tolist()


def test_the_model_itself_differs_from_itself_by_nothing(folders, windows):
    judge = Judge(folders[0], windows, windows[:1])
    found = judge.judge(loaded(folders[0]))
    assert found["kl"] == pytest.approx(0, abs=1e-6)
    assert (found["top1"], found["written_until"], found["written_all"]) == (1, 1, 1)
    full = judge.full_precision()
    assert found["perplexity"] == pytest.approx(full["perplexity"])
    assert found["second_perplexity"] == pytest.approx(full["second_perplexity"])
    assert full["bits"] == 32


def test_a_row_is_current_as_far_as_it_describes_the_recipe():
    recipe = load_recipe("trellis-2")
    row = {"preset": "trellis-2", **plain_recipe(recipe)}
    assert is_current(row, recipe)
    assert is_current({"rules": row["rules"]}, recipe)
    assert not is_current(row, replace(recipe, propagation=0.5))
    assert not is_current(row | {"failed": "why"}, recipe)
    assert not is_current(None, recipe)


def test_what_came_later_may_be_missing_in_a_file(tmp_path):
    path = tmp_path / "rows.json"
    save_rows(path, {"windows": 3}, {"a": {"preset": "a", "bits": 2.0}})
    assert json.loads(path.read_text())["rows"] == [{"preset": "a", "bits": 2.0}]
    now = {"windows": 3, "second": "x"}
    assert kept_rows(path, now, later=("second",)) == {"a": {"preset": "a", "bits": 2.0}}
    assert kept_rows(path, {"windows": 3}, key=lambda row: row["bits"]) == {2.0: {"preset": "a", "bits": 2.0}}
    with pytest.raises(InputError, match="another protocol"):
        kept_rows(path, now)
    save_rows(path, now, {})
    with pytest.raises(InputError, match=r"another protocol \(second: x, now y\)"):
        kept_rows(path, now | {"second": "y"}, later=("second",))
