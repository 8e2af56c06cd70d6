"""A vision-only model on the command line."""

import json

import pytest

from tiny.vision import marked_samples, seeing_checkpoint


@pytest.fixture(scope="module")
def sam(tmp_path_factory):
    return seeing_checkpoint("sam", tmp_path_factory.mktemp("sam") / "source")


@pytest.fixture
def boxes(tmp_path):
    rows = []
    for number, sample in enumerate(marked_samples(4)):
        sample.image.save(tmp_path / f"{number}.png")
        sample.marks.masks[0].save(tmp_path / f"{number}-mask.png")
        record = {
            "image": f"{number}.png",
            "boxes": list(sample.marks.boxes),
            "masks": [f"{number}-mask.png"],
        }
        rows.append(json.dumps(record))
    (tmp_path / "boxes.jsonl").write_text("\n".join(rows))
    return tmp_path / "boxes.jsonl"


def test_quantize_eval_and_refusals(sam, boxes, run, tmp_path):
    out = tmp_path / "out"
    code, text, error = run("quantize", sam, out, "--preset", "gptq-3", "--data", boxes, "--split", "all")
    assert code == 0, error
    assert "measure it with: bivlm eval" in " ".join(text.split())
    assert "mask-generation" in (out / "README.md").read_text()
    measured = ("eval", out, "--data", boxes, "--split", "all", "--reference", sam)
    code, text, error = run(*measured, "--keep-seen", "--json")
    assert code == 0, error
    found = json.loads(text)
    assert (found["n"], found["objects"], found["kind"], found["non_finite"]) == (4, 4, "masks", 0)
    assert 0 < found["iou"]["mean"] <= 1
    assert 0 <= found["true_iou"]["mean"] <= 1
    assert run(*measured)[0] == 2, "all of it was calibrated on"
    code, text, _ = run(*measured, "--keep-seen")
    assert code == 0
    assert "IoU with the reference" in " ".join(text.split())
    for words in (
        ("ask", out, "What is it?"),
        ("chat", out),
        ("eval", out, "--data", boxes, "--task", "mme"),
    ):
        code, _, error = run(*words)
        assert code == 2, error
        assert len(error.strip().splitlines()) == 1
        assert "sam model" in error


@pytest.mark.slow
def test_images_without_boxes_are_refused(sam, boxes, run, tmp_path):
    code, _, error = run(
        "quantize", sam, tmp_path / "out", "--preset", "gptq-3", "--data", boxes.parent / "0.png"
    )
    assert code == 2, error
    (tmp_path / "plain.jsonl").write_text('{"image": "0.png"}\n')
    words = ("--preset", "gptq-3", "--data", tmp_path / "plain.jsonl", "--split", "all")
    code, _, error = run("quantize", sam, tmp_path / "out", *words)
    assert code == 2
    assert "a mask is asked for by boxes or points" in error
