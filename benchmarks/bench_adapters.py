"""What an adapter of a tenth of a bit does for the embedded model at one bit and below, and what the same
bits do as codes.

    python benchmarks/bench_adapters.py --work FOLDER [--json F] [--markdown F]

Protocol. For every seed and preset the embedded model is packed (all parts, 32 calibration questions of
easy-VQA drawn with the seed), an adapter is trained by `bivlm adapt` with its defaults (training questions
drawn with the seed, the full-precision model as teacher, `--budget-bits`), and the model is packed once more
with so many more bits for its codes as the adapter takes, or a little more. All three are measured on the
same questions of the test split: accuracy, and the KL divergence from full precision on its own answers. True
bits count everything that is stored for the packed linears, the adapter included. CPU minutes are processor
time of this process, of trainings that were not interrupted.

With `--json` finished measurements are kept in that file, and the same command goes on; so does an
interrupted training below `--work`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import bivlm
import machine
from bivlm.adapting.run import adapt
from bivlm.adapting.settings import AdaptSettings
from bivlm.checkpoint.durable import write_text
from bivlm.cli.progress import Shown
from bivlm.cli.shared import quiet_libraries
from bivlm.data.samples import read_samples
from bivlm.eval.fidelity import INDEX, ReferenceAnswers, collect_reference
from bivlm.eval.inspection import inspect
from bivlm.eval.run import evaluate
from bivlm.zoo import embedded_model
from preset_tables import command_of, markdown_table, number, positive, print_table

DATA, CALIBRATION, LONGEST = "easy-vqa", 32, 4
CLOSE = 0.01  # true bits in which two models may differ
PRESETS = ("trellis-1", "trellis-1:bits=0.75")
MEASUREMENTS = {"packed": "packed", "adapter": "with an adapter", "codes": "the same bits as codes"}
COLUMNS = ("preset", "what", " seeds", " true bits", " KL", " KL of each seed", " accuracy", " CPU minutes")


class Bench:
    """The measurements on one set of test questions; `rows` are those that are done, by their keys."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.path = options, options.json
        self.rows: dict[str, dict[str, Any]] = {}
        if self.path is not None and self.path.exists():
            self.rows = json.loads(self.path.read_text(encoding="utf-8"))["rows"]
        self.test = read_samples(DATA, split="test", limit=options.questions, seed=0)
        self.reference = self._reference()

    def _reference(self) -> ReferenceAnswers:
        folder = self.options.work / f"reference-{self.options.questions}"
        if (folder / INDEX).exists():
            return ReferenceAnswers.open(folder)
        shutil.rmtree(folder, ignore_errors=True)
        model, processor = bivlm.load(embedded_model(), expand=True)
        return collect_reference(model, processor, self.test, folder, batch_size=32, max_new_tokens=LONGEST)

    def measured(self, folder: Path, adapter: Path | None = None) -> dict[str, Any]:
        """Accuracy and KL of a packed folder."""
        model, processor = bivlm.load(folder, expand=True, adapter=adapter)
        result = evaluate(model, processor, self.test, reference=self.reference, max_new_tokens=LONGEST)
        return {"accuracy": result.accuracy, "kl": result.kl}

    def packed(self, recipe: str, seed: int) -> Path:
        """The embedded model packed, once."""
        out = self.options.work / f"{recipe.replace(':', '-').replace('=', '-')}-seed-{seed}"
        bivlm.quantize(
            embedded_model(),
            out,
            recipe=recipe,
            data=read_samples(DATA, split="train", limit=CALIBRATION, seed=seed),
        )
        return out

    def keep(self, key: str, row: Mapping[str, Any]) -> None:
        """Note a finished measurement, and say it."""
        self.rows[key] = dict(row)
        print(f"{key}: {row}", file=sys.stderr, flush=True)
        if self.path is not None:
            content = {"machine": machine.describe(), "protocol": vars_of(self.options), "rows": self.rows}
            write_text(self.path, json.dumps(content, indent=1) + "\n")
        if self.options.markdown:
            write_text(self.options.markdown, markdown(self.options, table(self.rows, self.options)))

    def run(self, preset: str, seed: int) -> None:
        """The three measurements of one preset and seed, as far as they are not done."""
        keys = {what: f"{preset} seed {seed} {what}" for what in MEASUREMENTS}
        if all(key in self.rows for key in keys.values()):
            return
        base = self.packed(preset, seed)
        if keys["packed"] not in self.rows:
            row = {"bits": inspect(base).total.bits_per_weight, **self.measured(base)}
            self.keep(keys["packed"], row)
        if keys["adapter"] not in self.rows:
            self.keep(keys["adapter"], self.adapted(base, seed))
        if keys["codes"] not in self.rows:
            wider = self.wider(preset, seed, self.rows[keys["adapter"]]["bits"])
            self.keep(keys["codes"], {"bits": inspect(wider).total.bits_per_weight, **self.measured(wider)})

    def wider(self, preset: str, seed: int, bits: float) -> Path:
        """The embedded model packed with at least `bits` true bits, or hardly less: codes have steps."""
        name, _, own = preset.partition(":bits=")
        asked = float(own or 1) + self.options.budget_bits
        while True:
            folder = self.packed(f"{name}:bits={asked:.4g}", seed)
            if inspect(folder).total.bits_per_weight > bits - CLOSE:
                return folder
            asked += CLOSE

    def adapted(self, base: Path, seed: int) -> dict[str, Any]:
        out, started = base.with_name(f"{base.name}-adapter"), time.process_time()
        resumed = out.exists()
        settings = AdaptSettings(budget_bits=self.options.budget_bits, seed=seed)
        with Shown() as events:
            result = adapt(
                base,
                out,
                DATA,
                teacher=embedded_model(),
                settings=settings,
                samples=self.options.samples,
                events=events,
            )
        minutes = None if resumed else (time.process_time() - started) / 60
        row = {"bits": result.bits, "adapter_bits": result.adapter_bits, "minutes": minutes}
        return {**row, "losses": list(result.losses), **self.measured(base, result.folder)}


