"""Everything that is measured on a card, in under ten minutes: `make gpu`.

    python benchmarks/bench_gpu.py [--out docs/results]

The tests of the kernels and of quantizing on the card come first: nothing is timed that is not right. Then
bench_kernels.py, bench_search.py and bench_decode.py, of both sizes. The results go to gpu-CARD.md and
gpu-CARD.json. Without a card: one line, exit code 2.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from card import card_name, describe_card, require_card

HERE = Path(__file__).parent
TESTS = [
    "-m",
    "pytest",
    "-q",
    "-n",
    "4",
    "-m",
    "gpu and not slow",
    "tests/kernels",
    "tests/quantizers",
    "tests/job",
]
DECODE = {"1.5b": ["--tokens", "64", "--rounds", "1"], "7b": ["--tokens", "32", "--rounds", "1"]}


def run(words: list[str]) -> None:
    """SystemExit if it fails."""
    started = time.monotonic()
    done = subprocess.run([sys.executable, *words], cwd=HERE.parent)
    print(f"{words[0]} {words[1]}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    if done.returncode:
        raise SystemExit(f"failed: {' '.join(words)}")


def benchmark(script: str, words: list[str], folder: Path) -> tuple[Any, str]:
    """What a benchmark found: its numbers and its page."""
    numbers, page = folder / "numbers.json", folder / "page.md"
    run([f"benchmarks/{script}", "--device", "cuda", "--json", str(numbers), "--markdown", str(page), *words])
    return json.loads(numbers.read_text()), page.read_text()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "results")
    options = parser.parse_args()
    require_card("bench_gpu")
    started = time.monotonic()
    run(TESTS)
    found: dict[str, Any] = {"card": describe_card()}
    pages = []
    with TemporaryDirectory() as folder:
        found["kernels"], page = benchmark("bench_kernels.py", ["--rounds", "3"], Path(folder))
        pages.append(page)
        found["search"], page = benchmark("bench_search.py", [], Path(folder))
        pages.append(page)
        for size, words in DECODE.items():
            found[f"decode {size}"], page = benchmark(
                "bench_decode.py", ["--size", size, *words], Path(folder)
            )
            pages.append(page)
    found["seconds"] = round(time.monotonic() - started)
    place = options.out / f"gpu-{card_name()}"
    place.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    place.with_suffix(".md").write_text("\n".join(pages))
    print(f"{place}.md, after {found['seconds']} s")


if __name__ == "__main__":
    main()
