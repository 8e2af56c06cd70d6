"""The frontier table: GGUF files against their definition, bits by what is stored, rows that are kept, the
tables and the picture. The package that packs llama.cpp's types is replaced by a plain copy.
"""

from __future__ import annotations

import json
import struct
import sys
from types import SimpleNamespace

import pytest
import torch

import bench_frontier
import frontier_rows
from bivlm.checkpoint.source import SourceModel
from bivlm.errors import InputError
from bivlm.loading import load
from frontier_page import cells, markdown
from frontier_rows import check_peers, stored_bits, tokens_per_second
from gguf_model import Stored, interleaved, mean_squares, stored_tensors, write_gguf, write_importance
from ik_llama import package_folder
from tiny.language import tiny_language_model

WORDS = "what colour is the circle and is there no red shape in it today "


class Halves:
    """A library whose type 1 has two bytes a weight."""

    def type_name(self, kind: int) -> str:
        return {0: "F32", 1: "F16"}[kind]

    def row_bytes(self, kind: int, columns: int) -> int:
        return {0: 4, 1: 2}[kind] * columns


def gguf_file(path, tensors):
    """A GGUF file by its definition: magic, version, counts, pairs, tensors, and their bytes from 32 on."""

    def text(said):
        return struct.pack("<Q", len(said)) + said.encode()

    pairs = text("a.name") + struct.pack("<I", 8) + text("x") + text("b.list") + struct.pack("<IIQ", 9, 4, 2)
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), 2) + pairs + struct.pack("<II", 7, 8)
    body = b""
    for name, tensor in tensors.items():
        dims = tuple(reversed(tensor.shape))
        head += (
            text(name) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims) + struct.pack("<IQ", 0, len(body))
        )
        body += tensor.numpy().tobytes()
        body += bytes(-len(body) % 32)
    path.write_bytes(head + bytes(-len(head) % 32) + body)


def test_the_tensors_of_a_file_are_found_whatever_its_values(tmp_path):
    first, second = torch.arange(6.0).view(2, 3), torch.arange(8.0)
    gguf_file(tmp_path / "a.gguf", {"w": first, "v": second})
    found = stored_tensors(tmp_path / "a.gguf")
    content = (tmp_path / "a.gguf").read_bytes()
    assert found["w"].shape == (2, 3)
    for name, tensor in (("w", first), ("v", second)):
        start = found[name].start
        assert content[start : start + 4 * tensor.numel()] == tensor.numpy().tobytes()
    (tmp_path / "b.gguf").write_bytes(bytes(64))
    with pytest.raises(InputError, match="no GGUF file"):
        stored_tensors(tmp_path / "b.gguf")


