"""The language benchmark: its text, its windows, its perplexity against transformers' own loss, and a run
that is interrupted and goes on.
"""

from __future__ import annotations

import json
import math
import sys

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

import bench_language
import language_model
from bench_language import run
from bivlm.errors import InputError
from bivlm.eval.inspection import inspect
from bivlm.events import SILENT
from bivlm.job.recipe import Recipe, Rule, load_recipe
from bivlm.loading import load
from bivlm.quantizers import RTN
from kept_rows import kept_rows
from language_judge import perplexity
from language_model import Bench, gguf_option
from preset_tables import recipes_of
from texts import read_text, strip_html, token_windows

WORDS = "the cat sat on a mat and looked at some other cat near my old door for one long day"


def tiny_model() -> transformers.LlamaForCausalLM:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
    )
    return transformers.LlamaForCausalLM(config).eval().requires_grad_(False)


def tiny_tokenizer() -> transformers.PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel(unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.train_from_iterator([WORDS], trainers.WordLevelTrainer(special_tokens=["?"]))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?")


@pytest.fixture
def bench(tmp_path) -> Bench:
    folder = tmp_path / "model"
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    windows = torch.randint(0, 40, (6, 12), generator=torch.Generator().manual_seed(1))
    return Bench(folder, windows[:4], windows[4:], tmp_path / "work")


def test_html_is_stripped_of_tags_scripts_and_listings():
    page = (
        "<html><script>var a = '<b>';</script><p class='x'>One &amp; two<br/>three<pre>$"
        " <b>ls</b></pre><script src='a'/></p>four<style>p{}</style>"
    )
    assert strip_html(page).split() == ["One", "&", "two", "three", "four"]


def test_even_pages_calibrate_odd_pages_test_and_short_ones_do_not_count(tmp_path):
    for name, letter, length in (
        ("1.txt", "a", 3500),
        ("2.html", "b", 3500),
        ("3.txt", "c", 3000),
        ("4.md", "d", 3001),
        ("5.jpg", "e", 9000),
    ):
        (tmp_path / name).write_text(letter * length)
    assert read_text(tmp_path) == (
        "a" * 3100 + " " + "d" * 2601,
        "b" * 3101 + " ",
    )  # a page of HTML begins and ends with a space


def test_a_folder_without_text_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("a" * 9000)
    with pytest.raises(InputError, match=r"has 1 pages of more than 3000 characters in 1 files"):
        read_text(tmp_path)
    with pytest.raises(InputError, match="there is no folder"):
        read_text(tmp_path / "none")


def test_windows_are_cut_from_the_beginning_and_a_short_text_is_refused():
    tokenizer = tiny_tokenizer()
    ids = tokenizer(WORDS).input_ids
    assert token_windows(tokenizer, WORDS, "test", 2, 4).tolist() == [ids[:4], ids[4:8]]
    with pytest.raises(
        InputError,
        match=f"the text to test with is too short: it has {len(ids)} tokens, 5 windows of 8 need 40",
    ):
        token_windows(tokenizer, WORDS, "test", 5, 8)


def test_perplexity_is_that_of_transformers_own_loss(bench):
    model, _ = load(bench.folder)
    loss = model(input_ids=bench.test, labels=bench.test).loss  # the windows are of one length
    assert perplexity(model, bench.test) == pytest.approx(math.exp(loss), rel=1e-5)


def test_a_run_goes_on_where_it_ended(bench, tmp_path, monkeypatch):
    path = tmp_path / "rows.json"
    first = run(bench, recipes_of(["rtn-3"]), {"windows": 3}, path, again=False)
    measured = []
    original = Bench.measure
    monkeypatch.setattr(
        Bench,
        "measure",
        lambda self, name, *rest: measured.append(name) or original(self, name, *rest),
    )
    second = run(bench, recipes_of(["rtn-3", "gptq-2:group_size=8"]), {"windows": 3}, path, again=False)
    assert measured == ["gptq-2:group_size=8"]
    kept = json.loads(path.read_text())["rows"][1]
    assert next(row for row in second if row["preset"] == "rtn-3") == first[1] == kept
    assert second[0]["preset"] == "full precision"
    assert [row["bits"] for row in second[1:]] == sorted(row["bits"] for row in second[1:])
    run(bench, recipes_of(["rtn-3"]), {"windows": 3}, path, again=True)
    assert measured == ["gptq-2:group_size=8", "rtn-3"]


@pytest.mark.parametrize("preset", ["rtn-3", "trellis-2", "trellis-2:embeddings=3"])
def test_bits_and_perplexity_are_those_of_the_folder(bench, preset):
    """Counted by `bivlm inspect`, and computed by the kernels on the packed weights."""
    row = bench.measure(preset, load_recipe(preset), SILENT)
    out = next(path for path in bench.work.iterdir() if path.is_dir())
    assert row["bits"] == pytest.approx(inspect(out).total.bits_per_weight)
    plain, _ = load(out)
    assert row["perplexity"] == pytest.approx(perplexity(plain, bench.test), rel=1e-5)
    full = tiny_model()
    total = sum(parameter.numel() for parameter in full.parameters())
    packed = inspect(out).total.weights
    assert row["whole"] == pytest.approx((row["bits"] * packed + 16 * (total - packed)) / total)


def test_a_budget_tuning_and_a_failure_have_their_rows(bench):
    names = ["trellis-2:budget=3.2", "trellis-2:tuning=1,propagation=0.25"]
    budget, tuned = (bench.measure(name, load_recipe(name), SILENT) for name in names)
    assert budget["bits"] <= 3.2
    assert (bench.work / "sensitivities-4.json").exists()
    assert math.isfinite(tuned["perplexity"])
    rule = Rule("rtn", part="vision")
    assert "matches no linear" in bench.measure("none", Recipe("none", (rule,)), SILENT)["failed"]


def test_a_linear_that_is_kept_counts_sixteen_bits(bench):
    recipe = Recipe("some", (Rule("keep", linears="*.down_proj"), Rule(RTN(bits=3, group_size=16))))
    row = bench.measure("some", recipe, SILENT)
    out = bench.work / "some"
    packed = inspect(out).total
    kept = 2 * 16 * 24
    expected = (packed.bits_per_weight * packed.weights + 16 * kept) / (packed.weights + kept)
    assert (row["kept"], row["bits"]) == (2, pytest.approx(expected))


def test_results_of_another_protocol_are_refused(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"protocol": {"windows": 3}, "rows": []}))
    assert kept_rows(path, {"windows": 3}) == {}
    with pytest.raises(InputError, match=r"another protocol \(windows: 3, now 4\)"):
        kept_rows(path, {"windows": 4})
    path.write_text("[]")
    with pytest.raises(InputError, match="no results of this benchmark"):
        kept_rows(path, {"windows": 3})


