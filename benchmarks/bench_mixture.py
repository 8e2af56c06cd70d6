"""A mixture of experts at 1 to 3 bits: quality with and without bits of its own for every expert, with more
experts calibrated on every token, and what quantizing does to the routing.

    make easy-llava-experts
    python benchmarks/bench_mixture.py --work /some/disk

Writes docs/results/mixture.md and .json. For every number of bits the rows are one comparison
(`bivlm compare`): three draws of the calibration questions, the same test questions, paired tests against the
first row. The packed models stay in --work, and their routing is then compared with that of the
full-precision model (routing.py), on the questions with the full-precision model's answers.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from bivlm.checkpoint.durable import write_text
from bivlm.cli.progress import Shown
from bivlm.cli.shared import quiet_libraries
from bivlm.data.samples import read_samples
from bivlm.errors import InputError
from bivlm.eval.fidelity import ReferenceAnswers, collect_reference
from bivlm.eval.inspection import inspect
from bivlm.job.recipe import load_recipe
from bivlm.job.request import make_request
from bivlm.job.run import prepare
from bivlm.loading import load
from bivlm.studies.compare.folder import ComparisonFolder, run_name
from bivlm.studies.compare.result import FULL_PRECISION, Comparison
from bivlm.studies.compare.run import compare_presets
from bivlm.studies.study import RunSettings
from bivlm.types import PartName, Sample
from machine import describe
from mixture_page import page
from preset_tables import command_of
from routing import Asked, Routing, drift, expert_layers, means, profile, shuffled

RESULTS = Path(__file__).parent.parent / "docs" / "results"
MODEL = Path(__file__).parent.parent / "build" / "easy-llava-experts"
PARTS: tuple[PartName, ...] = ("language",)
CALIBRATION_SAMPLES, BATCH, ANSWER = 32, 50, 4
PEERS = {"1": "gptq-1", "1.5": "gptq-1.6", "2": "gptq-2", "3": "gptq-3"}


@dataclass(frozen=True)
class Bench:
    """The model's folder, the test questions, the draws of calibration questions, and a folder for runs."""

    model: Path
    samples: Sequence[Sample]
    draws: Sequence[Sequence[Sample]]
    work: Path

    @cached_property
    def wide(self) -> int:
        """Experts that see each calibration token where that is widened: four times those of a router."""
        model, _ = self.full
        return 4 * model.config.text_config.num_experts_per_tok

    @cached_property
    def full(self) -> tuple[Any, Any]:
        return load(self.model)

    @cached_property
    def reference(self) -> ReferenceAnswers:
        return collect_reference(*self.full, self.samples, batch_size=BATCH, max_new_tokens=ANSWER)

    def presets(self, bits: str) -> tuple[str, ...]:
        """The rows of one comparison; the first is what the others are compared with. The budgets are the
        bits that it takes.
        """
        preset = f"trellis-{bits}"
        taken = prepare(self.model, make_request(preset, parts=PARTS)).expected.bits
        budget = math.floor(100 * taken) / 100
        return (
            preset,
            f"{preset}:budget={budget:g}",
            f"{preset}:budget={budget:g},budget_from=gradients",
            f"{preset}:calibration_top_k={self.wide}",
            PEERS[bits],
        )

    def compared(self, bits: str) -> Comparison:
        """One comparison; its packed models stay in the folder."""
        with Shown() as events:
            return compare_presets(
                self.model,
                [load_recipe(preset) for preset in self.presets(bits)],
                self.work,
                samples=self.samples,
                calibration=self.draws[0],
                further_draws=self.draws[1:],
                parts=PARTS,
                in_order=True,
                keep_models=True,
                settings=RunSettings(batch_size=BATCH, max_new_tokens=ANSWER, events=events),
            )

    def folder(self, preset: str, draw: int) -> Path:
        return ComparisonFolder(self.work).model(run_name(load_recipe(preset).name, PARTS, draw))

    def asked(self, model: Any, processor: Any) -> Asked:
        return Asked(model, processor, self.samples, self.reference)

    @cached_property
    def own(self) -> Routing:
        """The full-precision model's routing."""
        seen = Routing()
        self.asked(*self.full).divergences(seen)
        return seen

    def unpacked(self) -> dict[str, Any]:
        """What the full-precision model's routing is like, and what other experts would cost it."""
        renamed = shuffled(self.own, self.experts)
        found = means(self.asked(*self.full).divergences(given=renamed))
        return {"layers": [asdict(profile(self.own, path, self.experts)) for path in self.layers],
                "kl_renamed": found[0]}  # fmt: skip

    @cached_property
    def layers(self) -> list[str]:
        return list(expert_layers(self.full[0]))

    @cached_property
    def experts(self) -> int:
        return expert_layers(self.full[0])[self.layers[0]].num_experts  # pyright: ignore

    def routing(self, preset: str, draw: int) -> dict[str, Any]:
        """Of a packed model: the drift of every layer, and the divergences with its own routing, with that of
        full precision, and of the full-precision model with this one's.
        """
        asked, seen = self.asked(*load(self.folder(preset, draw), expand=True)), Routing()
        free, held = asked.divergences(seen), asked.divergences(given=self.own)
        moved = self.asked(*self.full).divergences(given=seen)
        layers = {
            which: [asdict(drift(self.own, seen, path, self.experts, which)) for path in self.layers]
            for which in ("all", "visual", "text")
        }
        names = ("kl", "kl_geometric")
        told = {"free": free, "held": held, "moved": moved}
        return {"preset": preset, "draw": draw, "drift": layers} | {
            name: dict(zip(names, means(values), strict=True)) for name, values in told.items()
        }

    def allotted(self, preset: str, draw: int) -> list[dict[str, Any]]:
        """For every layer the bits of its experts, fewest and most, with the calibration tokens."""
        return [asdict(row) for row in inspect(self.folder(preset, draw)).experts]


