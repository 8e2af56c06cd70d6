"""What it costs to calibrate on the built-in set in place of one's own data: on a vision-language model, or
on a language model.

    python benchmarks/bench_general_set.py --model FOLDER [--data easy-vqa] [--own 32] [--general 32,64,128]
        [--spelled 32] [--presets trellis-1,trellis-1.5,trellis-2] [--draws 3] [--questions 200] [--json F]
        [--markdown F]
    python benchmarks/bench_general_set.py --model FOLDER --text FOLDER [--second-text FOLDER]
        [--general 64,128] [--presets trellis-2] [--draws 1] [--json F] [--markdown F]

Protocol. Every preset packs all parts of the model several times, calibrated on

own       `--own` questions of the split train of `--data`; or the first 24 windows of 512 tokens of `--text`
general   so many samples of the built-in set, of which what the model's tokenizer only spells comes last
spelled   `--spelled` samples of it, drawn without a look at the tokenizer
none      nothing: each weight is rounded alone (`feedback=false`)

with the draws 0, 1, … of `--draws`; `--general 128:1` says that these samples are drawn once. A packed
vision-language model is judged as bench_draws.py does, on `--questions` questions of the split test; a packed
language model as bench_language.py does, by its perplexity and its divergence from the full-precision model
(nats per token), on 16 windows of other pages, and of a second text of another kind, on which neither is
calibrated.

The ratio is that of the mean over draws (of the geometric mean KL over questions; of the mean KL over tokens)
to that of the same preset with own data.

With `--json` finished rows are kept in that file and not measured again as long as the protocol, the recipe
and the set are the same. A mistake in what is given ends with one line and exit code 2.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from bench_draws import Draws, protocol_of
from bivlm.calibration.inputs import CalibrationInput
from bivlm.checkpoint.hub import resolve_model
from bivlm.checkpoint.source import SourceModel
from bivlm.cli.progress import Shown
from bivlm.cli.shared import PRESETS_HELP
from bivlm.data.general_set import KNOWN, general_folder, general_samples
from bivlm.data.samples import read_samples
from bivlm.errors import InputError
from bivlm.eval.inspection import inspect
from bivlm.events import Events
from bivlm.families import load_processor
from bivlm.job.recipe import Recipe
from bivlm.job.request import Request
from bivlm.job.run import prepare, run
from bivlm.loading import load
from bivlm.types import PARTS, Sample
from kept_rows import Row, digest, is_current, kept_rows, plain_recipe, save_rows, weights_digest
from language_judge import exponential, perplexity, text_loss
from language_model import calibration_windows
from machine import describe
from preset_tables import command_of, markdown_table, number, positive, print_table, recipes_of
from script import run_script
from texts import read_text, token_windows

OWN, GENERAL, SPELLED, NONE = "own", "general", "spelled", "none"
WINDOW, CALIBRATING, TESTING = 512, 24, 16  # tokens; windows
FULL_PRECISION = "full precision"
Drawn = Sequence[Sample | CalibrationInput]


@dataclass(frozen=True)
class Questions:
    """A vision-language model, judged on questions."""

    draws: Draws
    own_samples: int

    columns = (" KL, geometric mean", " ratio", " KL, mean", " accuracy", " agreement")
    measure = "kl_geometric"

    @property
    def folder(self) -> Path:
        return self.draws.folder

    def protocol(self) -> dict[str, Any]:
        return protocol_of(self.draws)

    def own(self, draw: int) -> Drawn:
        return read_samples(self.draws.data, split="train", limit=self.own_samples, seed=draw)

    def full_precision(self) -> Row:
        return self.draws.full_precision()

    def judge(self, out: Path) -> Row:
        return self.draws.judge(out)

    def cells(self, rows: Sequence[Row], ratio: float | None) -> list[str]:
        kl, mean, accuracy, agreement = (
            mean_of(rows, what) for what in ("kl_geometric", "kl", "accuracy", "agreement")
        )
        shown = [scientific(kl), number(ratio, 2), scientific(mean)]
        return [*shown, number(accuracy, 4), number(agreement, 4)]


@dataclass(frozen=True)
class Texts:
    """A language model, judged on windows (n, t) of text, and of a second one where there is one."""

    folder: Path
    calibrating: Tensor
    testing: Tensor
    second: Tensor | None

    columns = (" perplexity", " KL", " ratio", " second perplexity", " second KL", " second ratio")
    measure = "kl"

    def protocol(self) -> dict[str, Any]:
        windows = [self.calibrating, self.testing, *([] if self.second is None else [self.second])]
        weights = weights_digest(SourceModel(self.folder))
        return {"model": self.folder.resolve().name, "weights": weights, "tokens": digest(windows)}

    def own(self, draw: int) -> Drawn:
        return calibration_windows(self.calibrating)

    def full_precision(self) -> Row:
        model, _ = load(self.folder)
        second = {} if self.second is None else {"second_perplexity": perplexity(model, self.second)}
        found = {"perplexity": perplexity(model, self.testing), **second}
        return {"preset": FULL_PRECISION, "machine": describe(), **found}

    def judge(self, out: Path) -> Row:
        model, original = load(out, expand=True)[0], load(self.folder)[0]
        loss, fidelity = text_loss(model, self.testing, original)
        found = {"perplexity": exponential(loss), "kl": fidelity.kl}
        if self.second is not None:
            loss, fidelity = text_loss(model, self.second, original)
            found |= {"second_perplexity": exponential(loss), "second_kl": fidelity.kl}
        return found

    def cells(self, rows: Sequence[Row], ratio: float | None) -> list[str]:
        names = ("perplexity", "kl", "second_perplexity", "second_kl")
        one, kl, two, second = (mean_of(rows, what) for what in names)
        return [number(one, 1), number(kl, 3), number(ratio, 2), number(two, 1), number(second, 3), ""]


@dataclass(frozen=True)
class Bench:
    """A model with its judge, and a folder for what is packed."""

    judged: Questions | Texts
    work: Path

    @cached_property
    def tokens(self) -> Callable[[str], int]:
        """Counts the tokens of a text."""
        processor = load_processor(self.judged.folder, self.reads_images)
        tokenizer = getattr(processor, "tokenizer", processor)
        return lambda text: len(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    @property
    def reads_images(self) -> bool:
        return isinstance(self.judged, Questions)

    @cached_property
    def set(self) -> str:
        return set_digest(self.reads_images)

    def drawn(self, source: str, samples: int, draw: int) -> Drawn:
        """The calibration samples of a source."""
        if source == OWN:
            return self.judged.own(draw)
        if source == NONE:
            return ()
        tokens = self.tokens if source == GENERAL else None
        return general_samples(samples, draw, images=self.reads_images, tokens=tokens)

    def measure(self, source: str, samples: int, draw: int, name: str, recipe: Recipe, events: Events) -> Row:
        """Pack, and judge; `failed` says why where that is impossible. Gradients are measured once for all
        presets.
        """
        row = {"preset": name, "source": source, "samples": samples, "draw": draw, **plain_recipe(recipe)}
        row |= {"machine": describe()} | ({"set": self.set} if source in (GENERAL, SPELLED) else {})
        try:
            prepared = prepare(
                self.judged.folder, Request(recipe, PARTS, measurements=self.work / "measurements")
            )
            out, started = self.work / "packed", time.perf_counter()
            run(prepared, out, self.drawn(source, samples, draw), overwrite=True, events=events)
            row |= {"seconds": time.perf_counter() - started, "bits": inspect(out).total.bits_per_weight}
            return row | self.judged.judge(out)
        except InputError as error:
            return row | {"failed": str(error)}


def set_digest(images: bool) -> str:
    """One text for the content of the built-in set: what has images, or what has none."""
    folder, whole = general_folder(), hashlib.sha256()
    for line in (folder / "samples.jsonl").read_bytes().splitlines():
        names = json.loads(line)["images"]
        if bool(names) == images:
            whole.update(line + b"".join((folder / name).read_bytes() for name in names))
    return whole.hexdigest()[:16]


def sources_of(options: argparse.Namespace) -> list[tuple[str, int, int]]:
    """What is calibrated on, with the number of samples and of draws."""

    def listed(source: str, text: str) -> list[tuple[str, int, int]]:
        parts = [part.partition(":") for part in text.split(",") if part]
        return [(source, int(samples), int(draws or options.draws)) for samples, _, draws in parts]

    own = CALIBRATING if options.text else options.own
    general, spelled = listed(GENERAL, options.general), listed(SPELLED, options.spelled)
    return [(OWN, own, options.draws), *general, *spelled, (NONE, 0, 1)]


def measured(
    bench: Bench, recipes: Mapping[str, Recipe], options: argparse.Namespace, events: Events
) -> list[Row]:
    """Measure what is not measured yet, saving after every row: the full-precision row, then the others."""
    protocol = bench.judged.protocol()

    def key(row: Row) -> tuple[Any, ...]:
        return tuple(row.get(what) for what in ("preset", "source", "samples", "draw"))

    rows = kept_rows(options.json, protocol, key)
    full = (FULL_PRECISION, None, None, None)
    if full not in rows:
        rows = {full: bench.judged.full_precision(), **rows}
        save_rows(options.json, protocol, rows)
    chosen = [full]
    for source, samples, draws in sources_of(options):
        for draw in range(draws):
            for name, given in recipes.items():
                recipe = given.with_settings({"feedback": False}) if source == NONE else given
                one = name, source, samples, draw
                kept = rows.get(one)
                if not is_current(kept, recipe) or (kept or {}).get("set", bench.set) != bench.set:
                    rows[one] = bench.measure(source, samples, draw, name, recipe, events)
                    save_rows(options.json, protocol, rows)
                say(rows[one], bench.judged.measure)
                chosen.append(one)
    return [rows[one] for one in chosen]


def say(row: Row, measure: str) -> None:
    """One line of progress."""
    found = f"failed: {row['failed']}" if "failed" in row else f"{measure} {row[measure]:.3g}"
    print(f"{row['preset']}, {row['source']} {row['samples']}, draw {row['draw']}: {found}", file=sys.stderr)


def mean_of(rows: Sequence[Row], what: str) -> float | None:
    values = [row[what] for row in rows if what in row]
    return statistics.fmean(values) if values else None


def scientific(value: float | None) -> str:
    return "–" if value is None else f"{value:.2e}"


def table(judged: Questions | Texts, rows: Sequence[Row]) -> list[list[str]]:
    """The cells: full precision, then a line for each preset and source, the mean over its draws."""
    cells = [[FULL_PRECISION, "", "", "", "", *judged.cells(rows[:1], None)]]
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows[1:]:
        groups.setdefault((row["preset"], row["source"], row["samples"]), []).append(row)
    for name in dict.fromkeys(row["preset"] for row in rows[1:]):
        mine = {key: group for key, group in groups.items() if key[0] == name}
        own = next(group for key, group in mine.items() if key[1] == OWN)
        for (_, source, samples), group in mine.items():
            shown = judged.cells(group, ratio_of(group, own, judged.measure))
            if shown[-1] == "":
                shown[-1] = number(ratio_of(group, own, "second_kl"), 2)
            head = [name if source == OWN else "", number(mean_of(group, "bits"), 3)]
            cells.append([*head, source, str(samples), str(len(group)), *shown])
    return cells


def ratio_of(group: Sequence[Row], own: Sequence[Row], what: str) -> float | None:
    mine, theirs = mean_of(group, what), mean_of(own, what)
    return None if mine is None or theirs is None else mine / theirs


def columns_of(judged: Questions | Texts) -> tuple[str, ...]:
    return ("preset", " true bits", "calibrated on", " samples", " draws", *judged.columns)


def known_words(bench: Bench) -> str:
    """Which questions of the built-in set have words that the model's tokenizer knows."""
    found, asked = Counter[str](), general_samples(1 << 20, images=bench.reads_images)
    for sample in asked:
        text = f"{sample.question}\n{sample.answers[0]}"
        if bench.tokens(text) <= KNOWN * len(text.encode()):
            first = next(iter(sample.images), None)
            found[first.stem.rpartition("-")[0] if isinstance(first, Path) else "texts"] += 1
    kinds = ", ".join(f"{name} {count}" for name, count in found.most_common())
    return f"The tokenizer knows the words of {found.total()} of the set's {len(asked)} questions: {kinds}."


