"""The page of an analysis: it shows something, replaces an earlier one, and leaves foreign files alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from analyzing import saved
from bivlm.errors import InputError
from bivlm.studies.analyze import page
from bivlm.studies.analyze import weight as weight_statistics
from bivlm.studies.analyze.page import NAMES, check_out, write_page
from bivlm.studies.analyze.plot import kind_styles
from bivlm.studies.analyze.run import analyze
from bivlm.studies.analyze.table import analysis_table, share
from bivlm.studies.study import RunSettings
from bivlm.zoo import embedded_model


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """The analysis of the embedded model, with fewer points of J."""
    out = tmp_path_factory.mktemp("analysis") / "new" / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weight_statistics, "STEPS", 2)
        found = analyze(embedded_model(), settings=RunSettings(command="bivlm analyze x"))
        write_page(found, out)
    return found, out


def test_the_files_are_whole(embedded):
    found, out = embedded
    assert sorted(path.name for path in out.iterdir()) == sorted(NAMES)
    content = json.loads((out / "analysis.json").read_text())
    assert content["command"] == "bivlm analyze x"
    assert content["machine"] == found.machine
    assert len(content["linears"]) == len(found.linears) == 94
    first = content["linears"][0]
    assert first["name"] == found.linears[0].name
    assert sum(first["statistics"]["histogram"]) == first["shape"][0] * first["shape"][1]
    assert len(first["saliency"][0]["errors"]) == len(first["salient_shares"]) == 3
    page = (out / "analysis.md").read_text()
    assert "analysis.png" in page
    assert "bivlm analyze x" in page
    for part in found.parts:
        assert f"| {part.part} | {part.linears} | {part.weights:,} | {part.kl:.2g} |" in page
    assert f"`{max(found.linears, key=lambda linear: linear.statistics.kl).name}`" in page
    assert [column.header for column in analysis_table(found).columns][:3] == ["part", "linears", "weights"]


def test_the_page_shows_something(embedded):
    with Image.open(embedded[1] / "analysis.png") as picture:
        assert round(picture.info["dpi"][0]) == 150
        assert min(picture.size) > 2000
        pixels = np.asarray(picture.convert("RGB"))
    coloured = (pixels.max(-1).astype(int) - pixels.min(-1)) > 60
    for rows in np.array_split(coloured, 4):
        for panel in np.array_split(rows, 3, axis=1):
            assert panel.mean() > 5e-4
    assert (pixels == 255).all(-1).mean() > 0.5


def test_a_kind_has_one_style_and_no_panel_has_one_twice(embedded):
    columns = [embedded[0].of_part(part.part) for part in embedded[0].parts]
    styles = kind_styles(columns)
    for linears in columns:
        kinds = {linear.kind for linear in linears}
        assert len({styles[kind] for kind in kinds}) == len(kinds)


def test_weights_of_one_number_are_drawn_and_told(coarse, tmp_path):
    folder = saved("llava", tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    zeros = {
        name: torch.zeros_like(tensor) if "projector" in name or "k_proj" in name else tensor
        for name, tensor in tensors.items()
    }
    save_file(zeros, folder / "model.safetensors", metadata={"format": "pt"})
    found = analyze(folder)
    write_page(found, tmp_path / "out")
    content = json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert [part["kl"] is None for part in content["parts"]] == [False, True, False]
    assert found.of_part("projector")[0].statistics.histogram is None
    assert "| projector | 2 |" in (tmp_path / "out" / "analysis.md").read_text()


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (0.0, "0 %"), (0.0027, "0.27 %"), (2e-9, "2.0e-07 %"), (0.5, "50 %")]
)
def test_shares_are_written_with_the_digits_that_count(value, text):
    assert share(value) == text


def test_an_earlier_analysis_is_replaced_and_foreign_files_are_not(coarse, monkeypatch, tmp_path):
    monkeypatch.setattr(page, "analysis_plot", lambda found, path: path.write_bytes(b"png"))
    found, out = analyze(saved("llava", tmp_path / "model")), tmp_path / "out"
    out.mkdir()
    for name in (*NAMES, "analysis.md.writing"):
        (out / name).write_text("old")
    check_out(out)
    write_page(found, out)
    assert all((out / name).read_text() != "old" for name in NAMES)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds files that no analysis wrote \(notes.txt\)"):
        check_out(out)


def test_out_may_not_be_a_file(tmp_path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        check_out(tmp_path / "out")
    with pytest.raises(InputError, match="cannot be made"):
        check_out(tmp_path / "out" / "deeper")


def test_a_disk_that_cannot_be_written_is_told(coarse, monkeypatch, tmp_path):
    def full(found, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(page, "analysis_plot", full)
    with pytest.raises(InputError, match="cannot be written \\(No space left on device\\)"):
        write_page(analyze(saved("llava", tmp_path / "model")), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
