"""Quantize a vision-language model without calibration data, then ask the packed model a question.

    python examples/quantize_and_ask.py path/to/model packed photo.jpg "What is on the table?"

Presets that calibrate need fewer bits for the same answers; compare_presets.py shows how questions become
samples.
"""

import argparse
from pathlib import Path

import bivlm


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="model folder, or OWNER/NAME on the Hugging Face hub")
    parser.add_argument("out", type=Path, help="folder for the packed model")
    parser.add_argument("image", type=Path)
    parser.add_argument("question")
    parser.add_argument("--preset", default="trellis-3:feedback=false", help="one that needs no data")
    options = parser.parse_args(arguments)

    bivlm.quantize(options.model, options.out, recipe=options.preset)

    found = bivlm.inspect(options.out)
    before, after = found.folder_bytes_before / 1e6, found.folder_bytes_after / 1e6
    print(f"{found.total.linears} linears at {found.total.bits_per_weight:.2f} bits per weight")
    print(f"{before:.1f} MB before, {after:.1f} MB after")

    model, processor = bivlm.load(options.out)
    print(bivlm.answer(model, processor, options.image, options.question))


if __name__ == "__main__":
    main()
