"""The paper's tables next to ours: what is copied, what is asked, the page, and a whole run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import paper_page
import paper_tables
from bivlm.errors import InputError
from bivlm.studies.compare.result import FULL_PRECISION, Comparison, ComparisonRow
from bivlm.studies.prune.result import PruningCell, PruningStudy
from bivlm.studies.study import RunSettings
from bivlm.types import PARTS
from bivlm.zoo import embedded_model
from paper_page import ABLATION, COLUMNS, LANGUAGE, OURS, Asked, Found, paper_markdown, paper_rows
from tiny import tiny_checkpoint

FULL = ComparisonRow(FULL_PRECISION, FULL_PRECISION, (), 4, 0.968, (0.9, 1.0), 0.0, true_bits=16.0)
PRESETS = [*COLUMNS.values(), *OURS]


def row(preset: str, parts, accuracy: float = 0.5, **more) -> ComparisonRow:
    numbers = {"true_bits": 3.44, "paper_bits": 1.06, "quantize_seconds": 2.5}
    return ComparisonRow(preset, preset, parts, 4, accuracy, (0.2, 0.8), 0.1, **{**numbers, **more})


@pytest.fixture
def found() -> Found:
    rows = (FULL, *(row(preset, parts) for parts in (LANGUAGE, PARTS) for preset in PRESETS))
    numbers = {"easy-VQA": {one.label: 100 * one.accuracy for one in rows}}
    rest = {"questions": 4, "metric": "exact_match", "machine": "here", "command": "", "model": "small"}
    how = {**rest, "calibration_samples": 2, "notes": ()}
    ablation = (FULL, *(row(preset, PARTS, 0.25) for preset in ABLATION.values() if preset))
    cells = tuple(
        PruningCell("attention", "language", layer, keep, "image", keep, (0.0, 1.0), 0.1, 1.0, 8.0, 1.0, 1.0)
        for layer in (2, 4)
        for keep in paper_tables.KEEPS
    )
    whole = {"accuracy": 0.75, "interval": (0.3, 0.9), "kl": 0.1, "visual_tokens": 64}
    pruning = PruningStudy(
        **rest, **whole, reference="full", prefill_seconds=0.1, cache_bytes=10, cells=cells
    )
    return Found(
        model="small",
        asked=(Asked("easy-VQA", 4, "exact_match", rows, numbers),),
        probe="easy-VQA",
        ablation=Comparison(rows=ablation, study=False, **how),
        study=Comparison(rows=(FULL, row("bivlm", ("vision",))), study=True, **how),
        pruning=pruning,
        machine="here",
        command="python benchmarks/paper_tables.py",
    )


def lines_with(text: str, *words: str) -> list[str]:
    return [line for line in text.splitlines() if all(word in line for word in words)]


def test_every_number_of_the_paper_is_a_number():
    assert len(paper_rows("main")) == 3 * 5
    assert len(paper_rows("pruning")) == 2 * 2 * 6
    for name, names in (("main", 2), ("pruning", 1), ("ablation", 1)):
        for copied in paper_rows(name):
            assert all(0 <= float(value) <= 2000 for value in [*copied.values()][names:])
    assert {copied["method"] for copied in paper_rows("cost")} == set(COLUMNS)
    assert [copied["step"] for copied in paper_rows("ablation")] == [*ABLATION]


def test_the_page_has_both_and_says_that_they_are_not_the_same(found):
    page = paper_markdown(found)
    assert "not comparable one to one" in page
    language, every = lines_with(page, "| Qwen2.5-VL-7B-Instruct | MMMU |")
    assert language.endswith("| 51.00 | 25.44 | 35.33 | 46.00 | – | – | – |")
    assert every.endswith("| 51.00 | – | 30.89 | 42.89 | – | – | – |")
    ours = lines_with(page, "| **small** | **easy-VQA** | **96.80** | **50.00** |")
    assert len(ours) == 2
    assert len(lines_with(page, "**true bits**", "**3.44**")) == 2
    assert lines_with(page, "| binarised | 6.33 |", "**25.0%**")
    assert lines_with(page, "| + two-bit salient weights | 13.74 | – | – | – | – |")
    assert lines_with(page, "| Bi-VLM | 9.6 | 1.014 | **1.06** | **3.44** |")
    (dropped,) = lines_with(page, "**easy-VQA** | **4** | **75.00** |")
    assert dropped.endswith("| **75.00** | **50.00** | **25.00** | **14.00** | **5.00** | **1.00** |")
    assert page.endswith("    python benchmarks/paper_tables.py\n")


def test_what_failed_or_was_not_measured_has_no_number(found):
    failed = row("bivlm-paper", PARTS, failure="it is too small")
    failed = replace(failed, accuracy=None, true_bits=None, paper_bits=None)
    rows = tuple(failed if one.label == failed.label else one for one in found.asked[0].rows)
    numbers = {"easy-VQA": {FULL_PRECISION: 96.8}}
    page = paper_markdown(replace(found, asked=(replace(found.asked[0], rows=rows, numbers=numbers),)))
    assert "failed: bivlm-paper: it is too small" in page
    assert lines_with(page, "| **small** | **easy-VQA** | **96.80** | – | – |")
    assert lines_with(page, "| Bi-VLM | 9.6 | 1.014 | – | – |")


def test_the_numbers_are_kept(found):
    kept = json.loads(json.dumps(found.to_dict()))
    assert kept["paper"]["source"] == "arXiv 2509.18763"
    assert kept["measured"]["pruning"]["redundancy"]
    assert len(kept["measured"]["asked"][0]["rows"]) == 1 + 2 * len(PRESETS)


def test_mme_is_printed_as_its_two_sums(tmp_path):
    (tmp_path / "runs").mkdir()
    sums = {"existence acc": 90.0, "perception": 1200.5, "cognition": 250.0}
    for name in ("full-precision", "bivlm@language"):
        record = {"evaluation": {"aggregates": sums}}
        (tmp_path / "runs" / f"{name}.json").write_text(json.dumps(record))
    asked = paper_tables.Questions("MME", (), (), RunSettings(scorer="mme"), tmp_path)
    for one in (FULL, row("bivlm", LANGUAGE)):
        assert paper_tables.printed(asked, one) == {"MME-perception": 1200.5, "MME-cognition": 250.0}
    plain = replace(asked, title="VizWiz", settings=RunSettings())
    assert paper_tables.printed(plain, row("bivlm", LANGUAGE)) == {"VizWiz-VQA": 50.0}
    assert paper_tables.printed(asked, replace(FULL, failure="no")) == {}


def test_tasks_and_their_data_come_in_pairs():
    assert paper_tables.pairs_of([], []) == [("easy-vqa", "easy-vqa")]
    assert paper_tables.pairs_of(["mme", "mmmu"], ["a", "b"]) == [("mme", "a"), ("mmmu", "b")]
    with pytest.raises(InputError, match="2 --task and 1 --data"):
        paper_tables.pairs_of(["mme", "mmmu"], ["a"])


def test_blocks_that_a_model_has_not_are_its_middle():
    assert paper_tables.layers_of(embedded_model()) == [2, 4]


def test_the_command_names_no_folder_of_this_machine():
    pairs = [("mme", "/somewhere/MME")]
    assert paper_tables.command_of("/somewhere/model", pairs, 40, "1,2") == (
        "python benchmarks/paper_tables.py --model model --task mme --data MME --questions 40 --layers 1,2"
    )
    assert paper_tables.command_of(None, paper_tables.pairs_of([], []), None, "") == (
        "python benchmarks/paper_tables.py"
    )


@pytest.mark.slow
def test_a_whole_run_on_two_tasks_goes_on_where_it_was(tmp_path, monkeypatch):
    for module in (paper_tables, paper_page):
        monkeypatch.setattr(module, "OURS", ())
    monkeypatch.setattr(paper_tables, "KEEPS", (0.5,))
    model = tiny_checkpoint("llava", tmp_path / "model", torch.float32)
    for subtask, question in (("existence", "Is it red?"), ("code_reasoning", "Is it code?")):
        folder = tmp_path / "mme" / subtask
        folder.mkdir(parents=True)
        Image.new("RGB", (32, 32), "red").save(folder / "1.png")
        (folder / "1.txt").write_text(
            f"{question} Please answer yes or no.\tYes\n{question[:-1]} not? Please answer yes or no.\tNo\n"
        )
    (tmp_path / "choices.jsonl").write_text(
        json.dumps({"image": "mme/existence/1.png", "question": "Which?", "choices": ["a", "b"], "answer": 1})
        + "\n"
    )
    how = {
        "model": str(model),
        "task": ["mme", "scienceqa"],
        "questions": None,
        "layers": "1",
        "batch_size": 4,
    }
    how |= {"data": [str(tmp_path / "mme"), str(tmp_path / "choices.jsonl")], "work": tmp_path / "work"}
    pages = []
    for name in ("first", "again"):
        paper_tables.main(**how, out=tmp_path / name)
        pages.append((tmp_path / name / "paper.md").read_text())
    assert pages[0] == pages[1]
    assert len(lines_with(pages[0], "**MME-perception**")) == 2
    assert "## Which parts bear it, ScienceQA-IMG" in pages[0]
    kept = json.loads(Path(tmp_path / "first" / "paper.json").read_text())
    assert not any(one["failure"] for asked in kept["measured"]["asked"] for one in asked["rows"])
