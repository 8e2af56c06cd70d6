"""One comparison that most tests look at and never change, and a count of what is made."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bivlm.studies import study
from bivlm.studies.compare import pack
from bivlm.studies.compare.page import write_page
from bivlm.studies.compare.run import compare_presets
from comparing import ASK, LANGUAGE, PRESETS
from tiny import tiny_checkpoint, tiny_samples


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    return tiny_checkpoint("llava", tmp_path_factory.mktemp("compare") / "source", torch.bfloat16)


@pytest.fixture(scope="session")
def samples():
    return tiny_samples(4)


@pytest.fixture(scope="session")
def made(source, samples, tmp_path_factory):
    """The result of a comparison and its folder, the page in it."""
    out = tmp_path_factory.mktemp("made") / "out"
    settings = replace(ASK, command="bivlm compare MODEL | x")
    found = compare_presets(source, PRESETS, out, samples=samples, parts=LANGUAGE, settings=settings)
    write_page(found, out)
    return found, out


@pytest.fixture
def count(monkeypatch):
    """How often a model was packed, and the reference asked."""
    calls = {"run": 0, "collect_reference": 0}

    def counted(module, name):
        original = getattr(module, name)

        def call(*args, **kwargs):
            calls[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, call)

    counted(pack, "run")
    counted(study, "collect_reference")
    return calls
