"""Evaluations on one page: what is read, which questions differ, and what the page holds."""

from html.parser import HTMLParser

import pytest
from typer.testing import CliRunner

from bivlm.cli.shared import app
from bivlm.errors import InputError
from bivlm.studies.report.evaluated import read_evaluations
from bivlm.studies.report.figures import expert_map
from bivlm.studies.report.flips import asked_by
from bivlm.studies.report.page import report_html
from evaluations import FULL, PARTS, QUESTIONS, write


def test_full_precision_comes_first(folders):
    assert [evaluated.name for evaluated in read_evaluations(folders)] == ["full", "small"]


def test_equal_names_are_told_apart(folders, tmp_path):
    other = write(tmp_path / "again", "small", FULL, (1.0,) * 4, PARTS)
    names = [evaluated.name for evaluated in read_evaluations([*folders, other])]
    assert sorted(names) == ["full (full)", "small (again)", "small (small)"]


def test_how_questions_differ(folders):
    kinds = {asked.question: asked.kind for asked in asked_by(read_evaluations(folders))}
    assert kinds == dict(zip(QUESTIONS, ("lost", "words", "same", "gained"), strict=True))


def test_a_question_that_one_model_was_not_asked(folders):
    lines = (folders[1] / "records.jsonl").read_text().splitlines(keepends=True)
    (folders[1] / "records.jsonl").write_text("".join(lines[1:]))
    found = {asked.question: asked for asked in asked_by(read_evaluations(folders))}
    assert len(found) == 4
    assert found[QUESTIONS[0]].records[0] is None
    assert found[QUESTIONS[0]].kind == "same"


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.links, self.open, self.words = [], [], []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in ("meta", "input", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_is_whole_and_fetches_nothing(folders):
    page = _Tags()
    page.feed(report_html(read_evaluations(folders)))
    assert page.open == []
    assert all(link.startswith(("#", "data:image/webp;base64,")) for link in page.links)
    assert sum(link.startswith("data:") for link in page.links) == 3
    text = "".join(page.words)
    for words in (
        QUESTIONS[0],
        "dog",
        "2.03",
        "16.00",
        "1.23 MB",
        "group 1",
        "Does it know when it is wrong?",
    ):
        assert words in text


def test_the_experts_are_maps_of_cells(folders, tmp_path):
    """With and without data, and a layer of which only some experts are packed."""

    def layer(name, numbers, tokens):
        each = [{"number": n, "bits": 2.0 + n, "error": 0.1, "tokens": tokens} for n in numbers]
        return {"name": name, "each": each}

    layers = [layer("layers.0", range(4), 30), layer("layers.1", (0, 3), 0)]
    with_data = write(tmp_path / "with", "with", FULL, (1.0,) * 4, PARTS, layers)
    without = write(tmp_path / "without", "without", FULL, (1.0,) * 4, PARTS, [layer("l", range(2), None)])
    several = read_evaluations([*folders, with_data, without])
    first, second = (evaluated for evaluated in several if evaluated.experts)  # the others have none
    bits, tokens = expert_map(first, "bits"), expert_map(first, "tokens")
    assert bits.filled(0).tolist() == [[2, 3, 4, 5], [2, 0, 0, 5]]
    assert tokens.filled(0).tolist() == [[30] * 4, [0] * 4]
    assert expert_map(second, "tokens") is None
    page = _Tags()
    page.feed(report_html(several))
    text = "".join(page.words)
    assert page.open == []
    assert "The experts" in text
    assert "calibration tokens" in text
    assert all(link.startswith(("#", "data:image/")) for link in page.links)


def test_names_of_any_length_and_sign_fit_into_the_figures(folders, tmp_path):
    """A figure whose labels leave it no room would warn, and two dollars would be a formula."""
    name = r"$\broken$ " + 150 * "a"
    other = write(tmp_path / "long", name, FULL, (1.0,) * 4, PARTS, kl=0.1, kl_geometric=0.1)
    lines = (other / "records.jsonl").read_text().replace("group 1", 150 * "g")
    (other / "records.jsonl").write_text(lines)
    page = report_html(read_evaluations([*folders, other]))
    assert f"{150 * 'a'}</td>" in page
    assert f"{19 * 'g'}…{19 * 'g'}" in page


def test_no_difference_is_said(tmp_path):
    full = write(tmp_path / "full", "full", FULL, (1.0,) * 4)
    assert "All models give the same answers." in report_html(read_evaluations([full]))


def test_the_same_evaluations_make_the_same_page(folders):
    assert report_html(read_evaluations(folders)) == report_html(read_evaluations(folders))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "result.json").unlink(), "holds no result.json"),
        (
            lambda folder: (folder / "records.jsonl").write_text('{"origin": 1}\n'),
            "damaged or of another version",
        ),
        (lambda folder: (folder / "records.jsonl").write_text("[\n"), "damaged or of another version"),
        (lambda folder: (folder / "result.json").write_text("{}"), "damaged or of another version"),
    ],
)
def test_what_is_no_evaluation_is_refused(folders, damage, words):
    damage(folders[0])
    with pytest.raises(InputError, match=words):
        read_evaluations(folders)


def test_the_command_writes_the_page(folders, tmp_path):
    told = CliRunner().invoke(app, ["report", *map(str, folders), "--out", str(tmp_path / "page")])
    assert told.exit_code == 0, told.output
    assert (tmp_path / "page" / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
