"""lmms-eval itself asks a packed folder, where it is installed: the same answers as `bivlm eval`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import bivlm
from bivlm.data.samples import read_samples
from bivlm.errors import InputError
from bivlm.eval.run import evaluate
from bivlm.zoo import embedded_model

lmms_eval = pytest.importorskip("lmms_eval", reason="lmms-eval is an extra that brings a torch of its own")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of lmms-eval's many packages
QUESTIONS = 40


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    out = tmp_path_factory.mktemp("lmms") / "packed"
    bivlm.quantize(embedded_model(), out, recipe="rtn-2")
    return out


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """A folder with the task's two files, its data as parquet with the images' bytes."""
    import datasets

    folder = tmp_path_factory.mktemp("task")
    rows = [
        {
            "image": {"bytes": Path(sample.image).read_bytes(), "path": None},
            "question": sample.question,
            "answer": sample.answers[0],
        }
        for sample in read_samples("easy-vqa", limit=QUESTIONS)
    ]
    features = datasets.Features(
        image=datasets.Image(), question=datasets.Value("string"), answer=datasets.Value("string")
    )
    datasets.Dataset.from_list(rows, features=features).to_parquet(folder / "test.parquet")
    here = Path(__file__).parent
    shutil.copy(here / "task.py", folder)
    text = (here / "task.yaml").read_text().replace("QUESTIONS", str(folder / "test.parquet"))
    (folder / "bivlm_easy_vqa.yaml").write_text(text)
    return folder


def run(task, arguments, batch_size):
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    return simple_evaluate(
        model="bivlm",
        model_args=arguments,
        tasks=["bivlm_easy_vqa"],
        batch_size=batch_size,
        task_manager=TaskManager(include_path=str(task), include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
    )


@pytest.mark.parametrize("batch_size", [1, 16])
def test_the_accuracy_is_that_of_bivlm_eval(packed, task, batch_size):
    found = run(task, f"pretrained={packed}", batch_size)
    model, processor = bivlm.load(packed)
    own = evaluate(model, processor, read_samples("easy-vqa", limit=QUESTIONS), max_new_tokens=4)
    answers = [record["filtered_resps"][0] for record in found["samples"]["bivlm_easy_vqa"]]
    assert answers == [record.answer for record in own.records]
    assert found["results"]["bivlm_easy_vqa"]["exact_match,none"] == pytest.approx(own.accuracy)


def test_pruning_reaches_the_model(packed):
    from bivlm.lmms.model import Bivlm
    from bivlm.pruning.apply import describe

    pruned = Bivlm(str(packed), pruning="attention:layer=2;keep=0.25", device="cpu")
    assert "keep=0.25" in str(describe(pruned.model))


def test_an_unknown_argument_is_named(packed):
    from bivlm.lmms.model import Bivlm

    with pytest.raises(InputError, match="no argument prune; it has"):
        Bivlm(str(packed), prune="none")