def main(
    work: Annotated[Path, typer.Option(help="folder for the packed models and runs, to continue in")],
    model: Annotated[Path, typer.Option(help="the trained model")] = MODEL,
    questions: Annotated[int, typer.Option(help="test questions")] = 400,
    draws: Annotated[int, typer.Option(help="draws of calibration questions")] = 3,
    bits: Annotated[str, typer.Option(help="the comparisons")] = "1,1.5,2,3",
    out: Annotated[Path, typer.Option(help="folder for the results")] = RESULTS,
) -> None:
    """Compare, look at the routing, and write the page."""
    quiet_libraries()
    if not (model / "config.json").exists():
        raise InputError(f"there is no model in {model}; make it with `make easy-llava-experts`")
    torch.manual_seed(0)
    drawn = [
        read_samples("easy-vqa", split="train", limit=CALIBRATION_SAMPLES, seed=seed) for seed in range(draws)
    ]
    bench = Bench(model, read_samples("easy-vqa", split="test", limit=questions), drawn, work)
    chosen, found = bits.split(","), {}
    for one in chosen:
        found[one] = bench.compared(one)
    routing = [
        bench.routing(row.preset, draw)
        for one in chosen
        for row in found[one].rows
        if row.preset != FULL_PRECISION and not row.failure
        for draw in range(1, draws + 1)
    ]
    content = {
        "comparisons": {one: comparison.to_dict() for one, comparison in found.items()},
        "full_precision": bench.unpacked(),
        "routing": routing,
        "experts": {one: bench.allotted(bench.presets(one)[2], 1) for one in chosen},
        "machine": describe(),
    }
    write_text(out / "mixture.json", json.dumps(content, indent=1) + "\n")
    command = command_of("bench_mixture.py", sys.argv[1:])
    write_text(out / "mixture.md", page(found, content, command))


if __name__ == "__main__":
    typer.run(main)
