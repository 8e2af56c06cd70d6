"""Commands about one model: what is packed answers, is measured and counted; a dry run writes nothing."""

from __future__ import annotations

import io
import json
import sys

import pytest

from bivlm import families
from bivlm.checkpoint import stacks
from tiny import tiny_checkpoint
from tiny.experts import expert_family, expert_model
from videos import folder_of


def test_quantize_ask_eval_inspect(run, source, tmp_path, questions):
    out = tmp_path / "out"
    code, text, _ = run("quantize", source, out, "--preset", "bivlm-paper", "--set", "bands=2", "--json")
    assert code == 0
    packed = json.loads(text)
    assert packed["total"]["bits_per_weight"] > packed["total"]["paper_bits"] > 1
    code, text, _ = run(
        "ask", out, "What color?", "--image", questions["IMAGE"], "--max-new-tokens", 3, "--json"
    )
    assert code == 0
    assert set(json.loads(text)) == {"question", "image", "answer"}
    code, text, _ = run(
        "eval", out, "--data", questions["DATA"], "--reference", source, "--max-new-tokens", 3, "--json"
    )
    assert code == 0
    result = json.loads(text)
    assert result["n"] == 1
    assert result["kl"] >= 0
    code, text, _ = run("inspect", out, "--json")
    assert code == 0
    assert json.loads(text)["total"] == packed["total"]


def test_ask_several_questions_with_one_load(run, source, questions, monkeypatch):
    image = ("--image", questions["IMAGE"], "--max-new-tokens", 6)
    asked = ["What color?", "Why?", "What color?"]
    alone = [run("ask", source, question, *image)[1] for question in asked[:2]]
    assert run("ask", source, *asked, *image)[:2] == (0, "".join([*alone, alone[0]]))
    monkeypatch.setattr(sys, "stdin", io.StringIO("Why?\n\n What color? \n"))
    streamed = run("ask", source, "What color?", "-", *image, "--stream")[:2]
    assert streamed == (0, "".join([alone[0], *alone[::-1]]))
    monkeypatch.setattr(sys, "stdin", io.StringIO("Why?\n"))
    [found] = json.loads(run("ask", source, "-", *image, "--json")[1])
    assert (found["question"], found["answer"]) == ("Why?", alone[1].strip())
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    code, _, error = run("ask", source, "-")
    assert (code, "standard input has no question" in error) == (2, True)


