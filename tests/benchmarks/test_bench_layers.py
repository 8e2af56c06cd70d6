"""The layer benchmark: its error against a plain loop, its table for a preset that works, one that keeps and
one that fails, and its files.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import bench_layers
from bench_layers import failures, preset_cells, preset_row
from bivlm.errors import InputError
from bivlm.job.recipe import Recipe, Rule, load_recipe
from bivlm.quantizers import BiVLM
from layer_errors import KEPT, measure
from layers import Layer, layers_of_file, text_only
from preset_tables import by_bits, command_of, markdown_table


def layer(seed: int = 0, rows: int = 6, columns: int = 16) -> Layer:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(64, columns, generator=random)
    return Layer(torch.randn(rows, columns, generator=random), text_only(x.T @ x / 64))


def test_the_error_is_the_lost_share_of_the_outputs_energy():
    one = layer()
    found = measure(BiVLM(bands=1), one)
    lost = (one.weight - BiVLM(bands=1).quantize(one.weight, None).dequantize()).double().numpy()
    hessian, weight = one.stats.hessian.double().numpy(), one.weight.double().numpy()

    def energy(matrix):
        return sum(row @ hessian @ row for row in matrix)

    assert found["error"] == pytest.approx(energy(lost) / energy(weight), rel=1e-6)
    assert found["bits"] == BiVLM(bands=1).quantize(one.weight, None).encode().bits_per_weight()


def test_a_row_counts_bits_over_all_weights_and_means_errors_geometrically():
    layers = {"small": layer(0, 4, 16), "large": layer(1, 32, 24)}
    row = preset_row("bivlm", load_recipe("bivlm"), layers)
    found = row["layers"]
    assert row["bits"] == pytest.approx((found["small"]["bits"] * 64 + found["large"]["bits"] * 768) / 832)
    assert row["error"] == pytest.approx(np.sqrt(found["small"]["error"] * found["large"]["error"]))
    assert row["quantizer"] == "bivlm"


def test_what_fails_or_is_kept_is_shown_with_its_reason_and_comes_last():
    broken = layer(1)
    broken.weight[0, 0] = float("nan")
    recipe = Recipe("partly", (Rule("keep", linears="*.kept"), Rule("bivlm")))
    row = preset_row("partly", recipe, {"a.kept": layer(), "a.good": layer(), "a.broken": broken})
    assert (row["bits"], row["error"], row["seconds_per_million"]) == (None, None, None)
    assert preset_cells(row)[4:6] == ["kept", preset_cells(row)[5]]
    assert preset_cells(row)[6:] == ["failed", "–", "–"]
    lines = failures([row])
    assert lines[0] == f"partly on a.kept: {KEPT}"
    assert lines[1].startswith("partly on a.broken: ")
    assert "NaN" in lines[1]
    assert [
        one["preset"] for one in by_bits([row, {"preset": "b", "bits": 3.0}, {"preset": "a", "bits": 1.0}])
    ] == ["a", "b", "partly"]


def test_markdown_aligns_columns_that_begin_with_a_space_to_the_right():
    assert markdown_table(("name", " bits"), [["a", "1"]]) == ["| name | bits |", "|---|---:|", "| a | 1 |"]


def test_the_command_names_files_elsewhere_by_their_names_only():
    assert (
        command_of("x.py", ["--layers", "/a/b/c.safetensors", "--json", "out.json"])
        == "python benchmarks/x.py --layers c.safetensors --json out.json"
    )


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"a.weight": torch.zeros(2, 4)}, "missing for: a"),
        ({"a": torch.zeros(2, 4)}, "missing for: all"),
        (
            {"a.weight": torch.zeros(2, 4), "a.second_moment": torch.zeros(2, 2)},
            r"a is \(2, 4\) with a moment \(2, 2\)",
        ),
    ],
)
def test_a_file_without_what_is_needed_is_refused(tmp_path, tensors, said):
    save_file(tensors, tmp_path / "layers.safetensors")
    with pytest.raises(InputError, match=said):
        layers_of_file(tmp_path / "layers.safetensors")


def test_the_whole_run_on_a_file_writes_json_markdown_and_a_picture(tmp_path, monkeypatch, capsys):
    one = layer()
    save_file({"a.weight": one.weight, "a.second_moment": one.stats.hessian}, tmp_path / "layers.safetensors")
    files = [str(tmp_path / f"result.{ending}") for ending in ("json", "md", "png")]
    arguments = ["--layers", str(tmp_path / "layers.safetensors"), "--presets", "bivlm-paper,bivlm:bands=3"]
    monkeypatch.setattr(
        sys,
        "argv",
        ["bench_layers.py", *arguments, "--json", files[0], "--markdown", files[1], "--plot", files[2]],
    )
    bench_layers.main()
    rows = json.loads((tmp_path / "result.json").read_text())["rows"]
    assert {row["preset"] for row in rows} == {"bivlm-paper", "bivlm:bands=3"}
    assert rows[0]["bits"] <= rows[1]["bits"]
    assert "| bivlm-paper | bivlm |" in (tmp_path / "result.md").read_text()
    assert str(tmp_path) not in (tmp_path / "result.md").read_text()
    assert (tmp_path / "result.png").read_bytes().startswith(b"\x89PNG")
    assert "bivlm-paper" in capsys.readouterr().out


def test_a_preset_that_there_is_none_of_ends_with_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench_layers.py", "--presets", "nosuch"])
    with pytest.raises(SystemExit, match="2"):
        bench_layers.main()
    assert capsys.readouterr().err.startswith("bench_layers: error: there is no preset 'nosuch'")
