"""The README's commands are real: every `bivlm` line parses, every make target and linked page exists."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from bivlm.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = [shlex.split(line.partition("#")[0]) for line in README.splitlines() if line.startswith("bivlm ")]


@pytest.mark.parametrize("words", COMMANDS, ids=[" ".join(words[:2]) for words in COMMANDS])
def test_the_command_parses(words):
    group = typer.main.get_command(app)
    command = group.commands[words[1]]
    context = command.make_context(words[1], list(words[2:]))
    assert context.params


def test_there_are_six_examples():
    examples = README.partition("## Six examples")[2].partition("\n## ")[0]
    assert len(re.findall(r"^bivlm ", examples, flags=re.MULTILINE)) == 6


def test_make_targets_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"^make ([\w-]+)", README, flags=re.MULTILINE)) <= targets


def test_links_lead_somewhere():
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (ROOT / link).exists(), link


def test_the_table_is_filled():
    table = README.partition("<!-- demo table")[2].partition("<!-- end of demo table -->")[0]
    assert (table.count("\n| trellis"), table.count("\n| bivlm")) == (6, 12), "run `make results`"
