"""The mean score of every group of questions, and its table."""

import dataclasses
import io
import json

import pytest
from PIL import Image
from rich.console import Console

from bivlm.cli.tables import MOST_GROUPS, groups_table, result_tables
from bivlm.data.samples import read_samples
from bivlm.eval.groups import GroupScore, group_scores
from bivlm.eval.records import Record
from bivlm.eval.run import EvalResult
from bivlm.eval.scoring import scorer_named
from bivlm.eval.statistics.intervals import mean_interval


def record(group: str, score: float) -> Record:
    return Record("q:1", "what?", "it", ("it",), score, group=group)


def shown(*tables) -> str:
    console = Console(width=160, file=io.StringIO())
    for table in tables:
        console.print(table)
    return console.file.getvalue()


RECORDS = [record("colour", 1.0), record("count", 0.0), record("colour", 1.0), record("count", 1.0)]


def test_the_lowest_score_comes_first():
    assert group_scores([*RECORDS, record("area", 1.0)]) == (
        GroupScore("count", 2, 0.5, mean_interval([0.0, 1.0])),
        GroupScore("area", 1, 1.0, mean_interval([1.0])),
        GroupScore("colour", 2, 1.0, mean_interval([1.0, 1.0])),
    )


def test_questions_without_a_group_are_one_row_or_none():
    found = group_scores([*RECORDS, record("", 0.0)])
    assert (found[0].group, found[0].n) == ("", 1)
    assert sum(row.n for row in found) == 5
    assert "(none)" in shown(groups_table(found))
    assert group_scores([record("", 1.0), record("", 0.0)]) == ()
    assert group_scores([]) == ()


def test_what_a_stranger_calls_a_group_is_only_text():
    text = shown(groups_table(group_scores([record("[red]\x1b[2J" + 100 * "x", 1.0)])))
    assert "[red]\\x1b[2Jxxx" in text
    assert "\x1b" not in text
    assert 60 * "x" not in text


def test_more_groups_than_a_table_holds_are_named():
    records = [record(f"group {number:02}", number / 40) for number in range(40)]
    text = shown(groups_table(group_scores(records)))
    assert f"group {MOST_GROUPS - 1}" in text
    assert f"group {MOST_GROUPS}" not in text
    assert f"the lowest {MOST_GROUPS} of 40 groups; --json has all" in text


@pytest.fixture
def result() -> EvalResult:
    known = {"n": 4, "accuracy": 0.75, "interval": (0.3, 0.9), "metric": "exact_match", "seconds": 1.0}
    means = {"colour": 1.0, "count": 0.5}
    fields = {field.name: None for field in dataclasses.fields(EvalResult)}
    return EvalResult(
        **{**fields, **known, "aggregates": means, "groups": group_scores(RECORDS), "records": ()}
    )


def test_eval_shows_groups_once(result):
    text = shown(*result_tables("model", result, confidence=False))
    assert text.count("colour") == text.count("count") == 1
    assert "9.5% to 90.5%" in text
    sums = dataclasses.replace(result, aggregates={"colour": 1.0, "colour acc": 100.0})
    assert "colour acc" in shown(*result_tables("model", sums, confidence=False))
    plain = dataclasses.replace(result, aggregates={}, groups=())
    assert len(result_tables("model", plain, confidence=False)) == 1


def test_the_json_has_every_group(result):
    assert result.to_dict()["groups"][0] == {
        "group": "count", "n": 2, "accuracy": 0.5, "interval": list(mean_interval([0.0, 1.0])),
    }  # fmt: skip


def test_a_folder_with_groups_and_boxes_needs_no_reader_of_its_own(tmp_path):
    """As LENS has them: perception, understanding, reasoning; boxes and numbers as answers."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    rows = [
        {"image": "a.png", "question": "Where?", "answer": "[1, 2, 5, 6]", "group": "perception"},
        {"image": "a.png", "question": "How many?", "answer": 3, "group": "reasoning"},
    ]
    for scorer, row, answer in zip(("iou", "counting"), rows, ("[1, 2, 5, 6]", "3"), strict=True):
        file = tmp_path / f"{scorer}.jsonl"
        file.write_text(json.dumps(row) + "\n")
        (sample,) = read_samples(file, split=None)
        assert sample.group == row["group"]
        assert scorer_named(scorer).usable(sample)
        assert scorer_named(scorer).score(answer, sample) == 1.0
