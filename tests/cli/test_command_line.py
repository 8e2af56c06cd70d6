"""The command line from outside: exit codes, one line for mistakes, JSON that parses, a dry run that writes
nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from PIL import Image

from bivlm import cli
from tiny import tiny_checkpoint


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny_checkpoint("llava", tmp_path_factory.mktemp("cli") / "source", torch.bfloat16)


@pytest.fixture
def run(monkeypatch, capfd):
    """Call the command line; returns exit code, standard output and standard error."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["bivlm", *map(str, words)])
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = ended.code or 0
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call


def test_quantize_ask_eval_inspect(run, source, tmp_path):
    out = tmp_path / "out"
    code, text, _ = run("quantize", source, out, "--preset", "bivlm-paper", "--set", "bands=2", "--json")
    assert code == 0
    packed = json.loads(text)
    assert packed["total"]["bits_per_weight"] > packed["total"]["paper_bits"] > 1
    image = tmp_path / "image.png"
    Image.new("RGB", (40, 30), "red").save(image)
    (tmp_path / "vqa.jsonl").write_text(
        json.dumps({"image": "image.png", "question": "What color?", "answer": "red"}) + "\n"
    )
    code, text, _ = run("ask", out, "What color?", "--image", image, "--max-new-tokens", 3, "--json")
    assert code == 0
    assert set(json.loads(text)) == {"question", "image", "answer"}
    code, text, _ = run(
        "eval", out, "--data", tmp_path / "vqa.jsonl", "--reference", source, "--max-new-tokens", 3, "--json"
    )
    assert code == 0
    result = json.loads(text)
    assert result["n"] == 1
    assert result["kl"] >= 0
    code, text, _ = run("inspect", out, "--json")
    assert code == 0
    assert json.loads(text)["total"] == packed["total"]


def test_bits_are_a_budget_and_effort_is_a_recipe(run, source, tmp_path):
    data = question_files(tmp_path)["DATA"]
    data.write_text(4 * data.read_text())
    words = (
        "--preset",
        "trellis-1",
        "--bits",
        "1.9",
        "--effort",
        "high",
        "--data",
        data,
        "--parts",
        "language",
    )
    assert json.loads(run("quantize", source, tmp_path / "out", *words, "--dry-run", "--json")[1])[
        "bits"
    ] == pytest.approx(1.9)
    code, _, error = run("quantize", source, tmp_path / "out", *words)
    assert (code, "measured" in error) == (0, True)
    found = json.loads(run("inspect", tmp_path / "out", "--json")[1])
    recipe = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["recipe"]
    assert found["total"]["bits_per_weight"] <= 1.9
    assert (recipe["budget"], recipe["propagation"], recipe["tuning"]) == (1.9, 0.25, 4)


def test_embeddings_are_packed_when_asked_for(run, source, tmp_path):
    words = ("quantize", source, tmp_path / "out", "--preset", "bivlm-paper", "--embeddings", "3")
    rows = json.loads(run(*words, "--dry-run", "--json")[1])["rows"]
    assert (
        next(row for row in rows if row["part"] == "embeddings")["treatment"]
        == "trellis bits=3.0 feedback=False"
    )
    assert run(*words)[0] == 0
    found = json.loads(run("inspect", tmp_path / "out", "--json")[1])
    assert found["recipe"] == "bivlm-paper:embeddings=3"
    assert "embeddings" in {row["name"] for row in found["parts"]}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "packed linears and embeddings" in card
    assert "Everything else (norms, convolutions, what the recipe keeps)" in card
    code, _, error = run(*words[:-1], "4.5")
    assert code == 2
    assert "embeddings = 4.5; needs bits per weight: 0.5 … 4, or 5, 6, 7, 8" in error


def test_dry_run_writes_nothing(run, source, tmp_path):
    code, text, _ = run(
        "quantize", source, tmp_path / "out", "--preset", "bivlm-paper", "--dry-run", "--json"
    )
    assert code == 0
    assert {row["part"] for row in json.loads(text)["rows"]} == {"vision", "projector", "language", "outside"}
    assert not (tmp_path / "out").exists()


