"""An analysis against numpy and against closed forms; every family; a page that shows something; and what a
user can get wrong.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.special import ndtr

from bivlm.errors import InputError
from bivlm.job.run import quantize
from bivlm.quantizers.steps.saliency_search import SaliencyObjective, best_salient_share
from bivlm.studies.analyze import plot as analysis_plots
from bivlm.studies.analyze import run as analysis
from bivlm.studies.analyze import weight as weight_statistics
from bivlm.studies.analyze.plot import kind_styles
from bivlm.studies.analyze.run import NAMES, analyze
from bivlm.studies.analyze.table import analysis_table, share
from bivlm.studies.analyze.weight import (
    BANDS,
    BINS,
    LEVELS,
    OUTLIERS,
    RANGE,
    STEPS,
    WeightStatistics,
    bin_edges,
    divergence_by_chance,
    divergence_from_gaussian,
    gaussian_outliers,
    gaussian_shares,
    pooled_outliers,
    saliency_curves,
    saliency_shares,
    statistics,
)
from bivlm.zoo import embedded_model
from tiny import KINDS, tiny_model

LAPLACE = (
    0.5 * np.log(np.pi) - 0.5
)  # KL of a Laplace distribution from the Gaussian of its mean and deviation: 0.0724 nats
UNIFORM = 0.5 * np.log(2 * np.pi * np.e / 12)  # and that of a uniform one: 0.1765


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def laplace(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).laplace(size=shape)).float()


# the statistics of one weight


def test_the_bins_hold_all_of_a_gaussian():
    shares, edges = gaussian_shares(), bin_edges()
    assert shares.sum() == pytest.approx(1, abs=1e-15)
    assert shares[1:-1] == pytest.approx(ndtr(edges[1:]) - ndtr(edges[:-1]), abs=1e-15)
    assert shares[[0, -1]] == pytest.approx(ndtr(-RANGE), rel=1e-12)


def test_a_gaussian_has_no_divergence_but_what_chance_gives():
    found = statistics(gaussian(1000, 1000))
    assert found.kl == pytest.approx(found.kl_by_chance, rel=0.5)
    assert found.kl < 5e-5
    assert found.kurtosis == pytest.approx(0, abs=0.02)
    assert found.outliers[:2] == pytest.approx(gaussian_outliers()[:2], rel=0.2)
    assert statistics(gaussian(1000, 1000).bfloat16()).kl < 1e-4  # in bfloat16's steps


@pytest.mark.parametrize("count", [300, 20_000])
def test_chance_gives_as_much_as_it_says(count):
    found = np.mean([statistics(gaussian(count, seed=seed)).kl for seed in range(100)])
    assert found == pytest.approx(divergence_by_chance(count), rel=0.07)


@pytest.mark.parametrize(
    ("weight", "divergence", "kurtosis"),
    [
        (laplace(1000, 1000), LAPLACE, 3.0),
        (torch.rand(1000, 1000, generator=torch.Generator().manual_seed(0)), UNIFORM, -1.2),
    ],
    ids=["Laplace", "uniform"],
)
def test_known_distributions_have_their_analytic_values(weight, divergence, kurtosis):
    found = statistics(0.03 * weight - 0.01)
    assert found.kl == pytest.approx(divergence, rel=0.07)
    assert found.kurtosis == pytest.approx(kurtosis, abs=0.1)


def test_the_divergence_is_the_sum_over_the_bins():
    histogram = [0] * (BINS + 2)
    histogram[0], histogram[33], histogram[40] = 1, 2, 1
    shares = gaussian_shares()
    expected = (
        0.25 * np.log(0.25 / shares[0]) + 0.5 * np.log(0.5 / shares[33]) + 0.25 * np.log(0.25 / shares[40])
    )
    assert divergence_from_gaussian(histogram) == pytest.approx(expected, rel=1e-12)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(2, 200),
    st.integers(1, 3),
    st.sampled_from([1e-6, 1.0, 1e4]),
    st.sampled_from([0.0, -3.0]),
    st.integers(0, 9),
    st.booleans(),
)
def test_the_numbers_are_numpys(rows, columns, scale, mean, seed, heavy):
    weight = scale * (mean + gaussian(rows, columns, seed=seed) ** (5 if heavy else 1))
    w = weight.double().numpy().reshape(-1)
    z = (w - w.mean()) / w.std()
    found = statistics(weight)
    assert (found.mean, found.std) == pytest.approx((w.mean(), w.std()))
    assert found.kurtosis == pytest.approx((z**4).mean() - 3, rel=1e-9, abs=1e-9)
    assert found.outliers == tuple((np.abs(z) > limit).mean() for limit in OUTLIERS)
    assert found.largest == pytest.approx(np.abs(z).max())
    inside = [
        int(((z >= low) & (z < high)).sum())
        for low, high in zip(bin_edges()[:-1], bin_edges()[1:], strict=True)
    ]
    assert found.histogram == (int((z < -RANGE).sum()), *inside, int((z >= RANGE).sum()))


def test_pieces_make_no_difference(monkeypatch):
    weight = laplace(37, 53)
    whole = statistics(weight)
    monkeypatch.setattr(weight_statistics, "PIECE", 100)
    pieces = statistics(weight)
    assert pieces.histogram == whole.histogram
    assert (pieces.mean, pieces.std, pieces.kurtosis, pieces.largest) == pytest.approx(
        (whole.mean, whole.std, whole.kurtosis, whole.largest)
    )


@pytest.mark.parametrize("value", [0.0, 0.1, -2.0])
def test_a_weight_of_one_number_has_no_shape(value):
    weight = torch.full((40, 30), value)
    assert statistics(weight) == WeightStatistics(weight[0, 0].item(), 0.0)
    assert all(
        np.isfinite(curve.errors).all() for curve in saliency_curves(weight, 0.05, rounds=10, alpha=1.4)
    )


def test_outliers_are_pooled_by_the_number_of_weights():
    weights = [laplace(30, 40), gaussian(500, 70), torch.zeros(9, 9)]
    z = np.concatenate(
        [((w - w.mean()) / w.std(correction=0)).double().numpy().reshape(-1) for w in weights[:2]]
    )
    assert pooled_outliers([statistics(weight) for weight in weights]) == pytest.approx(
        [(np.abs(z) > limit).mean() for limit in OUTLIERS]
    )
    assert pooled_outliers([statistics(torch.zeros(9, 9))]) is None


# the curves of J


@pytest.mark.parametrize("salient_max", [0.01, 0.05])
def test_the_curves_are_those_of_the_quantizers_search(salient_max):
    weight = laplace(96, 128)
    curves = saliency_curves(weight, salient_max, rounds=10, alpha=1.4)
    assert [(curve.levels, curve.bands) for curve in curves] == [
        (levels, bands) for levels in LEVELS for bands in BANDS
    ]
    shares = saliency_shares(salient_max)
    assert (shares[0], shares[-1], len(shares)) == (0.0, salient_max, STEPS + 1)
    for curve in curves:
        objective = SaliencyObjective(weight, curve.bands, salient_max, curve.levels, rounds=10, alpha=1.4)
        assert curve.errors == pytest.approx([objective(p) for p in shares], rel=1e-9)
        assert curve.best_error == min(curve.errors) == curve.errors[shares.index(curve.best_share)]


@pytest.mark.parametrize("bands", BANDS)
@pytest.mark.parametrize("levels", LEVELS)
def test_the_lowest_point_agrees_with_the_quantizers_choice(bands, levels):
    weight = gaussian(256, 256)
    curve = next(
        c
        for c in saliency_curves(weight, 0.05, rounds=10, alpha=1.4)
        if (c.bands, c.levels) == (bands, levels)
    )
    objective = SaliencyObjective(weight, bands, 0.05, levels, rounds=10, alpha=1.4)
    chosen = best_salient_share(objective, 0.05)
    assert abs(curve.best_share - chosen) <= 0.05 / STEPS
    assert curve.best_error == pytest.approx(objective(chosen), rel=0.01)


# whole models


@pytest.fixture
def coarse(monkeypatch):
    """Two points of J for each linear, and a small picture: they are not what these tests look at."""
    monkeypatch.setattr(weight_statistics, "STEPS", 1)
    monkeypatch.setattr(analysis_plots, "DPI", 40)


def saved(kind: str, folder, dtype=torch.bfloat16):
    tiny_model(kind, dtype).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_every_family_is_analysed(kind, coarse, monkeypatch, tmp_path):
    monkeypatch.setattr(analysis, "write_analysis", lambda found, out: None)
    model, steps = tiny_model(kind, torch.bfloat16).requires_grad_(False), []
    model.save_pretrained(tmp_path / "model")
    found = analyze(tmp_path / "model", tmp_path / "out", on_progress=lambda *step: steps.append(step))
    assert [name for name, _, _ in steps] == [*(linear.name for linear in found.linears), "drawing"]
    assert [done for _, done, _ in steps] == list(range(len(found.linears) + 1))
    assert {part.part: part.salient_max for part in found.parts} == {
        "vision": 0.05,
        "projector": 0.01,
        "language": 0.01,
    }
    for linear in found.linears:
        weight = model.get_submodule(linear.name).weight.double()
        assert linear.shape == tuple(weight.shape)
        assert (linear.statistics.mean, linear.statistics.std) == pytest.approx(
            (float(weight.mean()), float(weight.std(correction=0)))
        )
    for part in found.parts:
        linears = found.of_part(part.part)
        assert len({(linear.depth, linear.kind) for linear in linears}) == len(linears) == part.linears
        assert all(linear.name.endswith(linear.kind) for linear in linears)
        assert part.weights == sum(linear.shape[0] * linear.shape[1] for linear in linears)
    depths = {part.part: {linear.depth for linear in found.of_part(part.part)} for part in found.parts}
    blocks = {"vision": 5 if kind == "mllama" else 3, "projector": 1, "language": 3}
    assert depths == {part: set(range(count)) for part, count in blocks.items()}


def test_kinds_are_as_short_as_tells_them_apart(coarse, monkeypatch, tmp_path):
    monkeypatch.setattr(analysis, "write_analysis", lambda found, out: None)
    mllama = analyze(saved("mllama", tmp_path / "mllama"), tmp_path / "out")
    kinds = {linear.kind for linear in mllama.of_part("language")}
    assert {"self_attn.q_proj", "cross_attn.q_proj", "up_proj"} <= kinds
    assert [linear.kind for linear in mllama.of_part("projector")] == ["multi_modal_projector"]
    qwen = analyze(saved("qwen2_vl", tmp_path / "qwen"), tmp_path / "out")
    assert [linear.kind for linear in qwen.of_part("projector")] == ["mlp.0", "mlp.2"]


def test_weights_are_seen_as_the_model_computes_with_them(coarse, monkeypatch, tmp_path):
    """A float32 file of a model that is declared bfloat16."""
    monkeypatch.setattr(analysis, "write_analysis", lambda found, out: None)
    folder = saved("llava", tmp_path / "model", torch.float32)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    linear = analyze(folder, tmp_path / "out").linears[0]
    weight = tiny_model("llava", torch.bfloat16).get_submodule(linear.name).weight.detach()
    assert linear.statistics == statistics(weight.float())


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """The analysis of the embedded model, with fewer points of J."""
    out = tmp_path_factory.mktemp("analysis") / "new" / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weight_statistics, "STEPS", 2)
        return analyze(embedded_model(), out, command="bivlm analyze x"), out


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
    found = analyze(folder, tmp_path / "out")
    content = json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert [part["kl"] is None for part in content["parts"]] == [False, True, False]
    assert found.of_part("projector")[0].statistics.histogram is None
    assert "| projector | 2 |" in (tmp_path / "out" / "analysis.md").read_text()


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (0.0, "0 %"), (0.0027, "0.27 %"), (2e-9, "2.0e-07 %"), (0.5, "50 %")]
)
def test_shares_are_written_with_the_digits_that_count(value, text):
    assert share(value) == text


# what a user can get wrong


def test_an_earlier_analysis_is_replaced_and_foreign_files_are_not(coarse, monkeypatch, tmp_path):
    monkeypatch.setattr(analysis, "analysis_plot", lambda found, path: path.write_bytes(b"png"))
    folder, out = saved("llava", tmp_path / "model"), tmp_path / "out"
    out.mkdir()
    for name in (*NAMES, "analysis.md.writing"):
        (out / name).write_text("old")
    analyze(folder, out)
    assert all((out / name).read_text() != "old" for name in NAMES)
    (out / "notes.txt").write_text("mine")
    before = (out / "analysis.json").stat().st_mtime_ns
    with pytest.raises(InputError, match=r"holds files that no analysis wrote \(notes.txt\)"):
        analyze(folder, out)
    assert (out / "analysis.json").stat().st_mtime_ns == before


def test_out_may_not_be_a_file(tmp_path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        analyze(embedded_model(), tmp_path / "out")
    with pytest.raises(InputError, match="cannot be made"):
        analyze(embedded_model(), tmp_path / "out" / "deeper")


def test_a_model_that_is_not_there_or_packed_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"missing|no folder|hub"):
        analyze(tmp_path / "missing", tmp_path / "out")
    packed = quantize(saved("llava_siglip", tmp_path / "model"), tmp_path / "packed", recipe="rtn-2")
    with pytest.raises(InputError, match="quantized already"):
        analyze(packed, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_weight_is_named(coarse, tmp_path):
    folder = saved("llava", tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("layers.0.mlp.up_proj.weight"))
    tensors[name][3, 4] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"up_proj.weight holds 1 values that are NaN"):
        analyze(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_interrupted_leaves_nothing(coarse, monkeypatch, tmp_path):
    folder = saved("llava", tmp_path / "model")

    def interrupt(what: str, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyze(folder, tmp_path / "out", on_progress=interrupt)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig",
        lambda self, path, format: (path.write_bytes(b"half"), interrupt("", 3, 3)),
    )
    with pytest.raises(KeyboardInterrupt):
        analyze(folder, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_disk_that_cannot_be_written_is_told(coarse, monkeypatch, tmp_path):
    def full(found, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(analysis, "analysis_plot", full)
    with pytest.raises(InputError, match="cannot be written \\(No space left on device\\)"):
        analyze(saved("llava", tmp_path / "model"), tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