def test_ask_draws_answers_where_it_is_told_to(run, source):
    words = ("ask", source, "Say something.", "--max-new-tokens", 8)
    drawn = [run(*words, "--temperature", 1.5, "--seed", seed)[1] for seed in (1, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1
    assert run(*words, "--temperature", 1.5, "--top-p", 1e-6)[1] == run(*words)[1]


def test_eval_keeps_its_results_where_it_is_told(run, source, tmp_path, questions):
    out, data = tmp_path / "results", questions["DATA"]
    words = ("eval", source, "--data", data, "--reference", source, "--max-new-tokens", 2, "--out", out)
    code, text, _ = run(*words, "--confidence", "--scorer", "pope", "--json")
    assert code == 2, "the answer is a colour"
    assert "pope needs yes or no, and the answer is 'red'" in json.loads(text)["error"]["message"]
    assert not out.exists()
    code, text, _ = run(*words, "--confidence")
    assert code == 0
    assert {path.name for path in out.iterdir()} == {
        "records.jsonl",
        "result.json",
        "reliability.png",
        "pictures",
    }
    kept = json.loads((out / "result.json").read_text())
    assert (kept["asked"]["data"], kept["asked"]["scorer"]) == (str(data), "by_references")
    assert kept["result"]["greedy_agreement"] == 1.0
    assert "ECE" in text
    assert "AUROC" not in text, "one question has none"
    code, _, error = run(*words)
    assert (code, "is not empty; give --out a new folder" in error) == (2, True)
    code, text, _ = run(*words[:-2])
    assert (code, "ECE" in text, "100.0%" in text) == (0, False, True)


def test_ask_takes_several_images_none_and_a_system_prompt(run, source, questions):
    image, short = questions["IMAGE"], ("--max-new-tokens", 3, "--json")
    for options, shown in (
        ((), None),
        (("--image", image), str(image)),
        (("--image", image, "--image", image, "--system", "Be brief."), [str(image)] * 2),
    ):
        code, text, _ = run("ask", source, "Same?", *options, *short)
        assert (code, json.loads(text)["image"]) == (0, shown)
    code, _, error = run("ask", source, "Same?", "--system", "See <image>")
    assert (code, "the system prompt holds <image>" in error) == (2, True)
    code, _, error = run("ask", source, "Same?", "--max-pixels", 500)
    assert (code, "every image the same size" in error) == (2, True)


def test_videos_are_asked_about_and_told(run, source, tmp_path):
    """By a model that reads them, and by one that does not."""
    folder, filming = folder_of(tmp_path / "clip", 3), tiny_checkpoint("qwen2_vl", tmp_path / "filming")
    short = ("--max-new-tokens", 2, "--max-frames", 2, "--json")
    code, text, _ = run("ask", filming, "What happens?", "--video", folder, *short)
    assert (code, json.loads(text)["video"], json.loads(text)["image"]) == (0, str(folder), None)
    (tmp_path / "clips.jsonl").write_text(
        json.dumps({"video": "clip", "question": "What happens?", "answer": "light"}) + "\n"
    )
    data = ("--data", tmp_path / "clips.jsonl", "--split", "all", "--max-frames", 2)
    code, text, _ = run("eval", filming, *data, "--max-new-tokens", 2, "--out", tmp_path / "kept")
    assert code == 0
    assert json.loads((tmp_path / "kept" / "result.json").read_text())["asked"]["max_frames"] == 2
    code, _, error = run("ask", source, "What happens?", "--video", folder)
    assert (code, "takes no videos; give its frames as images (--image for each)" in error) == (2, True)
    code, _, error = run("ask", filming, "What happens?", "--video", tmp_path / "none.gif")
    assert (code, "none.gif does not exist" in error) == (2, True)
    code, _, error = run(
        "ask", filming, "What happens?", "--video", folder, "--prune", "grid:layer=1,keep=0.5"
    )
    assert (code, "not offered for videos in this model; ask without it (--prune none)" in error) == (2, True)
    out = tmp_path / "out"
    packing = ("--preset", "gptq-2", *data, "--samples", 1, "--json")
    code, _, error = run("quantize", filming, out, *packing)
    assert (code, error.count("InputError")) == (0, 0)


def test_bits_are_a_budget_and_effort_is_a_recipe(run, source, tmp_path, questions):
    data = questions["DATA"]
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


def test_a_model_of_experts_that_cannot_be_split_is_packed_only_on_demand(run, tmp_path, monkeypatch):
    monkeypatch.setattr(families, "USED", {"llama4": expert_family("llama4")})
    monkeypatch.setattr(stacks, "_is_separable", lambda entry: False)
    source, out = expert_model("llama4", tmp_path / "source"), tmp_path / "out"
    code, text, error = run("quantize", source, out, "--preset", "rtn-3", "--parts", "language")
    assert (code, text) == (2, "")
    assert "are fused experts" in error
    assert "--allow-kept-experts" in error
    assert "Traceback" not in error
    words = ("--preset", "rtn-3", "--parts", "language", "--allow-kept-experts", "--dry-run")
    code, text, _ = run("quantize", source, out, *words)
    assert code == 0
    for said in ("kept: fused experts", "kept: Llama4Router is no plain linear", "stay in full precision"):
        assert said in " ".join(text.split())
    expected = json.loads(run("quantize", source, out, *words, "--json")[1])
    assert 0.5 < expected["kept_share"] < 1


def test_a_packed_model_prunes_by_default_and_on_demand(run, source, tmp_path, questions):
    out, data = tmp_path / "out", questions["DATA"]
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


def test_inspect_shows_the_structure_of_a_config_alone(run, source, tmp_path):
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    code, text, _ = run("inspect", tmp_path, "--structure", "--json")
    assert code == 0
    found = json.loads(text)
    assert [stack["part"] for stack in found["stacks"]] == ["vision", "projector", "language"]
    assert sum(row["weights"] for row in found["rows"]) == found["weights"]
    assert sum(row["share"] for row in found["rows"]) == pytest.approx(1)
    assert found["declared"]
    code, text, _ = run("inspect", source, "--structure")
    assert code == 0
    for words in ("model.vision_tower.encoder.layers", "found with questions by the model's", "visual token"):
        assert words in " ".join(text.split())
    code, _, said = run("inspect", tmp_path / "nothing", "--structure")
    assert code == 2
    assert "nothing" in said


def test_quantize_says_where_the_time_went(run, source, tmp_path):
    words = ("quantize", source, "--parts", "projector", "--preset", "bivlm-paper", "--profile")
    code, text, _ = run(*words[:2], tmp_path / "a", *words[2:], "--json")
    assert code == 0
    seconds = json.loads(text)["seconds"]
    assert {"reading", "feedback and fits", "layer errors", "writing", "other"} <= set(seconds)
    assert all(spent >= 0 for spent in seconds.values())
    code, text, _ = run(*words[:2], tmp_path / "b", *words[2:])
    assert code == 0
    assert "where the time went" in text
    assert "s in all" in text
