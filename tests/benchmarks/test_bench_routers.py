"""Correcting routers: the refitted weight against the exact one."""

from __future__ import annotations

import pytest
import torch

import bench_routers


@pytest.fixture
def draw():
    return torch.Generator().manual_seed(0)


def test_a_change_of_all_inputs_is_taken_back(draw, monkeypatch):
    monkeypatch.setattr(bench_routers, "RIDGE", 1e-9)
    weight = torch.randn(5, 8, generator=draw, dtype=torch.float64)
    exact = torch.randn(200, 8, generator=draw, dtype=torch.float64)
    mixed = exact @ torch.linalg.qr(torch.randn(8, 8, generator=draw, dtype=torch.float64))[0]
    refitted = bench_routers.refit(weight, mixed, exact)
    torch.testing.assert_close(mixed @ refitted.T, exact @ weight.T, rtol=1e-4, atol=1e-4)


def test_without_a_change_it_stays(draw):
    weight = torch.randn(5, 8, generator=draw, dtype=torch.float64)
    exact = torch.randn(200, 8, generator=draw, dtype=torch.float64)
    torch.testing.assert_close(bench_routers.refit(weight, exact, exact), weight)


def test_a_missing_model_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench_routers.py", "--model", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        bench_routers.main()
    assert end.value.code == 2
    assert "make easy-llava-experts" in capsys.readouterr().err
