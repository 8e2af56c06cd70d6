"""Changed model folders: refused in one line, or the same answers; the first mutants, and past failures."""

from __future__ import annotations

import os
import shutil

import pytest

from bivlm.checkpoint.verify import accept_files
from reliability.folder_mutants import CHANGES, FolderMutant, original
from reliability.folder_verdict import check_folder, verdict

COUNT = 40  # `make fuzz` tries thousands
# what once ended in another exception, or never
PAST = {
    "an end token that is a text": lambda folder: edit(
        folder / "generation_config.json", '"eos_token_id": 2', '"eos_token_id": "aaa"'
    ),
    "config.json is a pipe": lambda folder: replace_by_pipe(folder / "config.json"),
    "tokenizer.json is a pipe": lambda folder: replace_by_pipe(folder / "tokenizer.json"),
    "deep JSON": lambda folder: (folder / "tokenizer.json").write_bytes(b"[" * 200_000),
    "6000 digits": lambda folder: (folder / "config.json").write_bytes(b'{"a":' + b"9" * 6000 + b"}"),
}


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    accept_files(path.parent)


def replace_by_pipe(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("first", range(0, COUNT, 10))
def test_the_first_mutants(first):
    verdicts = {check_folder(seed) for seed in range(first, first + 10)}
    assert verdicts <= {"refused", "same", "different"}
    assert "refused" in verdicts


@pytest.mark.parametrize("what", PAST)
def test_past_failures(what, tmp_path):
    folder = shutil.copytree(original(), tmp_path / "model")
    PAST[what](folder)
    assert verdict(folder, FolderMutant("past", (), sealed=False)) == "refused"


def test_the_original_is_the_same(tmp_path):
    folder = shutil.copytree(original(), tmp_path / "model")
    assert verdict(folder, FolderMutant("none", (), sealed=False)) == "same"
    assert len(CHANGES) == 10
