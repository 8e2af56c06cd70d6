"""The command line from outside: a model, questions about an image, and a call."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from PIL import Image

from bivlm import cli
from tiny import tiny_checkpoint


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    return tiny_checkpoint("llava", tmp_path_factory.mktemp("cli") / "source", torch.bfloat16)


@pytest.fixture
def questions(tmp_path):
    """An image and two JSONL files about it, with and without the answer."""
    Image.new("RGB", (40, 30), "red").save(tmp_path / "image.png")
    question = {"image": "image.png", "question": "What color?"}
    (tmp_path / "vqa.jsonl").write_text(json.dumps({**question, "answer": "red"}) + "\n")
    (tmp_path / "unanswered.jsonl").write_text(json.dumps(question) + "\n")
    return {
        "IMAGE": tmp_path / "image.png",
        "DATA": tmp_path / "vqa.jsonl",
        "UNANSWERED": tmp_path / "unanswered.jsonl",
    }


@pytest.fixture
def run(monkeypatch, capfd):
    """Call the command line; returns exit code, standard output and standard error."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["bivlm", *map(str, words)])
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = ended.code or 0
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call
