"""Help, version and errors come at once; what is misspelt is told what there is."""

from __future__ import annotations

import subprocess
import sys

import pytest

import bivlm
from bivlm.cli.quantize import _presets_that_begin
from bivlm.cli.shared import app, numbers, pruner_names, words
from bivlm.errors import InputError
from bivlm.pruning import PRUNERS

COMMANDS = [command.name for command in app.registered_commands]


def printed_without_torch(*words):
    """What a command prints in a process of its own, which must not import torch."""
    script = (
        f"import sys; sys.argv = ['bivlm', *{words}]\nfrom bivlm import cli\ntry: cli.main()\nexcept"
        " SystemExit: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    printed, _, imported = done.stdout.rstrip().rpartition("\n")
    assert imported == "False"
    return printed


def test_help_and_presets_need_no_torch():
    assert "quantize" in printed_without_torch("--help")
    assert '"name": "trellis-2"' in printed_without_torch("presets", "--json")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples(run, name):
    code, text, _ = run(name, "--help")
    assert code == 0
    assert f"bivlm {name}" in text.partition("For example:")[2]


def test_commands_stand_in_two_panels(run):
    main, _, more = run("--help")[1].partition("─ More ")
    assert all(f"│ {name} " in main for name in ("quantize", "ask", "eval", "inspect"))
    assert all(f"│ {name} " in more for name in ("compare", "prune", "analyze", "presets", "doctor", "demo"))


def test_version(run):
    assert run("--version") == (0, f"bivlm {bivlm.__version__}\n", "")


def test_a_misspelt_word_is_told_what_there_is(run):
    code, _, error = run("quantize", "a", "b", "--prest", "x")
    assert code == 2
    assert "--preset" in error.partition("--prest ")[2]
    code, _, error = run("quantise", "a", "b")
    assert (code, "quantize" in error) == (2, True)


def test_the_pruners_of_the_help_are_those_of_the_table(run, monkeypatch):
    assert pruner_names() == sorted(PRUNERS)
    monkeypatch.setenv("COLUMNS", "400")
    assert f"pruners are {', '.join(sorted(PRUNERS))}" in run("ask", "--help")[1]


def test_lists_are_split_at_commas():
    assert words("vision, language") == ["vision", "language"]
    assert numbers("2, 5", int, "--layers", "2,5") == [2, 5]
    with pytest.raises(InputError, match=r"--layers is '2,x'; give block numbers: 2,5"):
        numbers("2,x", int, "--layers", "block numbers: 2,5")


def test_interrupted_exits_with_130(run, source, tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("bivlm.job.run.prepare", interrupt)
    code, _, error = run("quantize", source, tmp_path / "out", "--preset", "bivlm-paper")
    assert code == 130
    assert "the same command continues" in error


def test_h_and_completion(run):
    assert run("-h")[1] == run("--help")[1]
    assert "--install-completion" in run("-h")[1]
    assert _presets_that_begin("trellis-2") == ["trellis-2", "trellis-2.5"]
