"""A comparison measures each preset once, keeps what it finished, tells what failed, and says the numbers of
the packed folders.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from PIL import Image

from bivlm.errors import InputError
from bivlm.eval.inspection import inspect
from bivlm.job.recipe import Recipe, Rule, load_recipe
from bivlm.job.run import prepare, quantize
from bivlm.studies.compare import run as module
from bivlm.studies.compare.folder import run_name
from bivlm.studies.compare.result import COMBINATIONS, FULL_PRECISION, ComparisonRow
from bivlm.studies.compare.run import compare_presets
from bivlm.studies.folder import digests
from bivlm.types import PARTS, Sample
from tiny import tiny_checkpoint, tiny_samples

PRESETS = [
    "bivlm-paper:bands=1,salient_max=0",
    "bivlm-paper:bands=2,salient_max=0",
]  # without a tail to search for: quick
LANGUAGE = ("language",)
ASK = {"batch_size": 2, "max_new_tokens": 3}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny_checkpoint("llava", tmp_path_factory.mktemp("compare") / "source", torch.bfloat16)


@pytest.fixture(scope="module")
def samples():
    return tiny_samples(4)


@pytest.fixture(scope="module")
def made(source, samples, tmp_path_factory):
    """One comparison that most tests look at, and never change."""
    out = tmp_path_factory.mktemp("made") / "out"
    found = compare_presets(
        source, PRESETS, out, samples=samples, parts=LANGUAGE, command="bivlm compare MODEL | x", **ASK
    )
    return found, out


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The picture is drawn once, for `made`; test_plots.py looks at pictures."""
    monkeypatch.setattr(module, "comparison_plot", lambda found, path: path.touch())


@pytest.fixture
def count(monkeypatch):
    """How often a model was packed, and asked."""
    calls = {"run": 0, "collect_reference": 0}

    def counted(name):
        original = getattr(module, name)

        def call(*args, **kwargs):
            calls[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, call)

    for name in calls:
        counted(name)
    return calls


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("runs/*.json"))}


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


def test_files(made):
    found, out = made
    assert {path.name for path in out.iterdir()} == {
        ".bivlm-compare", "reference", "models", "runs", "comparison.md", "comparison.json", "comparison.png",
    }  # fmt: skip
    assert not list((out / "models").iterdir())
    assert [path.name for path in (out / ".bivlm-compare").iterdir()] == ["lock"]
    written = json.loads((out / "comparison.json").read_text())
    assert tuple(ComparisonRow.from_dict(row) for row in written["rows"]) == found.rows
    with Image.open(out / "comparison.png") as picture:
        assert min(picture.size) > 800
    for name in (f"{run_name(PRESETS[0], LANGUAGE)}.json", "full-precision.json"):
        record = json.loads((out / "runs" / name).read_text())
        assert len(record["evaluation"]["records"]) == 4
        assert record["machine"]["torch"] == torch.__version__
    assert record["fingerprint"].keys() >= {"model", "samples"}


def test_markdown(made):
    found, out = made
    lines = (out / "comparison.md").read_text().splitlines()
    table = [line for line in lines if line.startswith("| ")]
    assert len(table) == 1 + len(found.rows)
    assert len({line.count("|") for line in table}) == 1
    assert found.machine in "\n".join(lines)
    assert "    bivlm compare MODEL | x" in lines


def test_nothing_is_made_twice(made, source, samples, count):
    found, out = made
    before = content(out)
    again = compare_presets(
        source, PRESETS, out, samples=samples, parts=LANGUAGE, command=found.command, **ASK
    )
    assert count == {"run": 0, "collect_reference": 0}
    assert again == found
    assert content(out) == before


def copy_of(out, target):
    subprocess.run(["cp", "-r", str(out), str(target)], check=True)
    return target