def test_queries_and_keys_are_laid_out_for_neighbours_that_rotate():
    config = SimpleNamespace(model_type="llama", num_attention_heads=2, num_key_value_heads=1, head_dim=4)
    weight = torch.arange(8.0)[:, None].expand(8, 3)
    laid = interleaved(weight, "model.layers.0.self_attn.q_proj.weight", config)
    assert laid[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    back = interleaved(laid, "model.layers.0.self_attn.q_proj.weight", config, back=True)
    assert torch.equal(back, weight)
    assert interleaved(weight, "model.layers.0.self_attn.v_proj.weight", config) is weight


def test_a_model_is_written_whole(tmp_path):
    pytest.importorskip("gguf", reason="the writer of GGUF files is an optional package")
    source = SourceModel(tiny_language_model("qwen2", tmp_path / "model", layers=1))
    names = write_gguf(source, tmp_path / "a.gguf")
    stored = stored_tensors(tmp_path / "a.gguf")
    assert set(names) == set(source.entries)
    assert names["model.layers.0.mlp.down_proj.weight"] == "blk.0.ffn_down.weight"
    for name, target in names.items():
        assert stored[target].shape == source.entries[name].shape
        assert stored[target].kind == 0


def test_importance_is_the_mean_of_squared_inputs(tmp_path):
    model, _ = load(tiny_language_model("llama", tmp_path / "model", layers=1))
    windows = torch.randint(0, 60, (2, 8), generator=torch.Generator().manual_seed(0))
    means = mean_squares(model, windows)
    hidden = model.model.layers[0].input_layernorm(model.model.embed_tokens(windows))
    expected = hidden.square().mean((0, 1))
    torch.testing.assert_close(means["model.layers.0.self_attn.q_proj.weight"].float(), expected)
    assert len(means) == 7
    write_importance(tmp_path / "i.dat", {"a": torch.tensor([1.0, 2.0])}, 3)
    assert struct.unpack("<ii1siiff", (tmp_path / "i.dat").read_bytes()) == (1, 1, b"a", 3, 2, 3.0, 6.0)


def test_bits_are_those_of_linears_and_of_everything():
    names = {"model.layers.0.q.weight": "q", "model.layers.0.norm.weight": "n", "head.weight": "h"}
    stored = {"q": Stored(1, (2, 8), 0, 32), "n": Stored(0, (8,), 0, 32), "h": Stored(0, (2, 8), 0, 64)}
    found = stored_bits(Halves(), stored, names)
    assert found == {"bits": 16.0, "whole": 8 * (32 + 32 + 64) / 40, "types": "F16 1"}


def test_peers_that_there_are_none_of_or_without_their_package_are_refused(monkeypatch):
    check_peers([])
    for name in ("IQ9", "Q2_K+", "Q2_K+head"):
        with pytest.raises(InputError, match="there is no peer"):
            check_peers([name])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install ik-llama-cpp-python"):
        package_folder()


def test_a_line_counts_megabytes_by_the_whole_models_bits():
    row = {"preset": "a", "bits": 2.0, "whole": 4.0, "kl": 0.5, "types": "Q2_K 3", "peak_bytes": 3e9}
    line = cells(row, 10_000_000)
    assert line[:4] == ["a", "2.000", "4.000", "5"]
    assert line[5:7] == ["0.500", "–"]
    assert line[12] == "3.00"
    assert line[-1] == "Q2_K 3"


@pytest.fixture
def command(tmp_path, monkeypatch):
    """A command on a tiny model whose peers are the model as it is, at made-up bits."""
    folder = tiny_language_model("llama", tmp_path / "model")
    (tmp_path / "text").mkdir()
    for name in ("1.txt", "2.txt"):
        (tmp_path / "text" / name).write_text(WORDS * 70)

    def peer(bench, name):
        judged = bench.bench.judge.judge(load(bench.bench.folder)[0])
        return {"preset": name, "quantizer": "llama.cpp", "machine": "m", "bits": 2.5, "whole": 3.0, **judged}

    monkeypatch.setattr(frontier_rows.ModelBench, "peer", peer)
    monkeypatch.setattr(bench_frontier, "check_peers", lambda names: None)
    options = ["--model", folder, "--text", tmp_path / "text", "--presets", "rtn-3", "--peers", "Q2_K"]
    options += [
        "--work",
        tmp_path / "work",
        "--windows",
        2,
        "--window",
        16,
        "--calibration-windows",
        2,
        "--threads",
        1,
    ]
    options += [
        "--json",
        tmp_path / "rows.json",
        "--markdown",
        tmp_path / "a.md",
        "--plot",
        tmp_path / "a.png",
    ]
    monkeypatch.setattr(sys, "argv", ["bench_frontier.py", *map(str, options)])
    return tmp_path


def test_the_whole_run_goes_on_and_writes_its_page(command, monkeypatch, capsys):
    bench_frontier.main()
    rows = json.loads((command / "rows.json").read_text())["rows"]
    assert [row["preset"] for row in rows] == ["full precision", "rtn-3", "Q2_K"]
    assert rows[1]["tokens_per_second_int8"] > 0
    assert rows[1]["kl"] > rows[2]["kl"] == pytest.approx(0, abs=1e-6)
    page = (command / "a.md").read_text()
    assert "## model" in page
    assert str(command) not in page
    assert (command / "a.png").read_bytes().startswith(b"\x89PNG")
    for name in ("full_precision", "preset", "peer"):
        monkeypatch.setattr(frontier_rows.ModelBench, name, lambda *_: pytest.fail("measured again"))
    bench_frontier.main()
    assert "model rtn-3 (kept)" in capsys.readouterr().err
    given = sys.argv
    times = iter((2.0, 3.0, 4.0))
    monkeypatch.setattr(frontier_rows, "tokens_per_second", lambda *_: next(times))
    monkeypatch.setattr(frontier_rows, "speed", lambda *_: {"tokens_per_second": 5.0})
    monkeypatch.setattr(sys, "argv", [*given, "--speeds"])
    bench_frontier.main()
    timed = json.loads((command / "rows.json").read_text())["rows"]
    assert [row.get("tokens_per_second") for row in timed] == [2.0, 3.0, None]
    assert [row.get("tokens_per_second_int8") for row in timed] == [None, 4.0, 5.0]
    assert timed[1]["kl"] == rows[1]["kl"]
    assert "of all rows: in one run" in (command / "a.md").read_text()
    for more, said in (
        (["--windows", "3"], "another protocol (windows: 2, now 3)"),
        (["--model", given[2]], "two models have folders of the same name"),
    ):
        monkeypatch.setattr(sys, "argv", [*given, *more])
        with pytest.raises(SystemExit, match="2"):
            bench_frontier.main()
        assert said in capsys.readouterr().err


def test_failures_are_told_below_their_table():
    full = {"preset": "full precision", "machine": "m", "weights_count": 8, "bits": 16.0}
    broken = {"preset": "IQ1_S", "machine": "m", "failed": "why"}
    protocol = {"calibration_windows": 1, "window": 2, "windows": 3, "text": "t"}
    page = markdown({"tiny": [full, broken]}, protocol)
    assert "- IQ1_S: why" in page
    assert "| IQ1_S | – |" in page


def test_speed_counts_tokens_after_the_first(tmp_path):
    model, _ = load(tiny_language_model("llama", tmp_path / "model", layers=1))
    assert 0 < tokens_per_second(model, torch.zeros(1, 4, dtype=torch.long)) < 1e5