def question_files(folder):
    """An image and two JSONL files about it, with and without the answer."""
    Image.new("RGB", (40, 30), "red").save(folder / "image.png")
    question = {"image": "image.png", "question": "What color?"}
    (folder / "vqa.jsonl").write_text(json.dumps({**question, "answer": "red"}) + "\n")
    (folder / "unanswered.jsonl").write_text(json.dumps(question) + "\n")
    return {"DATA": folder / "vqa.jsonl", "UNANSWERED": folder / "unanswered.jsonl"}


def test_a_preset_that_is_dear_on_this_model_says_so(run, source, tmp_path):
    recipe = tmp_path / "one.toml"
    recipe.write_text(
        'name = "one"\ntrue_bits = 1.0\n[[rule]]\nquantizer = "bivlm"\nsettings = { bands = 2, compensate ='
        " false }\n"
    )
    code, text, error = run("quantize", source, tmp_path / "out", "--preset", recipe, "--dry-run", "--json")
    assert code == 0
    assert json.loads(text)["warning"].startswith("one is meant for about 1 true bits")
    assert json.loads(text)["warning"] in error
    code, text, error = run(
        "quantize", source, tmp_path / "out", "--preset", f"{recipe}:bands=2", "--dry-run", "--json"
    )
    assert json.loads(text)["warning"] == ""


def test_compare(run, source, tmp_path):
    data = question_files(tmp_path)["DATA"]
    presets = "bivlm-paper:bands=1,salient_max=0,bivlm-paper:bands=2,salient_max=0"
    words = (
        "compare",
        source,
        "--data",
        data,
        "--out",
        tmp_path / "out",
        "--presets",
        presets,
        "--parts",
        "projector",
        "--max-new-tokens",
        2,
    )
    code, text, error = run(*words, "--json")
    assert code == 0
    found = json.loads(text)
    assert [row["preset"] for row in found["rows"]] == [
        "bivlm-paper:bands=1,salient_max=0",
        "bivlm-paper:bands=2,salient_max=0",
        "full precision",
    ]
    assert found["command"].startswith("bivlm compare ")
    assert error.count("packed in") == 2
    code, text, error = run(*words)
    assert code == 0
    assert error.count("measured before") == 3
    assert "true bits" in text
    assert (tmp_path / "out" / "comparison.png").exists()


def test_compare_exits_with_2_when_a_preset_fails_and_measures_the_others(run, source, tmp_path):
    data = question_files(tmp_path)["DATA"]
    recipe = tmp_path / "nowhere.toml"
    recipe.write_text(
        '[[rule]]\nquantizer = "bivlm"\nlinears = "*.nothing"\nsettings = { compensate = false }\n'
    )
    presets = ("--presets", recipe, "--presets", "bivlm-paper:bands=1,salient_max=0")
    words = (
        "compare",
        source,
        "--data",
        data,
        "--out",
        tmp_path / "out",
        *presets,
        "--parts",
        "projector",
        "--max-new-tokens",
        2,
    )
    code, text, error = run(*words)
    assert code == 2
    assert "1 of 2 runs failed" in error
    assert "failed: nowhere: recipe nowhere matches no linear" in text
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["rows"][0]["true_bits"] > 1


def test_prune(run, source, tmp_path):
    data = question_files(tmp_path)["DATA"]
    words = (
        "prune",
        source,
        "--data",
        data,
        "--out",
        tmp_path / "out",
        "--pruners",
        "grid,attention:attending=last",
        "--layers",
        "1",
        "--max-new-tokens",
        2,
    )
    code, text, _ = run(*words, "--keep", "0.5,0.25", "--json")
    assert code == 0
    found = json.loads(text)
    assert [(cell["pruner"], cell["keep"]) for cell in found["cells"]] == [
        ("grid", 0.5), ("grid", 0.25), ("attention,attending=last", 0.5), ("attention,attending=last", 0.25),
    ]  # fmt: skip
    code, text, _ = run(*words, "--keep", "0.5")
    assert code == 0
    assert "language block 1" in text
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "pruning.md",
        "pruning.json",
        "pruning.png",
    }