def test_a_new_preset_alone_is_made(made, source, samples, count, tmp_path):
    out = copy_of(made[1], tmp_path / "out")
    found = compare_presets(
        source, [*PRESETS, "bivlm-paper:bands=3,salient_max=0"], out, samples=samples, parts=LANGUAGE, **ASK
    )
    assert count == {"run": 1, "collect_reference": 0}
    assert len(found.rows) == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda samples: {"samples": samples[:3]},
        lambda samples: {"samples": [replace(samples[0], answers=("blue",)), *samples[1:]]},
        lambda samples: {"samples": [replace(samples[0], image=Image.new("RGB", (48, 40))), *samples[1:]]},
        lambda samples: {"max_new_tokens": 2},
        lambda samples: {"batch_size": 3},
    ],
)
def test_other_questions_or_settings_are_measured_again(made, source, samples, monkeypatch, tmp_path, change):
    class AskedAgain(Exception):
        pass

    def ask_again(*args, **kwargs):
        raise AskedAgain

    monkeypatch.setattr(module, "collect_reference", ask_again)
    out = copy_of(made[1], tmp_path / "out")
    with pytest.raises(AskedAgain):
        compare_presets(
            source, PRESETS[:1], out, **{"samples": samples, "parts": LANGUAGE, **ASK, **change(samples)}
        )


def test_calibration_counts_only_where_it_is_used(made, source, samples, count, tmp_path):
    out = copy_of(made[1], tmp_path / "out")
    compare_presets(source, PRESETS, out, samples=samples, calibration=tiny_samples(3), parts=LANGUAGE, **ASK)
    assert count["run"] == 0


def test_calibration_questions_that_are_asked_are_told(source, samples, tmp_path):
    found = compare_presets(
        source,
        ["bivlm"],
        tmp_path / "out",
        samples=samples,
        calibration=samples[:2],
        parts=["projector"],
        **ASK,
    )
    assert any(
        "2 of the 2 calibration questions are among those that were asked" in note for note in found.notes
    )
    assert found.rows[0].method == "bivlm"


def test_an_interrupted_comparison_continues(source, samples, count, monkeypatch, tmp_path):
    """Stopped in the middle of the second model: the first is not made again, and the blocks of the second
    are continued.
    """
    out, blocks = tmp_path / "out", []

    def stop(what, done, total):
        if what.startswith(PRESETS[1]) and "packing" in what and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare_presets(source, PRESETS, out, samples=samples, on_progress=stop, **ASK)
    assert count == {"run": 2, "collect_reference": 1}
    effort = json.loads((out / ".bivlm-compare" / f"{run_name(PRESETS[1], PARTS)}.json").read_text())[
        "effort"
    ]
    assert not effort["packed"]
    original = module.run
    monkeypatch.setattr(
        module,
        "run",
        lambda *args, on_block, **rest: original(
            *args, on_block=lambda report: (blocks.append(report), on_block(report)), **rest
        ),
    )
    found = compare_presets(source, PRESETS, out, samples=samples, **ASK)
    assert count == {"run": 3, "collect_reference": 1}
    assert [report.resumed for report in blocks[:3]] == [True, True, False]
    assert found.rows[1].quantize_seconds > effort["seconds"]
    assert (
        found.rows[1].true_bits
        == inspect(quantize(source, tmp_path / "whole", recipe=PRESETS[1])).total.bits_per_weight
    )
    assert not list((out / "models").iterdir())


def test_interrupted_while_asking_the_model_is_not_packed_again(source, samples, count, tmp_path):
    out = tmp_path / "out"

    def stop(what, done, total):
        if what == f"{PRESETS[0]}: questions":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare_presets(source, PRESETS[:1], out, samples=samples, on_progress=stop, **ASK)
    spent = json.loads((out / ".bivlm-compare" / f"{run_name(PRESETS[0], PARTS)}.json").read_text())["effort"]
    found = compare_presets(source, PRESETS[:1], out, samples=samples, **ASK)
    assert count["run"] == 1
    assert (found.rows[0].quantize_seconds, found.rows[0].peak_bytes) == (
        spent["seconds"],
        spent["peak_bytes"],
    )


def test_a_reference_that_is_not_whole_is_collected_again(made, source, samples, count, tmp_path):
    out = copy_of(made[1], tmp_path / "out")
    (out / "reference" / "reference.json").unlink()
    found = compare_presets(source, PRESETS, out, samples=samples, parts=LANGUAGE, **ASK)
    assert count == {"run": 0, "collect_reference": 1}
    assert found.rows[0] == made[0].rows[0]


