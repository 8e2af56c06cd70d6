"""What luck does to a preset: the same model is packed with several draws of the calibration questions, and
with several seeds of the rotation, and every packed model is judged on the same questions.

    python benchmarks/bench_draws.py --model FOLDER --presets A,B [--draws 5] [--samples 48]
        [--rotation-seeds 1] [--data easy-vqa] [--questions 400] [--parts vision,projector,language]
        [--json F] [--markdown F]

Protocol. Draw d calibrates on `--samples` questions of the split train, drawn with seed d. With more than one
of `--rotation-seeds`, every draw is packed with each of the seeds 0, 1, …, which only methods with a setting
`seed` have. `--questions` questions of the split test, drawn with `--seed`, are asked. The model is packed as
`bivlm quantize` packs it, to a folder; that folder is loaded and judged:

accuracy     the mean score of the model's own answers
agreement    the share of questions to which its own greedy answer is the full-precision model's, word by word
KL           the divergence from the full-precision model on that model's answer tokens, the end included, in
             nats: first the mean over the tokens of an answer, then over questions the mean, the median and
             the geometric mean (of what is at least 1e-9)

The table has a line for each preset and measure: the mean over all draws with its standard error, the worst,
the best, and the spread between the two. At about one bit a few questions make most of a mean KL; its median
and geometric mean tell settings apart sooner.

With `--json` finished draws are kept in that file and not run again as long as protocol and recipe are the
same; `--again` runs them all the same, which is needed after a change of the quantizer itself. A mistake in
what is given ends with one line and exit code 2.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bivlm.checkpoint.hub import resolve_model
from bivlm.checkpoint.source import SourceModel
from bivlm.cli.progress import Shown
from bivlm.cli.shared import PRESETS_HELP, words
from bivlm.data.samples import read_samples
from bivlm.errors import InputError
from bivlm.eval.answer import Answers, inference, prepare
from bivlm.eval.fidelity import ReferenceAnswers, answer_logits, collect_reference
from bivlm.eval.inspection import inspect
from bivlm.eval.run import EvalResult, evaluate
from bivlm.events import SILENT, Events
from bivlm.families import family_of
from bivlm.job.recipe import Recipe
from bivlm.job.request import Request
from bivlm.job.run import calibration_samples
from bivlm.job.run import prepare as prepare_job
from bivlm.job.run import run as run_job
from bivlm.kl import kl_divergence
from bivlm.loading import load
from bivlm.studies.compare.checks import check_samples, checked_parts
from bivlm.studies.folder import digests, joined
from bivlm.types import PARTS, PartName, Sample
from kept_rows import Row, is_current, kept_rows, plain_recipe, save_rows, weights_digest
from machine import describe
from preset_tables import command_of, markdown_table, number, positive, print_table, recipes_of
from script import run_script

FULL_PRECISION = "full precision"
SMALLEST = 1e-9  # nats; less counts as this in the geometric mean
BATCH, NEW_TOKENS = 32, 16
COLUMNS = (
    "preset",
    " true bits",
    " draws",
    "measure",
    " mean",
    " std. error",
    " worst",
    " best",
    " spread",
)


@dataclass(frozen=True)
class Measure:
    """A line of the table: a row's field, how it is printed, and whether more is better."""

    field: str
    name: str
    form: str
    more: bool


MEASURES = (
    Measure("accuracy", "accuracy", ".4f", more=True),
    Measure("agreement", "agreement", ".4f", more=True),
    Measure("kl", "KL, mean", ".2e", more=False),
    Measure("kl_median", "KL, median", ".2e", more=False),
    Measure("kl_geometric", "KL, geometric mean", ".2e", more=False),
)


