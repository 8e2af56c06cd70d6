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
from bench_language import kept_rows, run
from bench_layers import quantizer_for, recipes_of
from bivlm.errors import InputError
from bivlm.quantizers import Trellis
from bivlm.types import LinearStats
from language_model import Bench, block_linears, collect, gguf_option, perplexity
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
def bench() -> Bench:
    model = tiny_model()
    windows = torch.randint(0, 40, (5, 12), generator=torch.Generator().manual_seed(1))
    return Bench(model, block_linears(model), windows[:2], windows[2:])


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
    loss = bench.model(
        input_ids=bench.test, labels=bench.test
    ).loss  # the windows are of one length, so its mean is ours
    assert perplexity(bench.model, bench.test) == pytest.approx(math.exp(loss), rel=1e-5)


def test_second_moments_are_those_of_the_inputs_and_shared(bench):
    inputs = []
    with bench.linears["model.layers.1.mlp.down_proj"].register_forward_pre_hook(
        lambda _module, args: inputs.append(args[0])
    ):
        stats = collect(bench.model, bench.linears, bench.calibration)
    x = torch.cat(inputs).reshape(-1, 24)
    found = stats.stats("model.layers.1.mlp.down_proj")
    assert found.tokens == {"text": 24}
    torch.testing.assert_close(found.hessian, x.T @ x / 24)
    assert len(stats._sums) == 2 * 4  # q, k, v | o | gate, up | down


def test_the_blocks_linears_are_all_but_the_head(bench):
    expected = [
        name
        for name, module in bench.model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    ]
    assert list(bench.linears) == expected
    with pytest.raises(InputError, match=r"has no blocks with nn\.Linear"):
        block_linears(torch.nn.Linear(2, 2))


def test_a_run_goes_on_where_it_ended_and_leaves_the_model_as_it_was(bench, tmp_path, monkeypatch):
    path, before = tmp_path / "rows.json", {name: linear.weight for name, linear in bench.linears.items()}
    first = run(bench, recipes_of(["bivlm-paper"]), {"windows": 3}, path, again=False)
    assert all(linear.weight is before[name] for name, linear in bench.linears.items())
    measured = []
    original = Bench.measure
    monkeypatch.setattr(
        Bench, "measure", lambda self, name, recipe: measured.append(name) or original(self, name, recipe)
    )
    second = run(bench, recipes_of(["bivlm-paper", "bivlm:group_size=8"]), {"windows": 3}, path, again=False)
    assert measured == ["bivlm:group_size=8"]
    assert (
        next(row for row in second if row["preset"] == "bivlm-paper")
        == first[1]
        == json.loads(path.read_text())["rows"][1]
    )
    assert second[0]["preset"] == "full precision"
    assert [row["bits"] for row in second[1:]] == sorted(row["bits"] for row in second[1:])
    run(bench, recipes_of(["bivlm-paper"]), {"windows": 3}, path, again=True)
    assert measured == ["bivlm:group_size=8", "bivlm-paper"]


def test_the_walk_quantizes_block_by_block_and_gives_every_parameter_back(bench):
    """Tuned norms are put into the model while it is measured."""
    before = {name: (parameter, parameter.clone()) for name, parameter in bench.model.named_parameters()}
    recipes = recipes_of(["trellis-2:tuning=1", "trellis-2:propagation=0.5,budget=2.9"])
    rows = [bench.measure(name, recipe) for name, recipe in recipes.items()]
    assert all("failed" not in row and math.isfinite(row["perplexity"]) for row in rows)
    assert rows[1]["bits"] <= 2.9
    assert all(
        parameter is before[name][0] and torch.equal(parameter, before[name][1])
        for name, parameter in bench.model.named_parameters()
    )


def test_bits_are_stored_bits_over_weights_and_the_packed_weights_are_measured(bench):
    recipe = recipes_of(["bivlm-paper"])["bivlm-paper"]
    row = bench.measure("bivlm-paper", recipe)
    stored = weights = 0
    for name, linear in bench.linears.items():
        method = quantizer_for(recipe, name)
        quantized = method.quantize(linear.weight.data, None)
        stored, weights = stored + 8 * quantized.encode().nbytes, weights + linear.weight.numel()
        linear.weight.data = quantized.dequantize()
    assert row["bits"] == stored / weights
    assert row["perplexity"] == pytest.approx(perplexity(bench.model, bench.test), rel=1e-6)


@pytest.mark.parametrize("tied", [False, True])
def test_embedding_and_head_are_packed_last_and_counted(bench, tied):
    model = bench.model
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    before = model.lm_head.weight, model.model.embed_tokens.weight
    recipes = recipes_of(
        [
            "trellis-2",
            "trellis-2:embeddings=3",
            "trellis-2:budget=3.5,embeddings=3",
            "trellis-2:propagation=0.5,embeddings=3",
        ]
    )
    plain, embedded, budgeted, propagated = (bench.measure(name, recipe) for name, recipe in recipes.items())
    assert embedded["whole"] < plain["whole"]
    assert budgeted["bits"] <= 3.5
    assert math.isfinite(propagated["perplexity"])
    weights = sum(linear.weight.numel() for linear in bench.linears.values())
    tables = (1 if tied else 2) * 40 * 16
    packed = [
        Trellis(bits=3)
        .quantize(model.lm_head.weight.data, LinearStats({"text": torch.eye(16)}, {"text": 9}))
        .encode()
        .nbytes
    ]
    assert embedded["bits"] == pytest.approx(
        (plain["bits"] * weights + 8 * len(packed) * packed[0] * tables / 640) / (weights + tables)
    )
    assert embedded["perplexity"] != plain["perplexity"]
    assert model.lm_head.weight is before[0]
    assert model.model.embed_tokens.weight is before[1]


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
        "bivlm-paper",
        "--windows",
        "3",
        "--window",
        "16",
    ]
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
    assert "| bivlm-paper | bivlm |" in (tmp_path / "rows.md").read_text()
    assert str(tmp_path) not in (tmp_path / "rows.md").read_text()
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")
    assert "1/1 bivlm-paper" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["bench_language.py", *options, "--windows", "4000"])
    with pytest.raises(SystemExit, match="2"):
        bench_language.main()
    assert capsys.readouterr().err.startswith("bench_language: error: the text to test with is too short")