def test_a_packed_model_prunes_by_default_and_on_demand(run, source, tmp_path):
    out, data = tmp_path / "out", question_files(tmp_path)["DATA"]
    assert (
        run(
            "quantize",
            source,
            out,
            "--preset",
            "bivlm-paper",
            "--set",
            "salient_max=0",
            "--prune",
            "grid:layer=1,keep=0.25",
            "--json",
        )[0]
        == 0
    )
    for option, expected in (
        ((), "grid:layer=1,keep=0.25"),
        (("--prune", "none"), None),
        (("--prune", "grid:layer=0,keep=0.5"), "grid:layer=0,keep=0.5"),
    ):
        code, text, _ = run("eval", out, "--data", data, "--max-new-tokens", 2, "--json", *option)
        assert code == 0
        assert json.loads(text)["pruning"] == expected


MISTAKES = {
    "no model": ("quantize", "no-such-folder", "OUT"),
    "unknown preset": ("quantize", "SOURCE", "OUT", "--preset", "magic"),
    "unknown part": ("quantize", "SOURCE", "OUT", "--preset", "bivlm-paper", "--parts", "language,ears"),
    "no part": ("quantize", "SOURCE", "OUT", "--preset", "bivlm-paper", "--parts", ""),
    "value refused": ("quantize", "SOURCE", "OUT", "--preset", "bivlm-paper", "--set", "bands=9"),
    "unknown setting": ("quantize", "SOURCE", "OUT", "--preset", "bivlm-paper", "--set", "band=2"),
    "no value": ("quantize", "SOURCE", "OUT", "--preset", "bivlm-paper", "--set", "bands"),
    "data needed": ("quantize", "SOURCE", "OUT"),
    "no data set": ("quantize", "SOURCE", "OUT", "--data", "nowhere.jsonl"),
    "no image": ("ask", "SOURCE", "What?", "--image", "nowhere.png"),
    "not an image": ("ask", "SOURCE", "What?", "--image", __file__),
    "long question": ("ask", "SOURCE", "why? " * 2000, "--image", "IMAGE"),
    "preset with bad settings": ("quantize", "SOURCE", "OUT", "--preset", "bivlm-paper:bands=9"),
    "comparison of nothing": ("compare", "SOURCE", "--data", "DATA", "--out", "OUT"),
    "comparison of empty words": ("compare", "SOURCE", "--data", "DATA", "--out", "OUT", "--presets", " , "),
    "comparison, unknown preset": (
        "compare",
        "SOURCE",
        "--data",
        "DATA",
        "--out",
        "OUT",
        "--presets",
        "bivlm-paper,magic",
    ),
    "comparison, bad settings": (
        "compare",
        "SOURCE",
        "--data",
        "DATA",
        "--out",
        "OUT",
        "--presets",
        "bivlm-paper:bands=9",
    ),
    "comparison, setting first": (
        "compare",
        "SOURCE",
        "--data",
        "DATA",
        "--out",
        "OUT",
        "--presets",
        "bands=2,bivlm-paper",
    ),
    "comparison, wrong part": (
        "compare",
        "SOURCE",
        "--data",
        "DATA",
        "--out",
        "OUT",
        "--presets",
        "bivlm-paper",
        "--parts",
        "ears",
    ),
    "comparison without answers": (
        "compare",
        "SOURCE",
        "--data",
        "UNANSWERED",
        "--out",
        "OUT",
        "--presets",
        "bivlm-paper",
    ),
    "comparison without data": ("compare", "SOURCE", "--out", "OUT", "--presets", "bivlm-paper"),
    "comparison into a file": (
        "compare",
        "SOURCE",
        "--data",
        "DATA",
        "--out",
        "IMAGE",
        "--presets",
        "bivlm-paper",
    ),
    "comparison into other things": (
        "compare",
        "SOURCE",
        "--data",
        "DATA",
        "--out",
        "SOURCE",
        "--presets",
        "bivlm-paper",
    ),
    "prune keeps nothing": ("prune", "SOURCE", "--data", "DATA", "--out", "OUT", "--keep", "0.5,0"),
    "prune keeps more than all": ("prune", "SOURCE", "--data", "DATA", "--out", "OUT", "--keep", "1.5"),
    "prune keeps words": ("prune", "SOURCE", "--data", "DATA", "--out", "OUT", "--keep", "half"),
    "prune from a block that is not there": (
        "prune",
        "SOURCE",
        "--data",
        "DATA",
        "--out",
        "OUT",
        "--layers",
        "40",
    ),
    "prune from a half block": ("prune", "SOURCE", "--data", "DATA", "--out", "OUT", "--layers", "1.5"),
    "prune by magic": ("prune", "SOURCE", "--data", "DATA", "--out", "OUT", "--pruners", "magic"),
    "prune with a wrong setting": (
        "prune",
        "SOURCE",
        "--data",
        "DATA",
        "--out",
        "OUT",
        "--pruners",
        "attention:heads=2",
    ),
    "prune somewhere": ("prune", "SOURCE", "--data", "DATA", "--out", "OUT", "--sites", "lm_head"),
    "prune into other things": ("prune", "SOURCE", "--data", "DATA", "--out", "SOURCE", "--layers", "1"),
    "rankings of one model": (
        "prune",
        "SOURCE",
        "--data",
        "DATA",
        "--out",
        "OUT",
        "--layers",
        "1",
        "--ranking",
    ),
    "a default pruning that cannot be": (
        "quantize",
        "SOURCE",
        "OUT",
        "--preset",
        "bivlm-paper",
        "--prune",
        "grid:layer=9,keep=0.5",
    ),
    "a pruning without a share": ("ask", "SOURCE", "What?", "--image", "IMAGE", "--prune", "grid:layer=1"),
    "bits of a preset that has none to deal out": (
        "quantize",
        "SOURCE",
        "OUT",
        "--preset",
        "gptq-2",
        "--data",
        "DATA",
        "--bits",
        "2",
    ),
    "bits out of reach": (
        "quantize",
        "SOURCE",
        "OUT",
        "--preset",
        "trellis-2",
        "--data",
        "DATA",
        "--bits",
        "9",
    ),
    "too few samples to tune on": (
        "quantize",
        "SOURCE",
        "OUT",
        "--preset",
        "trellis-2",
        "--data",
        "DATA",
        "--effort",
        "high",
    ),
    "no such effort": (
        "quantize",
        "SOURCE",
        "OUT",
        "--preset",
        "trellis-2",
        "--data",
        "DATA",
        "--effort",
        "heroic",
    ),
    "nothing to inspect": ("inspect", "SOURCE"),
    "no such option": ("inspect", "SOURCE", "--colour"),
    "no such command": ("compress", "SOURCE"),
}


@pytest.mark.parametrize("words", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_and_exits_with_2(words, run, source, tmp_path):
    places = {
        "SOURCE": source,
        "OUT": tmp_path / "out",
        "IMAGE": tmp_path / "image.png",
        **question_files(tmp_path),
    }
    code, _, error = run(*(places.get(word, word) for word in words))
    assert code == 2
    assert "Traceback" not in error
    assert "rror" in error
    if error.startswith("bivlm: error:"):
        assert error.count("\n") == 1
    assert not (tmp_path / "out" / "config.json").exists()
    if words[0] in ("compare", "prune"):
        assert not (tmp_path / "out").exists()


def test_help_and_errors_need_no_torch():
    script = (
        "import sys; sys.argv = ['bivlm', '--help']\nfrom bivlm import cli\ntry: cli.main()\nexcept"
        " SystemExit: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"


def test_interrupted_exits_with_130(run, source, tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("bivlm.job.run.prepare", interrupt)
    code, _, error = run("quantize", source, tmp_path / "out", "--preset", "bivlm-paper")
    assert code == 130
    assert "the same command continues" in error