@dataclass(frozen=True)
class Draws:
    """A model's folder, the questions that are asked, where calibration questions come from, and a folder for
    what is packed.
    """

    folder: Path
    questions: Sequence[Sample]
    data: str
    samples: int
    parts: tuple[PartName, ...]
    work: Path

    @cached_property
    def reference(self) -> tuple[ReferenceAnswers, EvalResult]:
        """The full-precision model's answers: with their logits, and scored."""
        model, processor = load(self.folder)
        kept = collect_reference(
            model, processor, self.questions, batch_size=BATCH, max_new_tokens=NEW_TOKENS
        )
        return kept, evaluate(model, processor, self.questions, reference=kept, max_new_tokens=NEW_TOKENS)

    def full_precision(self) -> Row:
        _, result = self.reference
        return {"preset": FULL_PRECISION, "accuracy": result.accuracy, "machine": describe()}

    def measure(self, name: str, recipe: Recipe, draw: int, rotation: int, events: Events) -> Row:
        """Pack with one draw, load the folder, and judge it; `failed` says why where that is impossible."""
        row = {"preset": name, "draw": draw, "rotation": rotation, **plain_recipe(recipe)}
        row["machine"] = describe()
        try:
            prepared = prepare_job(self.folder, Request(recipe, self.parts))
            drawn = calibration_samples(prepared, self.data, self.samples, draw)
            out, started = self.work / "packed", time.perf_counter()
            run_job(prepared, out, drawn, overwrite=True, events=events)
            row |= {"seconds": time.perf_counter() - started}
            row |= {"bits": inspect(out).total.bits_per_weight}
            return row | self.judge(out)
        except InputError as error:
            return row | {"failed": str(error)}

    def judge(self, out: Path) -> Row:
        """What a packed folder answers; `failed` where its output is not finite."""
        model, processor = load(out, expand=True)
        kept, full = self.reference
        result = evaluate(model, processor, self.questions, batch_size=BATCH, max_new_tokens=NEW_TOKENS)
        same = [
            mine.answer == theirs.answer for mine, theirs in zip(result.records, full.records, strict=True)
        ]
        divergences = question_divergences(model, processor, self.questions, kept)
        if not all(map(math.isfinite, divergences)):
            return {"failed": "the packed model's output is not finite"}
        return {
            "accuracy": result.accuracy,
            "agreement": sum(same) / len(same),
            "kl": statistics.fmean(divergences),
            "kl_median": statistics.median(divergences),
            "kl_geometric": statistics.geometric_mean(max(one, SMALLEST) for one in divergences),
        }


def question_divergences(
    model: Any, processor: Any, questions: Sequence[Sample], reference: ReferenceAnswers
) -> list[float]:
    """For every question the mean divergence (nats) of its answer tokens, the reference's."""
    family, found, start = family_of(model.config), [], 0
    with inference(model):
        for index, size in enumerate(reference.sizes):
            inputs = prepare(model, processor, family, questions[start : start + size])
            batch, start = reference.batch(index), start + size
            logits = answer_logits(model, family, inputs, Answers(batch.tokens, batch.mask, 0))
            tokens = kl_divergence(batch.logits, logits).double()
            found += [one.mean().item() for one in tokens.split(batch.mask.sum(1).tolist())]
    return found


def protocol_of(draws: Draws) -> dict[str, Any]:
    """What rows must have in common to stand in one table."""
    return {
        "model": draws.folder.resolve().name,
        "weights": weights_digest(SourceModel(draws.folder)),
        "data": Path(draws.data).name,
        "questions": len(draws.questions),
        "asked": joined(digests(draws.questions)),
        "samples": draws.samples,
        "parts": list(draws.parts),
    }


def key_of(row: Row) -> tuple[str, int, int]:
    return row["preset"], row.get("draw", -1), row.get("rotation", 0)


def planned(
    recipes: Mapping[str, Recipe], draws: int, rotations: int
) -> Iterator[tuple[str, Recipe, int, int]]:
    """Every preset with every draw and rotation, one draw for a preset that does not look at data. InputError
    for a method that has no seed.
    """
    for name, recipe in recipes.items():
        for draw in range(draws if recipe.needs_data else 1):
            yield name, recipe, draw, 0
            for rotation in range(1, rotations):
                yield name, recipe.with_settings({"seed": rotation}), draw, rotation


def run(
    draws: Draws,
    recipes: Mapping[str, Recipe],
    options: argparse.Namespace,
    protocol: Mapping[str, Any],
    events: Events = SILENT,
) -> list[Row]:
    """Measure what is not measured yet, saving after every draw: the full-precision row, then the chosen
    ones.
    """
    plan = list(planned(recipes, options.draws, options.rotation_seeds))
    rows = kept_rows(options.json, protocol, key_of)
    full = (FULL_PRECISION, -1, 0)
    if full not in rows:
        rows = {full: draws.full_precision(), **rows}
        save_rows(options.json, protocol, rows)
    for place, (name, recipe, draw, rotation) in enumerate(plan, 1):
        key = name, draw, rotation
        if options.again or not is_current(rows.get(key), recipe):
            rows[key] = draws.measure(name, recipe, draw, rotation, events)
            save_rows(options.json, protocol, rows)
        say(rows[key], f"{place}/{len(plan)} ")
    return [rows[full], *(rows[name, draw, rotation] for name, _, draw, rotation in plan)]


