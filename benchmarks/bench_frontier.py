"""The record table: every preset, and llama.cpp's types of at most about 2.6 bits, on the same language
models, with the same calibration tokens, judged alike.

    python benchmarks/bench_frontier.py --model FOLDER [--model FOLDER …] --text FOLDER --presets A,B
        [--second-text FOLDER] [--peers IQ1_S,IQ1_M,…] [--work FOLDER]
        [--json docs/results/frontier.json] [--markdown docs/results/frontier.md]
        [--plot docs/results/frontier.png]

Text, windows and figures are those of bench_language.py: perplexity, KL to the full-precision model,
agreement of the likeliest token, and of free greedy writing, on the test windows; perplexity and KL on a
second text. A folder of `--model` may hold one .gguf file; then "full precision" is what that file expands
to.

Peers (packages ik-llama-cpp-python and gguf). The model is written as a float32 GGUF file and packed by
llama-quantize, with an importance matrix of the calibration windows: the mean squares of each linear's inputs
in the full-precision model. The types come as the program deals them out: it gives some layers a larger type,
and most types hold only widths that are multiples of 256, so that on others a larger type takes their place.
The table says which types the file has. A type's name alone keeps embedding and head in float16, as the
presets do; with "+tables" after it they are stored as the program likes ("IQ2_XXS+tables"), which compares
with a preset's `embeddings`. What is stored is expanded by the package's own code to float32 and judged in
torch, as the presets are: the table compares weights, not the rounding of activations.

true bits     the stored bits of the blocks' linears over their weights, scales and all
whole model   those of all weights; what a preset does not pack counts 16 bits
MB            the weights' bytes by that count
seconds       of packing; of a peer with the importance matrix
peak          the largest resident memory while packing: of this process, or of llama-quantize, which maps
              its input file
tokens / s    one sequence, greedily, after 64 tokens: presets with their kernels through transformers, and
              (int8) with activations rounded to 8 bits as llama.cpp always does; peers in its runtime

With `--json` finished rows are kept in that file and not measured again as long as protocol, weights and
recipe are the same; `--again` measures them all the same. `--speeds` only times the kept models again, one
after the other in one run. A mistake in what is given ends with one line and exit code 2.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from bivlm.checkpoint.source import SourceModel
from bivlm.cli.progress import Shown
from bivlm.cli.shared import PRESETS_HELP, words
from bivlm.errors import InputError
from bivlm.events import Events
from bivlm.families import load_processor
from bivlm.job.recipe import Recipe
from bivlm.studies.picture import require_matplotlib
from frontier_page import markdown, plot_models, print_models
from frontier_rows import PEERS, ModelBench, check_peers
from kept_rows import Row, is_current, kept_rows, save_rows, weights_digest
from language_model import FULL_PRECISION, Bench, readable_folder
from machine import describe
from preset_tables import positive, recipes_of
from script import run_script
from texts import read_text, token_windows


def key_of(row: Row) -> tuple[str, str]:
    return row["model"], row["preset"]


def protocol_of(options: argparse.Namespace) -> dict[str, Any]:
    """What rows must have in common to stand in one table."""
    second = {} if options.second_text is None else {"second": options.second_text.resolve().name}
    return second | {
        "text": options.text.resolve().name,
        "window": options.window,
        "windows": options.windows,
        "calibration_windows": options.calibration_windows,
    }


def bench_of(model: Path, options: argparse.Namespace, work: Path) -> ModelBench:
    """A model with its windows of tokens."""
    folder = readable_folder(model, work)
    tokenizer = load_processor(folder, reads_images=False)
    calibrate, test = read_text(options.text)

    def windows(text: str, purpose: str, count: int) -> torch.Tensor:
        return token_windows(tokenizer, text, purpose, count, options.window)

    second = None
    if options.second_text is not None:
        second = windows(read_text(options.second_text)[1], "test", options.windows)
    bench = Bench(
        folder,
        windows(calibrate, "calibrate", options.calibration_windows),
        windows(test, "test", options.windows),
        work,
        second,
    )
    return ModelBench(model.absolute().name, weights_digest(SourceModel(folder)), bench, options.threads)


def run(
    bench: ModelBench,
    recipes: Mapping[str, Recipe],
    peers: Sequence[str],
    rows: dict[tuple[str, str], Row],
    keep: Callable[[], None],
    *,
    again: bool,
    events: Events,
) -> None:
    """Measure what is not measured yet of a model, and `keep` after every row."""

    def row(name: str, current: Callable[[Row], bool], measure: Callable[[], Row]) -> None:
        found = rows.get((bench.name, name))
        kept = found is not None and found["weights"] == bench.weights and current(found) and not again
        if not kept:
            rows[bench.name, name] = {"model": bench.name, "weights": bench.weights, **measure()}
            keep()
        say(rows[bench.name, name], "kept" if kept else "measured")

    row(FULL_PRECISION, lambda found: True, bench.full_precision)
    for name, recipe in recipes.items():
        row(
            name,
            lambda found, recipe=recipe: is_current(found, recipe),
            lambda name=name, recipe=recipe: bench.preset(name, recipe, events),
        )
    for name in peers:
        row(name, lambda found: "failed" not in found, lambda name=name: bench.peer(name))


def time_again(bench: ModelBench, rows: Iterable[Row], keep: Callable[[], None]) -> None:
    """Measure the tokens per second of finished rows of a model, all on this machine, one after the other."""
    for row in rows:
        if "failed" not in row:
            row |= bench.speeds(row["preset"]) | {"speed_machine": describe()}
            keep()


def say(row: Row, how: str) -> None:
    """One line of progress."""
    figures = ("bits", "perplexity", "kl", "seconds")
    found = ", ".join(f"{name} {row[name]:.4g}" for name in figures if row.get(name) is not None)
    why = f"failed: {row['failed']}" if "failed" in row else found
    print(f"{row['model']} {row['preset']} ({how}): {why}", file=sys.stderr, flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", type=Path, action="append", required=True, help="folder of a language model; repeatable"
    )
    parser.add_argument("--text", type=Path, required=True, help="folder of text or HTML files")
    parser.add_argument("--second-text", type=Path, help="folder of other text to test with as well")
    parser.add_argument("--presets", action="append", required=True, metavar="A,B,…", help=PRESETS_HELP)
    parser.add_argument(
        "--peers", default=",".join(PEERS), metavar="A,B,…", help="llama.cpp's types; empty for none"
    )
    parser.add_argument("--windows", type=positive, default=16, help="windows to test with")
    parser.add_argument("--window", type=positive, default=512, help="tokens in a window")
    parser.add_argument("--calibration-windows", type=positive, default=24, help="windows to calibrate with")
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument("--work", type=Path, help="keep packed models here; the same command continues")
    parser.add_argument("--json", type=Path, help="keep the rows here; the same command continues")
    parser.add_argument("--again", action="store_true", help="measure even what the file has")
    parser.add_argument(
        "--speeds", action="store_true", help="only time the kept models again, all in one run; needs --work"
    )
    parser.add_argument("--markdown", type=Path, help="write the tables here as well")
    parser.add_argument("--plot", type=Path, help="draw KL against true bits here (png)")
    return parser.parse_args()


def report(options: argparse.Namespace) -> None:
    """Check what is given, measure, print, and write what was asked for."""
    if options.plot:
        require_matplotlib()
    recipes = recipes_of(options.presets)
    if options.speeds and not (options.work and options.json):
        raise InputError("--speeds times the kept models again; name their folder (--work) and rows (--json)")
    peers = [name for name in words(options.peers) if name]
    check_peers(peers)
    if len({model.absolute().name for model in options.model}) < len(options.model):
        raise InputError("two models have folders of the same name, which names their rows; rename one")
    protocol = protocol_of(options)
    rows = kept_rows(options.json, protocol, key_of, later=("second",))
    models: dict[str, list[Row]] = {}
    with ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        events = stack.enter_context(Shown())
        for model in options.model:
            bench = bench_of(model, options, work / model.absolute().name)
            names = [(bench.name, name) for name in (FULL_PRECISION, *recipes, *peers)]

            def keep() -> None:
                save_rows(options.json, protocol, rows)

            if options.speeds:
                time_again(bench, [rows[key] for key in names if key in rows], keep)
            else:
                run(bench, recipes, peers, rows, keep, again=options.again, events=events)
            models[bench.name] = [rows[key] for key in names if key in rows]
    print_models(models)
    if options.markdown:
        options.markdown.write_text(markdown(models, protocol), encoding="utf-8")
    if options.plot:
        plot_models(options.plot, models)


def main() -> None:
    run_script("bench_frontier", parse(), report)


if __name__ == "__main__":
    main()