def test_models_are_kept_when_asked_for(made, source, samples, count, tmp_path):
    out = copy_of(made[1], tmp_path / "out")
    compare_presets(source, PRESETS[:1], out, samples=samples, parts=LANGUAGE, keep_models=True, **ASK)
    kept = out / "models" / run_name(PRESETS[0], LANGUAGE)
    assert inspect(kept).recipe == PRESETS[0]
    assert count["run"] == 1  # the record was there, the model was not
    compare_presets(source, PRESETS[:1], out, samples=samples, parts=LANGUAGE, keep_models=True, **ASK)
    compare_presets(source, PRESETS[:1], out, samples=samples, parts=LANGUAGE, **ASK)
    assert count["run"] == 1
    assert kept.exists()


def test_what_fails_is_a_row_and_the_others_go_on(source, samples, count, monkeypatch, tmp_path):
    nowhere = Recipe("nowhere", (Rule("bivlm", linears="*.nothing", settings={"compensate": False}),))
    original = module.run

    def refuse(prepared, *args, **kwargs):
        if prepared.recipe.name == PRESETS[1]:
            raise InputError("model.layers.0.mlp: too narrow for this method")
        return original(prepared, *args, **kwargs)

    monkeypatch.setattr(module, "run", refuse)
    out = tmp_path / "out"
    found = compare_presets(
        source, [nowhere, *PRESETS[::-1]], out, samples=samples, parts=["projector"], **ASK
    )
    assert [row.preset for row in found.rows] == [PRESETS[0], FULL_PRECISION, PRESETS[1], "nowhere"]
    assert [row.preset for row in found.failed] == [PRESETS[1], "nowhere"]
    text = (out / "comparison.md").read_text()
    assert f"failed: {PRESETS[1]}: model.layers.0.mlp: too narrow for this method" in text
    assert "matches no linear of the chosen parts" in text
    assert not list((out / "models").iterdir())
    monkeypatch.setattr(module, "run", original)
    again = compare_presets(source, PRESETS, out, samples=samples, parts=["projector"], **ASK)
    assert not again.failed  # what failed is tried again


def test_a_preset_beyond_its_bits_is_told(source, samples, tmp_path):
    recipe = replace(load_recipe(PRESETS[1]), name="one", true_bits=1.0)
    found = compare_presets(source, [recipe], tmp_path / "out", samples=samples, parts=["projector"], **ASK)
    assert found.notes == (
        f"one is meant for about 1 true bits and takes {found.rows[0].true_bits:.2f} on this model's shapes",
    )
    assert found.notes[0] in (tmp_path / "out" / "comparison.md").read_text()


@pytest.mark.slow
def test_parts_study(source, samples, count, tmp_path):
    out = tmp_path / "out"
    found = compare_presets(source, PRESETS[:1], out, samples=samples, parts_study=True, **ASK)
    assert [row.parts for row in found.rows] == [(), *COMBINATIONS]
    assert len(COMBINATIONS) == 7
    assert count["run"] == 7
    assert not (out / "comparison.png").exists()
    table = [line for line in (out / "comparison.md").read_text().splitlines() if line.startswith("| bivlm")]
    assert [line.count("✓") for line in table] == [1, 1, 1, 2, 2, 2, 3]
    compare_presets(source, PRESETS[:1], out, samples=samples, parts=LANGUAGE, **ASK)
    assert count["run"] == 7  # a comparison in the same folder takes over what the study made


def sample_without_answer():
    return [Sample(Image.new("RGB", (8, 8)), "why?", (), "x.jsonl:7")]