def say(row: Row, before: str) -> None:
    """One line of progress."""
    found = (
        f"failed: {row['failed']}"
        if "failed" in row
        else ", ".join(f"{one.name} {row[one.field]:{one.form}}" for one in MEASURES)
    )
    print(
        f"{before}{row['preset']}, draw {row['draw']}.{row['rotation']}: {found}", file=sys.stderr, flush=True
    )


def table(rows: Sequence[Row]) -> list[list[str]]:
    """The cells of the table: for each preset a line per measure."""
    cells = [[FULL_PRECISION, "", "", "accuracy", number(rows[0]["accuracy"], 4), *[""] * (len(COLUMNS) - 5)]]
    for name in dict.fromkeys(row["preset"] for row in rows[1:]):
        mine = [row for row in rows[1:] if row["preset"] == name and "failed" not in row]
        for measure in MEASURES if mine else ():
            values = [row[measure.field] for row in mine]
            head = (name, number(statistics.fmean(row["bits"] for row in mine), 3), str(len(mine)))
            first = measure is MEASURES[0]
            cells.append([*(head if first else ("", "", "")), measure.name, *summary(values, measure)])
    return cells


def summary(values: Sequence[float], measure: Measure) -> list[str]:
    """Mean, standard error of it (none for one value), worst, best, and best against worst."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    low, high = min(values), max(values)
    worst, best = (low, high) if measure.more else (high, low)
    numbers = (statistics.fmean(values), error, worst, best, high - low)
    return ["–" if one is None else format(one, measure.form) for one in numbers]


def failures(rows: Sequence[Row]) -> list[str]:
    return [
        f"{row['preset']}, draw {row['draw']}.{row['rotation']}: {row['failed']}"
        for row in rows
        if "failed" in row
    ]


def markdown(rows: Sequence[Row], protocol: Mapping[str, Any]) -> str:
    failed = [f"- {line}" for line in failures(rows)]
    lines = [
        f"# The spread over calibration draws: {protocol['model']}",
        "",
        f"Parts packed: {', '.join(protocol['parts'])}. Each draw calibrates on {protocol['samples']} other",
        f"questions of {protocol['data']}; all packed models are judged on the same {protocol['questions']}",
        "questions. Agreement: share of questions with the full-precision model's own answer. KL: nats per",
        "answer token, averaged over each answer, then over questions as named. Spread: best minus worst.",
        "",
        *markdown_table(COLUMNS, table(rows)),
        "",
        *([*failed, ""] if failed else []),
        f"Machine: {rows[-1]['machine']}. Command:",
        "",
        f"    {command_of('bench_draws.py', sys.argv[1:])}",
        "",
    ]
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="Hugging Face folder of a vision-language model")
    parser.add_argument("--presets", action="append", required=True, metavar="A,B,…", help=PRESETS_HELP)
    parser.add_argument("--draws", type=positive, default=5, help="draws of calibration questions")
    parser.add_argument("--samples", type=positive, default=48, help="calibration questions in a draw")
    parser.add_argument("--rotation-seeds", type=positive, default=1, help="rotations for every draw")
    parser.add_argument("--data", default="easy-vqa", help="calibrates with its split train, asks test")
    parser.add_argument("--questions", type=positive, default=400)
    parser.add_argument("--seed", type=int, default=0, help="seed of the questions that are asked")
    parser.add_argument("--parts", default=",".join(PARTS), help="which parts to pack")
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument("--json", type=Path, help="keep the rows here; the same command continues")
    parser.add_argument("--again", action="store_true", help="measure even what the file has")
    parser.add_argument("--markdown", type=Path, help="write the table here as well")
    return parser.parse_args()


def report(options: argparse.Namespace) -> None:
    """Check what is given, measure, print, and write what was asked for."""
    recipes = recipes_of(options.presets)
    questions = read_samples(
        options.data, split="test", limit=options.questions, seed=options.seed, answers_required=True
    )
    some = read_samples(options.data, split="train", limit=1)
    check_samples(questions, some, list(recipes.values()))
    with tempfile.TemporaryDirectory() as work, Shown() as events:
        draws = Draws(
            resolve_model(options.model),
            questions,
            options.data,
            options.samples,
            checked_parts(words(options.parts)),
            Path(work),
        )
        protocol = protocol_of(draws)
        rows = run(draws, recipes, options, protocol, events)
    title = f"{protocol['model']}, draws of {options.samples} calibration questions"
    print_table(title, COLUMNS, table(rows), rows[-1]["machine"])
    for line in failures(rows):
        print(line)
    if options.markdown:
        options.markdown.write_text(markdown(rows, protocol), encoding="utf-8")


def main() -> None:
    run_script("bench_draws", parse(), report)


if __name__ == "__main__":
    main()
