"""Folders as `bivlm eval --out` writes them, of four questions."""

import json
from dataclasses import asdict

from PIL import Image

from bivlm.eval.records import Record

QUESTIONS = ("what is <b>it</b>?", "is it red?", "how many?", "is it large?")
FULL = ("cat", "no", "3", "yes")
PARTS = [
    {"name": "language", "weights": 1000, "nbytes": 250, "bits": 2.0},
    {"name": "vision", "weights": 500, "nbytes": 130, "bits": 2.08},
]


def write(folder, model, answers, scores, parts=(), experts=(), **result):
    """A folder as `bivlm eval --out` writes it."""
    (folder / "pictures").mkdir(parents=True)
    records = [
        Record(
            f"q:{number}",
            question,
            answer,
            (right,),
            score,
            group=f"group {number % 2}",
            image=f"{number:016x}",
        )
        for number, (question, answer, right, score) in enumerate(
            zip(QUESTIONS, answers, FULL, scores, strict=True)
        )
    ]
    for record in records:
        Image.new("RGB", (4, 4), "red").save(folder / "pictures" / f"{record.image}.webp")
    numbers = {
        "n": len(records),
        "accuracy": sum(scores) / len(scores),
        "interval": [0.2, 0.9],
        "seconds": 2.0,
    }
    content = {
        "asked": {"model": model, "adapter": None, "prune": None},
        "result": {**numbers, **result},
        "size": {"true_bits": 2.03 if parts else None, "weight_bytes": 1234567, "parts": list(parts)},
    }
    if experts:
        content["size"]["experts"] = list(experts)
    (folder / "records.jsonl").write_text("".join(json.dumps(asdict(record)) + "\n" for record in records))
    (folder / "result.json").write_text(json.dumps(content))
    return folder
