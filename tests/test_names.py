"""docs/names.md against the code: every name in its second column is there, and is explained once."""

import ast
import re
from pathlib import Path

import pytest
import typer

from bivlm.cli import app

ROOT = Path(__file__).parent.parent
ROW = re.compile(r"^\| (?P<term>[^|]+) \| (?P<code>[^|]*`[^|]*) \| [^|]+ \|$", flags=re.MULTILINE)
NAME = re.compile(r"(?P<star>\*?)`(?P<name>[^`]+)`")
DOCUMENT = (ROOT / "docs" / "names.md").read_text()
ENTRIES = [
    (found["name"], bool(found["star"]))
    for row in ROW.finditer(DOCUMENT)
    for found in NAME.finditer(row["code"])
]


def targets(node):
    """What an assignment at module or class level gives a name to."""
    if isinstance(node, ast.AnnAssign):
        return [node.target]
    return node.targets if isinstance(node, ast.Assign) else []


def assigned(body):
    return {
        name.id
        for node in body
        for target in targets(node)
        for name in ast.walk(target)
        if isinstance(name, ast.Name)
    }


@pytest.fixture(scope="module")
def code():
    """Names of classes, functions, fields and constants; and names of arguments."""
    declared, arguments = set(), set()
    for path in (ROOT / "src" / "bivlm").rglob("*.py"):
        module = ast.parse(path.read_text())
        declared |= assigned(module.body)
        for node in ast.walk(module):
            if isinstance(node, ast.ClassDef):
                declared |= {node.name} | assigned(node.body)
            elif isinstance(node, ast.FunctionDef):
                declared.add(node.name)
            elif isinstance(node, ast.arguments):
                arguments |= {argument.arg for argument in (*node.posonlyargs, *node.args, *node.kwonlyargs)}
    return declared, arguments


@pytest.fixture(scope="module")
def options():
    commands = typer.main.get_command(app).commands.values()
    return {option for command in commands for parameter in command.params for option in parameter.opts}


def test_every_row_is_read():
    table = [line for line in DOCUMENT.splitlines() if line.startswith("| ")]
    assert len(table) - 1 == len(ROW.findall(DOCUMENT)) > 40


@pytest.mark.parametrize(("name", "argument"), ENTRIES, ids=[name for name, _ in ENTRIES])
def test_the_name_is_in_the_code(name, argument, code, options):
    declared, arguments = code
    assert name in (options if name.startswith("--") else arguments if argument else declared)


def test_a_name_is_explained_once():
    names = [name for name, _ in ENTRIES]
    assert {name for name in names if names.count(name) > 1} == set()