def markdown(bench: Bench, rows: Sequence[Row], title: str) -> str:
    judged = bench.judged
    failed = [f"- {row['preset']}, {row['source']}: {row['failed']}" for row in rows if "failed" in row]
    kind = "questions" if bench.reads_images else "windows of text"
    lines = [
        f"# Calibrated on the built-in set: {title}",
        "",
        f"Own: {kind} of the data that the model is judged on, from the part for training. General: the",
        "built-in set, of which what the model's tokenizer only spells comes last. Spelled: the same without",
        (
            "a look at the tokenizer. None: each weight is rounded alone. Ratio: the KL divergence (nats)"
            " against"
        ),
        "that with own data, both as means over draws.",
        "",
        known_words(bench),
        "",
        *markdown_table(columns_of(judged), table(judged, rows)),
        "",
        *([*failed, ""] if failed else []),
        f"Machine: {rows[-1]['machine']}. Command:",
        "",
        f"    {command_of('bench_general_set.py', sys.argv[1:])}",
        "",
    ]
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="Hugging Face model folder")
    parser.add_argument("--data", default="easy-vqa", help="own data: calibrates with train, asks test")
    parser.add_argument("--own", type=positive, default=32, help="own calibration questions")
    parser.add_argument("--text", type=Path, help="folder of text: the model is a language model")
    parser.add_argument("--second-text", type=Path, help="folder of other text to test with as well")
    parser.add_argument(
        "--general", default="32,64,128", help="samples of the built-in set; 64:1 for one draw"
    )
    parser.add_argument("--spelled", default="", help="samples drawn without a look at the tokenizer")
    parser.add_argument("--presets", action="append", metavar="A,B,…", help=PRESETS_HELP)
    parser.add_argument("--draws", type=positive, default=3)
    parser.add_argument("--questions", type=positive, default=200)
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument("--json", type=Path, help="keep the rows here; the same command continues")
    parser.add_argument("--markdown", type=Path, help="write the table here as well")
    return parser.parse_args()