def test_a_gguf_file_needs_its_package(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"no config\.json and 0 \.gguf files"):
        gguf_option(tmp_path)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(language_model, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install gguf"):
        gguf_option(tmp_path)
    monkeypatch.setattr(language_model, "find_spec", lambda name: object())
    assert gguf_option(tmp_path) == {"gguf_file": "model.gguf"}


def test_the_whole_run_on_folders(tmp_path, monkeypatch, capsys):
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "text").mkdir()
    for name in ("1.txt", "2.txt"):
        (tmp_path / "text" / name).write_text(f"{WORDS} " * 60)
    options = [
        "--model",
        str(tmp_path / "model"),
        "--text",
        str(tmp_path / "text"),
        "--presets",
        "rtn-3",
        "--windows",
        "3",
        "--window",
        "16",
    ]
    options += ["--second-text", str(tmp_path / "text")]
    options += [
        "--calibration-windows",
        "2",
        "--threads",
        "1",
        "--json",
        str(tmp_path / "rows.json"),
        "--markdown",
        str(tmp_path / "rows.md"),
    ]
    monkeypatch.setattr(sys, "argv", ["bench_language.py", *options, "--plot", str(tmp_path / "rows.png")])
    bench_language.main()
    assert "| rtn-3 | rtn |" in (tmp_path / "rows.md").read_text()
    assert str(tmp_path) not in (tmp_path / "rows.md").read_text()
    row = json.loads((tmp_path / "rows.json").read_text())["rows"][1]
    assert (row["second_perplexity"], row["second_kl"]) == (row["perplexity"], row["kl"])
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")
    assert "1/1 rtn-3" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["bench_language.py", *options, "--windows", "4000"])
    with pytest.raises(SystemExit, match="2"):
        bench_language.main()
    assert capsys.readouterr().err.startswith("bench_language: error: the text to test with is too short")
