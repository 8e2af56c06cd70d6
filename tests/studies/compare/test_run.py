"""A comparison says the numbers of the packed folders, tells what failed, and notes what to beware of."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from bivlm.errors import InputError
from bivlm.eval.inspection import inspect
from bivlm.job.recipe import Recipe, Rule, load_recipe
from bivlm.job.request import make_request
from bivlm.job.run import prepare, quantize
from bivlm.studies.compare import pack
from bivlm.studies.compare.folder import run_name
from bivlm.studies.compare.page import write_page
from bivlm.studies.compare.result import COMBINATIONS, FULL_PRECISION
from bivlm.studies.compare.run import compare_presets
from bivlm.studies.compare.table import comparison_markdown
from bivlm.types import PARTS
from comparing import ASK, LANGUAGE, PRESETS, copy_of


def test_rows_are_those_of_the_packed_folders(made, source, samples, tmp_path):
    found, _ = made
    assert [row.preset for row in found.rows] == [
        *PRESETS,
        FULL_PRECISION,
    ]  # by rising bits, full precision last
    for row in found.rows[:2]:
        inspection = inspect(
            quantize(source, tmp_path / run_name(row.preset, row.parts), recipe=row.preset, parts=row.parts)
        )
        assert row.true_bits == inspection.total.bits_per_weight
        assert row.paper_bits == inspection.total.paper_bits
        assert row.folder_bytes == inspection.folder_bytes_after
        assert row.kl > 0
        assert row.questions == len(samples)
        assert row.quantize_seconds > 0
    full = found.rows[2]
    assert (full.true_bits, full.parts, full.kl, full.top1_agreement) == (16.0, (), 0.0, 1.0)
    assert full.folder_bytes == sum(path.stat().st_size for path in source.iterdir())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells the peak")
def test_the_peak_memory_is_that_of_the_packing(made):
    for row in made[0].rows[:2]:
        assert row.peak_bytes is None or 50e6 < row.peak_bytes < 16e9


def test_calibration_questions_that_are_asked_are_told(source, samples, tmp_path):
    found = compare_presets(
        source,
        ["bivlm"],
        tmp_path / "out",
        samples=samples,
        calibration=samples[:2],
        parts=["projector"],
        settings=ASK,
    )
    assert any(
        "2 of the 2 calibration questions are among those that were asked" in note for note in found.notes
    )
    assert found.rows[0].method == "bivlm"
    assert not found.apart


def test_models_are_kept_when_asked_for(made, source, samples, count, tmp_path):
    out = copy_of(made[1], tmp_path / "out")
    compare_presets(source, PRESETS[:1], out, samples=samples, parts=LANGUAGE, keep_models=True, settings=ASK)
    kept = out / "models" / run_name(PRESETS[0], LANGUAGE)
    assert inspect(kept).recipe == PRESETS[0]
    assert count["run"] == 1  # the record was there, the model was not
    compare_presets(source, PRESETS[:1], out, samples=samples, parts=LANGUAGE, keep_models=True, settings=ASK)
    compare_presets(source, PRESETS[:1], out, samples=samples, parts=LANGUAGE, settings=ASK)
    assert count["run"] == 1
    assert kept.exists()


def test_what_fails_is_a_row_and_the_others_go_on(source, samples, count, monkeypatch, tmp_path):
    nowhere = Recipe("nowhere", (Rule("bivlm", linears="*.nothing", settings={"compensate": False}),))
    original = pack.run

    def refuse(prepared, *args, **kwargs):
        if prepared.recipe.name == PRESETS[1]:
            raise InputError("model.layers.0.mlp: too narrow for this method")
        return original(prepared, *args, **kwargs)

    monkeypatch.setattr(pack, "run", refuse)
    out = tmp_path / "out"
    found = compare_presets(
        source,
        [nowhere, *PRESETS[::-1]],
        out,
        samples=samples,
        parts=["projector"],
        settings=ASK,
    )
    assert [row.preset for row in found.rows] == [PRESETS[0], FULL_PRECISION, PRESETS[1], "nowhere"]
    assert [row.preset for row in found.failed] == [PRESETS[1], "nowhere"]
    text = comparison_markdown(found, picture=None)
    assert f"failed: {PRESETS[1]}: model.layers.0.mlp: too narrow for this method" in text
    assert "matches no linear of the chosen parts" in text
    assert not list((out / "models").iterdir())
    monkeypatch.setattr(pack, "run", original)
    again = compare_presets(source, PRESETS, out, samples=samples, parts=["projector"], settings=ASK)
    assert not again.failed  # what failed is tried again


def test_a_preset_beyond_its_bits_is_told(source, samples, tmp_path):
    recipe = replace(load_recipe(PRESETS[1]), name="one", true_bits=1.0)
    found = compare_presets(
        source, [recipe], tmp_path / "out", samples=samples, parts=["projector"], settings=ASK
    )
    assert found.notes == (
        f"one is meant for about 1 true bits and takes {found.rows[0].true_bits:.2f} on this model's shapes",
    )
    assert found.notes[0] in comparison_markdown(found, picture=None)


@pytest.mark.slow
def test_parts_study(source, samples, count, tmp_path):
    out = tmp_path / "out"
    found = compare_presets(source, PRESETS[:1], out, samples=samples, parts_study=True, settings=ASK)
    assert [row.parts for row in found.rows] == [(), *COMBINATIONS]
    assert len(COMBINATIONS) == 7
    assert count["run"] == 7
    write_page(found, out)
    assert not (out / "comparison.png").exists()
    table = [line for line in (out / "comparison.md").read_text().splitlines() if line.startswith("| bivlm")]
    assert [line.count("✓") for line in table] == [1, 1, 1, 2, 2, 2, 3]
    compare_presets(source, PRESETS[:1], out, samples=samples, parts=LANGUAGE, settings=ASK)
    assert count["run"] == 7  # a comparison in the same folder takes over what the study made


@pytest.mark.parametrize(("preset", "parts", "name"), [
    ("gptq-2", PARTS, "gptq-2"),
    ("gptq-2:group_size=64,modality_weight=balanced", ("language",),
    "gptq-2_group_size=64,modality_weight=balanced@language"),
    ("../a b/c", ("vision", "language"), ".._a_b_c@vision+language"),
])  # fmt: skip
def test_run_names_are_file_names(preset, parts, name):
    assert run_name(preset, parts) == name


def test_prepared_jobs_are_the_pipelines_own(source):
    """The comparison packs what `bivlm quantize` packs: the same plan for the same words."""
    recipe = load_recipe(PRESETS[0])
    assert (
        prepare(source, make_request(recipe)).plan.linears
        == prepare(source, make_request("bivlm-paper", settings={"bands": 1, "salient_max": 0})).plan.linears
    )


def test_rows_in_the_order_given_are_compared_with_the_first(made, source, samples, tmp_path):
    presets = PRESETS[::-1]
    found = compare_presets(
        source,
        presets,
        copy_of(made[1], tmp_path / "out"),
        samples=samples,
        parts=LANGUAGE,
        settings=ASK,
        in_order=True,
    )
    assert [row.preset for row in found.rows] == [*presets, FULL_PRECISION]
    assert found.rows[0].against is None
    assert found.rows[1].against.kl.difference.difference == pytest.approx(
        found.rows[1].kl - found.rows[0].kl
    )
