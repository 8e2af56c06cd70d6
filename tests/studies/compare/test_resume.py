"""A comparison measures each preset once: what is finished is kept, and what was interrupted goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from PIL import Image

from bivlm.eval.inspection import inspect
from bivlm.job.run import quantize
from bivlm.studies import study
from bivlm.studies.compare import pack
from bivlm.studies.compare.folder import run_name
from bivlm.studies.compare.run import compare_presets
from bivlm.types import PARTS
from comparing import ASK, LANGUAGE, PRESETS, copy_of, records
from tiny import tiny_samples
from told import Told


def test_nothing_is_made_twice(made, source, samples, count):
    found, out = made
    before = records(out)
    again = compare_presets(
        source,
        PRESETS,
        out,
        samples=samples,
        parts=LANGUAGE,
        settings=replace(ASK, command=found.command),
    )
    assert count == {"run": 0, "collect_reference": 0}
    assert again == found
    assert records(out) == before


def test_a_new_preset_alone_is_made(made, source, samples, count, tmp_path):
    out = copy_of(made[1], tmp_path / "out")
    found = compare_presets(
        source,
        [*PRESETS, "bivlm-paper:bands=3,salient_max=0"],
        out,
        samples=samples,
        parts=LANGUAGE,
        settings=ASK,
    )
    assert count == {"run": 1, "collect_reference": 0}
    assert len(found.rows) == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda samples: {"samples": samples[:3]},
        lambda samples: {"samples": [replace(samples[0], answers=("blue",)), *samples[1:]]},
        lambda samples: {"samples": [replace(samples[0], image=Image.new("RGB", (48, 40))), *samples[1:]]},
        lambda samples: {"settings": replace(ASK, max_new_tokens=2)},
        lambda samples: {"settings": replace(ASK, batch_size=3)},
    ],
)
def test_other_questions_or_settings_are_measured_again(made, source, samples, monkeypatch, tmp_path, change):
    class AskedAgain(Exception):
        pass

    def ask_again(*args, **kwargs):
        raise AskedAgain

    monkeypatch.setattr(study, "collect_reference", ask_again)
    out = copy_of(made[1], tmp_path / "out")
    with pytest.raises(AskedAgain):
        compare_presets(
            source,
            PRESETS[:1],
            out,
            **{"samples": samples, "parts": LANGUAGE, "settings": ASK, **change(samples)},
        )


def test_calibration_counts_only_where_it_is_used(made, source, samples, count, tmp_path):
    out = copy_of(made[1], tmp_path / "out")
    compare_presets(
        source, PRESETS, out, samples=samples, calibration=tiny_samples(3), parts=LANGUAGE, settings=ASK
    )
    assert count["run"] == 0


def test_an_interrupted_comparison_continues(source, samples, count, monkeypatch, tmp_path):
    """Stopped in the middle of the second model: the first is not made again, and the blocks of the second
    are continued.
    """
    out, blocks = tmp_path / "out", []
    told = Told(stop=lambda what, done: what == f"{PRESETS[1]}: packing blocks" and done == 2)
    with pytest.raises(KeyboardInterrupt):
        compare_presets(source, PRESETS, out, samples=samples, settings=replace(ASK, events=told))
    assert count == {"run": 2, "collect_reference": 1}
    cost = json.loads((out / ".bivlm-compare" / f"{run_name(PRESETS[1], PARTS)}.json").read_text())["cost"]
    assert not cost["packed"]
    original = pack.run

    def run(*args, events, **rest):
        heard = Told(lambda report: (blocks.append(report), events.unit(report, 1, 1)))
        return original(*args, events=heard, **rest)

    monkeypatch.setattr(pack, "run", run)
    found = compare_presets(source, PRESETS, out, samples=samples, settings=ASK)
    assert count == {"run": 3, "collect_reference": 1}
    assert [report.resumed for report in blocks[:3]] == [True, True, False]
    assert found.rows[1].quantize_seconds > cost["seconds"]
    assert (
        found.rows[1].true_bits
        == inspect(quantize(source, tmp_path / "whole", recipe=PRESETS[1])).total.bits_per_weight
    )
    assert not list((out / "models").iterdir())


def test_interrupted_while_asking_the_model_is_not_packed_again(source, samples, count, tmp_path):
    out = tmp_path / "out"
    told = Told(stop=lambda what, done: what == f"{PRESETS[0]}: questions")
    with pytest.raises(KeyboardInterrupt):
        compare_presets(source, PRESETS[:1], out, samples=samples, settings=replace(ASK, events=told))
    spent = json.loads((out / ".bivlm-compare" / f"{run_name(PRESETS[0], PARTS)}.json").read_text())["cost"]
    found = compare_presets(source, PRESETS[:1], out, samples=samples, settings=ASK)
    assert count["run"] == 1
    assert (found.rows[0].quantize_seconds, found.rows[0].peak_bytes) == (
        spent["seconds"],
        spent["peak_bytes"],
    )


def test_a_reference_that_is_not_whole_is_collected_again(made, source, samples, count, tmp_path):
    out = copy_of(made[1], tmp_path / "out")
    (out / "reference" / "reference.json").unlink()
    found = compare_presets(source, PRESETS, out, samples=samples, parts=LANGUAGE, settings=ASK)
    assert count == {"run": 0, "collect_reference": 1}
    assert found.rows[0] == made[0].rows[0]


JOB = """
import sys
from pathlib import Path
from bivlm.data.samples import read_samples
from bivlm.studies.compare.page import write_page
from bivlm.studies.compare.run import compare_presets
from bivlm.studies.study import RunSettings
presets = ["bivlm-paper:bands=1", "bivlm-paper:bands=2"]
samples = read_samples(sys.argv[3])
found = compare_presets(sys.argv[1], presets, sys.argv[2], samples=samples, settings=RunSettings(2, 3))
write_page(found, Path(sys.argv[2]))
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
