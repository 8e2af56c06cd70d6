"""Compare two presets on your own model and your own questions: accuracy, KL divergence, true bits.

    python examples/compare_presets.py path/to/model questions.jsonl comparison --presets gptq-2 trellis-2

A line of questions.jsonl is {"image": "photo.jpg", "question": "…", "answers": ["…"]}, the image relative to
the file. Every second line calibrates the presets that need data, the others are asked. The folder
`comparison` holds the table as a page, the numbers as JSON, and a picture (`pip install "bivlm[plots]"`);
interrupted, the same command continues.
"""

import argparse
import json
from pathlib import Path

import bivlm
from bivlm.studies.compare.page import write_page


def read_questions(path: Path) -> list[bivlm.Sample]:
    """Every line of the file as a sample; `origin` is what error messages name."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        bivlm.Sample(
            image=path.parent / line["image"],
            question=line["question"],
            answers=tuple(line["answers"]),
            origin=f"{path.name}:{number}",
        )
        for number, line in enumerate(lines, 1)
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="model folder, or OWNER/NAME on the Hugging Face hub")
    parser.add_argument("questions", type=Path, help="JSON lines")
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument("--presets", nargs="+", default=["gptq-2", "trellis-2"])
    options = parser.parse_args(arguments)

    samples = read_questions(options.questions)
    found = bivlm.compare_presets(
        options.model, options.presets, options.out, samples=samples[::2], calibration=samples[1::2]
    )
    write_page(found, options.out)
    for row in found.rows:
        if row.failure:
            print(f"{row.preset}: {row.failure}")
        else:
            print(f"{row.preset}: {row.true_bits:.2f} bits, accuracy {row.accuracy:.1%}, KL {row.kl:.4f}")


if __name__ == "__main__":
    main()