def judged_of(options: argparse.Namespace, work: Path) -> Questions | Texts:
    """The model with what it is judged on."""
    folder = resolve_model(options.model)
    if options.text is None:
        asked = read_samples(
            options.data, split="test", limit=options.questions, seed=0, answers_required=True
        )
        return Questions(Draws(folder, asked, options.data, options.own, PARTS, work), options.own)
    tokenizer = load_processor(folder, reads_images=False)
    calibrating, testing = read_text(options.text)
    second = None
    if options.second_text is not None:
        other = read_text(options.second_text)[1]
        second = token_windows(tokenizer, other, "test", TESTING, WINDOW)
    return Texts(
        folder,
        token_windows(tokenizer, calibrating, "calibrate", CALIBRATING, WINDOW),
        token_windows(tokenizer, testing, "test", TESTING, WINDOW),
        second,
    )


def report(options: argparse.Namespace) -> None:
    """Check what is given, measure, print, and write what was asked for."""
    recipes = recipes_of(options.presets or ["trellis-1,trellis-1.5,trellis-2"])
    with tempfile.TemporaryDirectory() as work, Shown() as events:
        bench = Bench(judged_of(options, Path(work)), Path(work))
        rows = measured(bench, recipes, options, events)
        protocol = bench.judged.protocol()
    judged = bench.judged
    print_table(protocol["model"], columns_of(judged), table(judged, rows), rows[-1]["machine"])
    if options.markdown:
        options.markdown.write_text(markdown(bench, rows, protocol["model"]), encoding="utf-8")


def main() -> None:
    run_script("bench_general_set", parse(), report)


if __name__ == "__main__":
    main()
