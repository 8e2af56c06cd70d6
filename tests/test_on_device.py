"""docs/on-device.md: its commands are real; and what `make arm` says where it cannot work."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer

from bivlm.cli import app

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "on-device.md").read_text()
COMMANDS = [shlex.split(line) for line in re.findall(r"^    (bivlm .+)$", PAGE, flags=re.MULTILINE)]


@pytest.mark.parametrize("words", COMMANDS, ids=[" ".join(words[:4]) for words in COMMANDS])
def test_the_command_parses(words):
    command = typer.main.get_command(app).commands[words[1]]
    assert command.make_context(words[1], list(words[2:])).params


def test_scripts_and_targets_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"^    make ([\w-]+)", PAGE, flags=re.MULTILINE)) == {"arm"} <= targets
    scripts = re.findall(r"^    python (\S+)", PAGE, flags=re.MULTILINE)
    assert scripts
    assert all((ROOT / script).is_file() for script in scripts)


@pytest.mark.parametrize("variable", ["ARM_CXX", "ARM_QEMU"])
def test_make_arm_names_what_is_missing(variable):
    here = {"ARM_CXX": "sh", "ARM_QEMU": "sh", variable: "no-such-program"}
    done = subprocess.run(
        ["make", "-s", "arm-tools", *(f"{name}={value}" for name, value in here.items())],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode
    assert "make arm: there is no no-such-program; install it (Debian: " in done.stderr
