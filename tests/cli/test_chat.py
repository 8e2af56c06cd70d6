"""The chat: lines of standard input, the keys of a terminal, and what a conversation keeps."""

from __future__ import annotations

import fcntl
import io
import json
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest
from PIL import Image
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

import bivlm
from bivlm.cli import chat as module
from bivlm.data.samples import read_samples
from bivlm.eval.answer import answer_batch
from bivlm.families import family_of
from bivlm.types import Sample, Turn

CTRL_C, CTRL_D = b"\x03", b"\x04"
TYPING, ANSWERING = b"\x1b[?2004h", b"\x1b[?2004l"  # a terminal is told when a line is typed
# the chat, in a process whose terminal is its own, so that Ctrl-C there is a signal to it
IN_A_TERMINAL = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
sys.argv = ["bivlm", "chat", sys.argv[1], "--max-new-tokens", "1500"]
from bivlm.cli import main
main()
"""


@pytest.fixture(scope="module")
def loaded(source):
    return bivlm.load(source)


@pytest.fixture
def talk(run, source, monkeypatch):
    """A chat in which these lines are typed; exit code, what it answers, what it says besides."""

    def say(*lines, options=()):
        monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(map(str, lines)) + "\n"))
        return run("chat", source, "--max-new-tokens", 6, *options)

    return say


def lines(out):
    """The answers that were printed, one a line, as they are kept."""
    return [line.strip() for line in out.rstrip("\n").split("\n")]


def answer(loaded, *turns, system=""):
    """What the model answers to the last of some questions, each (image, question), with those before it."""
    said = []
    for image, question in turns:
        parts = (question,) if image is None else (image, question)
        sample = Sample.of(parts, system=system, turns=tuple(said))
        text = answer_batch(*loaded, family_of(loaded[0].config), [sample], max_new_tokens=6)[0]
        said.append(Turn(parts, text))
    return [turn.answer for turn in said]


def test_turns_pictures_and_a_system_prompt(talk, loaded, questions):
    image = questions["IMAGE"]
    code, out, err = talk(
        f"/image {image}", "What color?", "Are you sure?", "/clear", "Why?", options=("--system", "Be brief.")
    )
    first = answer(loaded, (image, "What color?"), (None, "Are you sure?"), system="Be brief.")
    assert (code, lines(out)) == (0, [*first, *answer(loaded, (None, "Why?"), system="Be brief.")])
    assert "pictures for the next question: 1" in err


def test_mistakes_are_told_and_the_chat_goes_on(talk, loaded):
    code, out, err = talk(
        *("/nix", "/image", "/image nowhere.png", "/prune grid:keep=2", "/save x.json", "<image> what?"),
        *("", " /etc is what?", "/quit", "never asked"),
    )
    assert (code, out.strip()) == (0, answer(loaded, (None, "/etc is what?"))[0])
    told = (
        *("there is no /nix", "/image needs a file", "does not exist", "keep is 2", "nothing was said yet"),
        "the place of an image",
    )
    assert all(one in line for one, line in zip(told, err.splitlines(), strict=True))


def test_pruning_changes_from_then_on(talk, loaded, questions):
    image, spec = questions["IMAGE"], "grid:layer=1,keep=0.25"
    _, out, err = talk(f"/prune {spec}", f"/image {image}", "What color?", "/prune", "/prune none")
    model, _ = loaded
    bivlm.prune(model, spec)
    pruned = answer(loaded, (image, "What color?"))
    bivlm.prune(model, None)
    assert out.strip() == pruned[0]
    assert err.split("\n")[-3:-1] == [f"pruning: {spec}", "pruning: none"]


def test_what_is_saved_is_read_as_data(talk, tmp_path, questions):
    file = tmp_path / "said.json"
    spaced = tmp_path / "two words.png"
    Image.new("RGB", (30, 30), "blue").save(spaced)
    _, out, err = talk(
        f"/image {questions['IMAGE']}",
        f"/image {spaced}",
        "What color?",
        "And?",
        f"/save {file}",
        f"/save {file}",
    )
    assert "is there already" in err
    found = read_samples(file)
    assert [sample.question for sample in found] == ["What color?", "And?"]
    assert [sample.answers[0] for sample in found] == lines(out)
    assert found[1].images == (questions["IMAGE"], spaced)
    assert len(json.loads(file.read_text())["messages"]) == 4


def test_ctrl_c_stops_an_answer_and_not_the_chat(talk, loaded, monkeypatch):
    pressed = []

    def press(text):
        if not pressed:
            pressed.append(text)
            os.kill(os.getpid(), signal.SIGINT)
        return text

    monkeypatch.setattr(module, "shown", press)
    before = signal.getsignal(signal.SIGINT)
    code, out, err = talk("Why?", "What?", options=("--temperature", 0))
    assert (code, err.strip()) == (0, "stopped")
    first, second = out.strip("\n").split("\n")
    whole = answer(loaded, (None, "Why?"))[0]
    assert whole.startswith(first.strip())
    assert len(first) < len(whole)
    assert second
    assert signal.getsignal(signal.SIGINT) is before


def test_the_keys_of_a_terminal(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text("What?\nforgotten\x03Why?\n\x04")
        assert list(module._typed()) == ["What?", "Why?"]
    [history] = tmp_path.rglob(module.HISTORY)
    assert history.stat().st_mode & 0o77 == 0
    assert [line for line in history.read_text().splitlines() if line.startswith("+")] == ["+What?", "+Why?"]
    history.unlink()
    history.mkdir()
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text("What?\n\x04")
        assert list(module._typed()) == ["What?"], "without a file it remembers this chat alone"


@pytest.mark.slow
def test_in_a_terminal(source, tmp_path):
    """A question, Ctrl-C while it is answered, a line that is forgotten, Ctrl-D."""
    ours, its = os.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    home = {"XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", IN_A_TERMINAL, str(source)],
        stdin=its,
        stdout=its,
        stderr=its,
        env={**os.environ, **home, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
        start_new_session=True,
    )
    os.close(its)
    said = b""

    def until(words):
        nonlocal said
        end = time.monotonic() + 120
        while words not in said:
            assert select.select([ours], [], [], max(0.0, end - time.monotonic()))[0], said
            said += os.read(ours, 4096)
        said = said[said.index(words) + len(words) :]

    try:
        until(b"/help lists the rest")
        until(TYPING)
        os.write(ours, b"Why?\r")
        until(ANSWERING)
        os.read(ours, 1)  # of the answer
        os.write(ours, CTRL_C)
        until(b"stopped")
        until(TYPING)
        os.write(ours, b"forgotten" + CTRL_C)
        until(TYPING)
        os.write(ours, CTRL_D)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
