"""A pruning study measures each cell once, keeps what it finished, and says what can go; the same settings
work wherever a model is loaded.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

import bivlm
from bivlm.errors import InputError
from bivlm.eval.answer import prepare
from bivlm.eval.measure import measure
from bivlm.eval.run import evaluate
from bivlm.families import family_of
from bivlm.job.run import quantize
from bivlm.loading import load
from bivlm.pruning.apply import active_pruning, describe, prune
from bivlm.pruning.settings import parse_pruning, sweep
from bivlm.studies import study
from bivlm.studies.prune import run, timing
from bivlm.studies.prune.page import write_page
from bivlm.studies.prune.result import PruningCell
from bivlm.studies.prune.run import default_layers, study_pruning
from bivlm.studies.prune.table import pruning_markdown
from bivlm.studies.study import RunSettings
from tiny import tiny_checkpoint, tiny_samples
from told import Told

PRUNINGS = sweep(["grid", "attention:attending=last"], ["language"], [0, 1], [0.5, 0.1])
ASK = {"batch_size": 2, "max_new_tokens": 3}
SETTINGS = RunSettings(**ASK)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny_checkpoint("llava_siglip", tmp_path_factory.mktemp("prune") / "source", torch.float32)


@pytest.fixture(scope="module")
def packed(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("prune") / "packed"
    return quantize(
        source,
        out,
        recipe="bivlm-paper",
        settings={"bands": 2, "salient_max": 0},
        pruning="diversity:layer=1,keep=0.25",
    )


@pytest.fixture(scope="module")
def samples():
    return tiny_samples(4)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(timing, "SECONDS", 0.0)


@pytest.fixture(scope="module")
def made(source, samples, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "out"
    settings = replace(SETTINGS, command="bivlm prune MODEL")
    found = study_pruning(source, PRUNINGS, out, samples=samples, settings=settings)
    write_page(found, out)
    return found, out


def test_a_cell_is_what_an_evaluation_of_the_pruned_model_gives(made, source, samples):
    found, _ = made
    cell = next(cell for cell in found.cells if (cell.pruner, cell.layer, cell.keep) == ("grid", 1, 0.1))
    model, processor = load(source)
    prune(model, "grid:layer=1,keep=0.1")
    result = evaluate(model, processor, samples, **ASK)
    assert (cell.accuracy, cell.interval) == (result.accuracy, result.interval)
    assert cell.kept_tokens == 2
    assert found.visual_tokens == 16
    length = prepare(model, processor, family_of(model.config), samples[:1])["input_ids"].shape[1]
    assert cell.cache == pytest.approx((length + 2 * (length - 14)) / (3 * length))
    assert cell.kl is not None
    assert cell.kl > 0


def test_everything_is_written_and_can_be_read_again(made):
    found, out = made
    content = json.loads((out / "pruning.json").read_text())
    assert [PruningCell.from_dict(cell) for cell in content["cells"]] == list(found.cells)
    page = (out / "pruning.md").read_text()
    assert "bivlm prune MODEL" in page
    assert "| attention,attending=last | language block 1 |" in page
    assert page == pruning_markdown(found, picture="pruning.png")
    with Image.open(out / "pruning.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 50


def test_what_is_finished_is_not_made_again_and_new_cells_are(made, source, samples, monkeypatch):
    _, out = made
    done = []
    original = run.prefill_ratios

    def counted(model, inputs, pruning):
        done.append(str(pruning))
        return original(model, inputs, pruning)

    monkeypatch.setattr(run, "prefill_ratios", counted)
    more = [*PRUNINGS, parse_pruning("random:layer=1,keep=0.5")]
    found = study_pruning(source, more, out, samples=samples, settings=SETTINGS)
    assert done == ["random:layer=1,keep=0.5"]
    assert len(found.cells) == 9
    study_pruning(source, PRUNINGS[:1], out, samples=samples[:3], settings=SETTINGS)
    assert done[1:] == [str(PRUNINGS[0])], "other questions, other numbers"


def test_an_interrupted_study_continues(source, samples, tmp_path):
    """Stopped in the middle of the second cell: the first one is kept, and its line is told again."""
    out, first, second = tmp_path / "out", str(PRUNINGS[0]), str(PRUNINGS[1])
    stopped = Told(stop=lambda what, done: what == f"{second}: questions")
    with pytest.raises(KeyboardInterrupt):
        study_pruning(source, PRUNINGS[:2], out, samples=samples, settings=replace(SETTINGS, events=stopped))
    assert len(stopped.lines) == 1
    told = Told()
    found = study_pruning(source, PRUNINGS[:2], out, samples=samples, settings=replace(SETTINGS, events=told))
    assert {what for what, _, _ in told.steps} == {f"{second}: questions"}
    assert told.lines[0] == stopped.lines[0]
    assert len(told.lines) == len(found.cells) == 2
    assert f"{first}: questions" in {what for what, _, _ in stopped.steps}
    assert not (out / "pruning.md").exists(), "a study writes its runs only"


def test_redundancy_is_the_share_before_the_first_loss(made):
    found, _ = made
    cells = [
        replace(found.cells[0], pruner="grid", layer=0, keep=keep, accuracy=accuracy)
        for keep, accuracy in ((0.5, 0.9), (0.75, 0.895), (0.1, 0.8), (0.05, 0.9))
    ]
    (row,) = replace(found, accuracy=0.9, cells=tuple(cells)).redundancy
    assert (row.share, row.accuracy) == (0.5, 0.9)
    (row,) = replace(found, accuracy=0.95, cells=tuple(cells)).redundancy
    assert (row.share, row.accuracy) == (0.0, 0.95)


def test_another_models_choice_can_be_kept(source, packed, samples, tmp_path):
    prunings = sweep(["attention"], ["language"], [1], [0.25])
    found = study_pruning(
        packed, prunings, tmp_path / "out", samples=samples, reference=source, ranking=True, settings=SETTINGS
    )
    (cell,) = found.cells
    assert cell.overlap is not None
    assert 0 <= cell.overlap <= 1
    assert cell.accuracy_by_other is not None
    itself = study_pruning(
        source,
        prunings,
        tmp_path / "itself",
        samples=samples,
        reference=source,
        ranking=True,
        settings=SETTINGS,
    )
    (same,) = itself.cells
    assert same.overlap == 1
    assert same.kl_by_other == pytest.approx(same.kl)
    with pytest.raises(InputError, match="needs the other model"):
        study_pruning(packed, prunings, tmp_path / "other", samples=samples, ranking=True, settings=SETTINGS)


def test_bad_input_is_refused_before_anything_is_written(source, samples, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="blocks 0 to 2"):
        study_pruning(source, [parse_pruning("grid:layer=7,keep=0.5")], out, samples=samples)
    with pytest.raises(InputError, match="no pruning is given"):
        study_pruning(source, [], out, samples=samples)
    with pytest.raises(InputError, match="no answer to compare with"):
        study_pruning(source, PRUNINGS, out, samples=[replace(samples[0], answers=())])
    assert not out.exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(InputError, match="no pruning study wrote"):
        study_pruning(source, PRUNINGS, tmp_path / "mine", samples=samples)


def test_a_checkpoint_carries_its_pruning(packed, source, samples, tmp_path):
    model, processor = load(packed)
    assert describe(model) == "diversity:layer=1,keep=0.25"
    assert (
        "| visual tokens dropped by default | `diversity:layer=1,keep=0.25` |"
        in (packed / "README.md").read_text()
    )
    assert evaluate(model, processor, samples, **ASK).pruning == "diversity:layer=1,keep=0.25"
    model.save_pretrained(tmp_path / "again")
    processor.save_pretrained(tmp_path / "again")
    assert describe(load(tmp_path / "again")[0]) == "diversity:layer=1,keep=0.25"
    assert describe(load(packed, pruning=None)[0]) is None
    assert describe(load(packed, pruning="grid:layer=0,keep=0.5")[0]) == "grid:layer=0,keep=0.5"
    assert describe(load(source)[0]) is None
    assert (
        measure(packed, samples, reference=source, pruning="grid:layer=0,keep=0.5", **ASK).pruning
        == "grid:layer=0,keep=0.5"
    )
    with pytest.raises(InputError, match="blocks 0 to 2"):
        quantize(source, tmp_path / "never", pruning="grid:layer=9,keep=0.5")
    assert not (tmp_path / "never").exists()


def test_public_name(packed):
    model, _ = bivlm.load(packed)
    bivlm.prune(model, None)
    assert active_pruning(model) is None


def test_default_layers(source, packed, tmp_path):
    assert default_layers(source) == default_layers(packed) == [0, 1, 2]
    (tmp_path / "notes").mkdir()
    with pytest.raises(InputError, match=r"is empty; give the folder of a model"):
        default_layers(tmp_path / "notes")


def test_the_reference_is_asked_once_and_lies_on_the_disk(source, samples, tmp_path, monkeypatch):
    out = tmp_path / "out"
    study_pruning(source, PRUNINGS[:1], out, samples=samples, settings=SETTINGS)
    monkeypatch.setattr(study, "collect_reference", lambda *_, **__: pytest.fail("it was asked before"))
    study_pruning(source, PRUNINGS[:1], out, samples=samples, settings=SETTINGS)
    assert (out / "reference" / "reference.json").exists()


def test_cross_attention_counts_the_tokens_that_it_looks_at(samples, tmp_path):
    model = tiny_checkpoint("mllama", tmp_path / "source", torch.float32)
    found = study_pruning(
        model,
        sweep(["grid"], ["language"], [1], [0.25]),
        tmp_path / "out",
        samples=samples[:1],
        settings=SETTINGS,
    )
    assert found.visual_tokens % (16 + 1) == 0
    assert found.visual_tokens > 0
    assert found.cells[0].kept_tokens == pytest.approx(found.visual_tokens / 4, abs=0.5)