MISTAKES = {
    "no preset": (lambda ok: {"presets": []}, "no preset"),
    "two recipes of one name": (lambda ok: {"presets": ["bivlm", replace(load_recipe("bivlm-paper"),
    name="bivlm")]}, "one of them another name"),
    "wrong part": (lambda ok: {"parts": ["ears"]}, "no part 'ears'"),
    "no part": (lambda ok: {"parts": []}, "no part"),
    "no questions": (lambda ok: {"samples": []}, "no questions"),
    "no answers": (lambda ok: {"samples": sample_without_answer()}, "x.jsonl:7 has no answer"),
    "no calibration": (lambda ok: {"presets": ["bivlm"]}, "preset bivlm calibrates on data"),
    "no batch": (lambda ok: {"batch_size": 0}, "batch size"),
    "no model": (lambda ok: {"model": "no-such-folder"}, "no folder no-such-folder"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_told_before_anything_is_written(source, samples, tmp_path, change, message):
    arguments = {
        "model": source,
        "presets": PRESETS,
        "out": tmp_path / "out",
        "samples": samples,
        **ASK,
        **change(None),
    }
    with pytest.raises(InputError, match=message):
        compare_presets(**arguments)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(source, samples, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("mine")
    for out, message in (
        ("file", "is a file"),
        ("folder", "holds files that no comparison wrote"),
        ("file/below", "cannot be made"),
    ):
        with pytest.raises(InputError, match=message):
            compare_presets(source, PRESETS, tmp_path / out, samples=samples, **ASK)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder", "thesis.txt"]


def test_two_at_once_are_refused(made, source, samples):
    with (
        module.ComparisonFolder(made[1]),
        pytest.raises(InputError, match="another comparison is being written"),
    ):
        compare_presets(source, PRESETS, made[1], samples=samples, **ASK)


def test_a_missing_matplotlib_is_told_before_anything_long(source, samples, tmp_path, monkeypatch):
    monkeypatch.setattr("bivlm.studies.compare.plot.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'bivlm\[plots\]'"):
        compare_presets(source, PRESETS, tmp_path / "out", samples=samples, **ASK)
    assert not (tmp_path / "out").exists()


def test_digests_know_questions_answers_and_pixels(samples, tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    Image.new("RGB", (8, 8), "red").save(tmp_path / "b.png")
    one = Sample(tmp_path / "a.png", "why?", ("red",), "a:1")
    assert digests([one]) == digests([replace(one, image=tmp_path / "b.png", origin="b:9")])
    for other in (replace(one, question="how?"), replace(one, answers=("blue",)), samples[0]):
        assert digests([one]) != digests([other])
    with pytest.raises(InputError, match="a:1: the image"):
        digests([replace(one, image=tmp_path / "none.png")])


@pytest.mark.parametrize(("preset", "parts", "name"), [
    ("gptq-2", PARTS, "gptq-2"),
    ("gptq-2:group_size=64,modality_weight=balanced", ("language",),
    "gptq-2_group_size=64,modality_weight=balanced@language"),
    ("../a b/c", ("vision", "language"), ".._a_b_c@vision+language"),
])  # fmt: skip
def test_run_names_are_file_names(preset, parts, name):
    assert run_name(preset, parts) == name


JOB = """
import sys
from bivlm.data.samples import read_samples
from bivlm.studies.compare.run import compare_presets
presets = ["bivlm-paper:bands=1", "bivlm-paper:bands=2"]
samples = read_samples(sys.argv[3])
compare_presets(sys.argv[1], presets, sys.argv[2], samples=samples, batch_size=2, max_new_tokens=3)
"""


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_same_numbers(source, samples, tmp_path):
    """SIGKILL at growing moments until a run comes through; what it then holds is what an undisturbed one
    holds.
    """
    lines = []
    for number, sample in enumerate(samples):
        sample.image.save(tmp_path / f"{number}.png")
        lines.append(
            json.dumps(
                {"image": f"{number}.png", "question": sample.question, "answers": list(sample.answers)}
            )
        )
    (tmp_path / "vqa.jsonl").write_text("\n".join(lines))

    def start(out):
        words = [sys.executable, "-c", JOB, str(source), str(tmp_path / out), str(tmp_path / "vqa.jsonl")]
        return subprocess.Popen(words, env={**os.environ, "OMP_NUM_THREADS": "1"})

    began = time.monotonic()
    assert start("whole").wait() == 0
    duration, kills, done = time.monotonic() - began, 0, False
    while not done:
        process = start("killed")
        try:
            process.wait(timeout=duration * (0.6 + 0.04 * kills))
            done = True
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    assert process.returncode == 0
    assert kills >= 2

    def numbers(out):
        rows = json.loads((tmp_path / out / "comparison.json").read_text())["rows"]
        return [
            {
                key: row[key]
                for key in (
                    "preset",
                    "accuracy",
                    "kl",
                    "top1_agreement",
                    "true_bits",
                    "paper_bits",
                    "folder_bytes",
                )
            }
            for row in rows
        ]

    assert numbers("killed") == numbers("whole")


def test_prepared_jobs_are_the_pipelines_own(source):
    """The comparison packs what `bivlm quantize` packs: the same plan for the same words."""
    recipe = load_recipe(PRESETS[0])
    assert (
        prepare(source, recipe=recipe).plan.linears
        == prepare(source, recipe="bivlm-paper", settings={"bands": 1, "salient_max": 0}).plan.linears
    )