def vars_of(options: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(options, name) for name in ("questions", "samples", "budget_bits")}


def table(rows: Mapping[str, Mapping[str, Any]], options: argparse.Namespace) -> list[list[str]]:
    """A line for each preset and measurement, over the seeds for which all three are done: the geometric mean
    of the KL, the means of the others.
    """
    lines = []
    for preset in options.presets:
        seeds = [
            seed
            for seed in options.seeds
            if all(f"{preset} seed {seed} {what}" in rows for what in MEASUREMENTS)
        ]
        for what, title in MEASUREMENTS.items() if seeds else ():
            found = [rows[f"{preset} seed {seed} {what}"] for seed in seeds]
            minutes = [row["minutes"] for row in found if row.get("minutes") is not None]
            lines.append(
                [
                    preset,
                    title,
                    str(len(found)),
                    number(statistics.fmean(row["bits"] for row in found), 3),
                    number(statistics.geometric_mean(row["kl"] for row in found), 4),
                    ", ".join(number(row["kl"], 4) for row in found),
                    f"{statistics.fmean(row['accuracy'] for row in found):.1%}",
                    number(statistics.fmean(minutes), 1) if minutes else "",
                ]
            )
    return lines


def markdown(options: argparse.Namespace, lines: Sequence[Sequence[str]]) -> str:
    text = [
        "# Adapters of a tenth of a bit",
        "",
        (
            f"The embedded model, all parts packed; {options.questions} test questions of easy-VQA. An"
            f" adapter was trained on {options.samples} other questions, a quarter of them held out, with the"
            f" full-precision model as teacher and a budget of {options.budget_bits} bits per packed weight."
            " In the third line of each preset the same bits are spent on codes. KL is the geometric mean"
            " over seeds, which draw the calibration and the training questions."
        ),
        "",
        *markdown_table(COLUMNS, lines),
        "",
        f"Machine: {machine.describe()}. Command:",
        "",
        f"    {command_of('bench_adapters.py', sys.argv[1:])}",
        "",
    ]
    return "\n".join(text)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="keep packed models and adapters here")
    parser.add_argument("--presets", nargs="+", default=PRESETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--questions", type=positive, default=400, help="test questions")
    parser.add_argument("--samples", type=positive, default=512, help="training questions")
    parser.add_argument(
        "--budget-bits", type=float, default=0.1, help="bits per packed weight of the adapters"
    )
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--json", type=Path, help="keep the measurements here; the same command continues")
    parser.add_argument("--markdown", type=Path, help="write the table here as well")
    return parser.parse_args()


def main() -> None:
    options = parse()
    quiet_libraries()
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    bench = Bench(options)
    for seed in options.seeds:
        for preset in options.presets:
            bench.run(preset, seed)
    lines = table(bench.rows, options)
    print_table("Adapters of a tenth of a bit", COLUMNS, lines, machine.describe())
    if options.markdown:
        write_text(options.markdown, markdown(options, lines))


if __name__ == "__main__":
    main()
