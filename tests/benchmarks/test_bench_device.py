"""The benchmark of small devices: what it counts, and the line where the ARM library is missing."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from torch import nn

from bench_device import cells, library_bytes, row, tensor_bytes
from bivlm.errors import InputError


def test_shared_tensors_count_once():
    model = nn.ModuleList([nn.Linear(4, 4, bias=False, dtype=torch.float32) for _ in range(2)])
    assert tensor_bytes(model) == 2 * 16 * 4
    model[1].weight = model[0].weight
    assert tensor_bytes(model) == 16 * 4


def test_a_missing_library_is_one_line(tmp_path):
    options = argparse.Namespace(library=Path("nowhere/lib.so"), strip="strip")
    with pytest.raises(InputError, match=r"no nowhere/lib\.so; run `make arm`"):
        library_bytes(options, tmp_path)
    options.library, options.strip = Path(__file__), "no-such-program"
    with pytest.raises(InputError, match="no program no-such-program"):
        library_bytes(options, tmp_path)


def test_the_cells_of_a_row():
    assert cells(row("folder", 2500, 10_000, "16 bits")) == ["folder", "2.5 kB", "25.0%", "16 bits"]
    assert cells(row("library", 5000, 5000, "itself")) == ["library", "5.0 kB", "", ""]
    assert cells({"what": "switching", "measured": None, "share": 0.5, "of": "loading"})[1] == ""
