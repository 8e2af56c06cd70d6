"""What packing does to a model of embeddings: the small one that `make embedder` trains on rendered scenes,
packed with several draws of calibration scenes and judged by a search on scenes that it never saw.

    python benchmarks/bench_embedding.py [--model build/embedder] [--presets A,B]… [--draws 3] [--samples 32]
        [--captions 192] [--rounds 2] [--json F] [--markdown F]

Protocol. `--rounds` pictures of each of `--captions` captions are judged, the same for all: every picture is
ranked against all captions, and every caption against all pictures; captions differ from others in one thing.
Draw d calibrates on `--samples` other scenes, in turn a picture and a caption. The model is packed as
`bivlm quantize` packs it, all parts, to a folder, which is loaded and judged:

hit@1, hit@5, MRR, nDCG@5   of the captions, by a picture; hit@1 also of the pictures, by a caption
same nearest                the share of a picture's ten nearest captions that are full precision's too
drift                       1 - cosine with full precision's vector, mean over pictures and captions

hit@1 is compared with full precision's on the same pictures: each picture's mean over draws, sign flips,
the pictures of a caption together, Holm's correction for all presets. A preset with `fidelity=embedding` is
compared with the same preset without it.

How unsure a search is (ProbVLM, exact likelihood): an adapter learns from as many other pictures and their
captions, from full precision's vectors and again from those of the packed model. Its uncertainty for the
judged pictures is compared with 1 - hit@1 over ten bins: Spearman's correlation and R².

True bits are of what is packed; the size is of the whole folder. A preset that needs no data has one draw.
With `--json` finished rows are kept, and the same command continues, draw by draw.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bivlm.checkpoint.hub import resolve_model
from bivlm.checkpoint.source import SourceModel
from bivlm.cli.shared import PRESETS_HELP
from bivlm.data.retrieval import RetrievalSet
from bivlm.errors import InputError
from bivlm.eval.embedding.run import EmbeddingResult, judge_vectors
from bivlm.eval.embedding.uncertainty import Adapter, fit_adapter, judge_uncertainty, uncertainties
from bivlm.eval.embedding.vectors import embed
from bivlm.eval.inspection import inspect
from bivlm.job.recipe import Recipe
from bivlm.job.request import Request
from bivlm.job.run import prepare, run
from bivlm.loading import load
from bivlm.types import PARTS, Sample
from bivlm.zoo.scenes import CAPTIONS, Scene, rounds, scenes
from bivlm.zoo.train_embedding import HELD_OUT, captions, pictures, search_set
from embedding_page import COLUMNS, FULL_PRECISION, UNSURE_COLUMNS, markdown, table, unsure_table
from kept_rows import Row, is_current, kept_rows, plain_recipe, save_rows, weights_digest
from machine import describe
from preset_tables import positive, print_table, recipes_of
from script import run_script

PRESETS = (
    "trellis-1,trellis-1.5,trellis-2,bivlm-1,gptq-2,gptq-3,rtn-3",
    "trellis-1:budget=1.06,budget_from=gradients",
    "trellis-1:budget=1.06,budget_from=gradients,fidelity=embedding",
    "trellis-2:budget=2.06,budget_from=gradients",
    "trellis-2:budget=2.06,budget_from=gradients,fidelity=embedding",
)
APART = 10_000  # seeds between what is judged, the adapter's scenes, and each draw
BATCH = 50


@dataclass(frozen=True)
class Vectors:
    """Vectors by one model: of pictures (n, d), round by round, and of their captions, (captions, d)."""

    pictures: Tensor
    captions: Tensor


@dataclass(frozen=True)
class Bench:
    """A model's folder, how many captions are judged in how many rounds of pictures, how many scenes
    calibrate, and a folder for what is packed.
    """

    folder: Path
    captions: int
    rounds: int
    samples: int
    work: Path

    @cached_property
    def scenes(self) -> tuple[list[Scene], list[Scene]]:
        """The scenes that are judged, and those that an adapter learns from."""
        first, second = (rounds(self.captions, self.rounds, HELD_OUT + start) for start in (0, APART))
        return first, second

    @cached_property
    def reference(self) -> tuple[Vectors, Vectors]:
        """Full precision's vectors of both."""
        return self.embedded(self.folder)

    @cached_property
    def reference_adapter(self) -> Adapter:
        return adapter_of(self.reference[1])

    @cached_property
    def searches(self) -> tuple[RetrievalSet, RetrievalSet]:
        """The search by pictures, and that by captions."""
        judged, count = self.scenes[0], self.captions
        shown, told = pictures(judged), captions(judged[:count])
        own = [range(number, len(shown), count) for number in range(count)]
        right = [(number % count,) for number in range(len(shown))]
        return search_set(shown, told, right), search_set(told, shown, own)

    def embedded(self, folder: Path) -> tuple[Vectors, Vectors]:
        model, processor = load(folder, expand=True)
        return tuple(  # pyright: ignore[reportReturnType]
            Vectors(
                embed(model, processor, pictures(some), batch_size=BATCH),
                embed(model, processor, captions(some[: self.captions]), batch_size=BATCH),
            )
            for some in self.scenes
        )

    def judge(self, found: Vectors, others: Vectors, *, packed: bool) -> Row:
        """The numbers of a model's vectors of the judged scenes, and of the adapter's (`others`)."""
        if not all(
            one.isfinite().all() for both in (found, others) for one in (both.pictures, both.captions)
        ):
            return {"failed": "the packed model's output is not finite"}
        reference, _ = self.reference
        first, second = (
            judge_vectors(torch.cat(own), data, torch.cat(theirs))
            for data, own, theirs in (
                (
                    self.searches[0],
                    (found.pictures, found.captions),
                    (reference.pictures, reference.captions),
                ),
                (
                    self.searches[1],
                    (found.captions, found.pictures),
                    (reference.captions, reference.pictures),
                ),
            )
        )
        row = numbers_of(first, second)
        unsure = {"own": adapter_of(others)} if packed else {}
        unsure = {"full": self.reference_adapter, **unsure}
        ranks = ranks_of(first)
        for name, adapter in unsure.items():
            judged = judge_uncertainty(uncertainties(adapter, found.pictures), ranks)
            row |= {f"spearman_{name}": judged.correlation, f"r2_{name}": judged.r2}
        return row

    def full_precision(self) -> Row:
        size = SourceModel(self.folder).file_bytes
        row = {"preset": FULL_PRECISION, "captions": self.captions, "bytes": size, "machine": describe()}
        return row | self.judge(*self.reference, packed=False)

    def calibration(self, draw: int) -> list[Sample]:
        """The scenes of a draw: in turn a picture and a caption."""
        drawn = scenes(self.samples, HELD_OUT + (2 + draw) * APART)
        return [(pictures if number % 2 == 0 else captions)([one])[0] for number, one in enumerate(drawn)]

    def measure(self, name: str, recipe: Recipe, draw: int) -> Row:
        """Pack with one draw, load the folder, and judge it; `failed` says why where that is impossible."""
        row: Row = {"preset": name, "draw": draw, **plain_recipe(recipe), "machine": describe()}
        try:
            prepared, out = prepare(self.folder, Request(recipe, PARTS)), self.work / "packed"
            drawn = self.calibration(draw) if recipe.needs_data else ()
            run(prepared, out, drawn, overwrite=True)
            inspection = inspect(out)
            row |= {"bits": inspection.total.bits_per_weight, "bytes": inspection.folder_bytes_after}
            return row | self.judge(*self.embedded(out), packed=True)
        except InputError as error:
            return row | {"failed": str(error)}


def adapter_of(pairs: Vectors) -> Adapter:
    """The adapter that learns where a picture's caption lies."""
    rounds_of_them = len(pairs.pictures) // len(pairs.captions)
    return fit_adapter(pairs.pictures, pairs.captions.repeat(rounds_of_them, 1))[0]


def ranks_of(result: EmbeddingResult) -> tuple[int, ...]:
    assert result.retrieval is not None
    return result.retrieval.first_ranks


def numbers_of(by_picture: EmbeddingResult, by_caption: EmbeddingResult) -> Row:
    """What a row keeps of both searches; the ranks as one text, so that the file stays readable."""
    found, closeness = by_picture.retrieval, by_picture.closeness
    assert found is not None
    assert closeness is not None
    assert by_caption.retrieval is not None
    return {
        "hit1": found.hits[1],
        "interval": list(found.hit_intervals[1]),
        "hit5": found.hits[5],
        "mrr": found.mrr,
        "ndcg": found.ndcg,
        "hit1_by_caption": by_caption.retrieval.hits[1],
        "agreement": closeness.agreement,
        "drift": closeness.drift,
        "ranks": " ".join(map(str, found.first_ranks)),
    }


def key_of(row: Row) -> tuple[str, int]:
    return row["preset"], row.get("draw", -1)


def planned(recipes: Mapping[str, Recipe], draws: int) -> Iterator[tuple[str, Recipe, int]]:
    """Every preset with every draw, draw by draw; one for a preset that does not look at data."""
    for draw in range(draws):
        for name, recipe in recipes.items():
            if draw == 0 or recipe.needs_data:
                yield name, recipe, draw


def measured(bench: Bench, options: argparse.Namespace, protocol: Mapping[str, Any]) -> list[Row]:
    """The full-precision row and all others, in the order of the presets; finished ones are kept in the
    file.
    """
    rows = kept_rows(options.json, protocol, key_of)
    full, recipes = (FULL_PRECISION, -1), recipes_of(options.presets or list(PRESETS))
    if full not in rows:
        rows = {full: bench.full_precision(), **rows}
        save_rows(options.json, protocol, rows)
    plan = list(planned(recipes, options.draws))
    for name, recipe, draw in plan:
        if not is_current(rows.get((name, draw)), recipe):
            row = rows[name, draw] = bench.measure(name, recipe, draw)
            save_rows(options.json, protocol, rows)
            print(f"{name}, draw {draw}: {row.get('hit1', row.get('failed'))}", file=sys.stderr, flush=True)
    order = list(recipes)
    chosen = sorted({(name, draw) for name, _, draw in plan}, key=lambda key: (order.index(key[0]), key[1]))
    return [rows[full], *(rows[key] for key in chosen)]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="build/embedder", help="what `make embedder` trained")
    parser.add_argument("--presets", action="append", metavar="A,B,…", help=PRESETS_HELP)
    parser.add_argument("--draws", type=positive, default=3, help="draws of calibration scenes")
    parser.add_argument("--samples", type=positive, default=32, help="calibration scenes in a draw")
    parser.add_argument("--captions", type=positive, default=CAPTIONS, help="captions that are judged")
    parser.add_argument("--rounds", type=positive, default=2, help="pictures of each of them")
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--json", type=Path, help="keep the rows here; the same command continues")
    parser.add_argument("--markdown", type=Path, help="write the tables here as well")
    return parser.parse_args()


def report(options: argparse.Namespace) -> None:
    """Measure, print, and write what was asked for."""
    if options.captions > CAPTIONS:
        raise InputError(f"there are {CAPTIONS} captions, and {options.captions} are asked for; give fewer")
    folder = resolve_model(options.model)
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(folder, options.captions, options.rounds, options.samples, Path(work))
        protocol = {
            "weights": weights_digest(SourceModel(folder)),
            "captions": options.captions,
            "rounds": options.rounds,
            "samples": options.samples,
        }
        rows = measured(bench, options, protocol)
    print_table("embeddings", COLUMNS, table(rows), rows[-1]["machine"])
    print_table("uncertainty", UNSURE_COLUMNS, unsure_table(rows), "")
    if options.markdown:
        options.markdown.write_text(markdown(rows, protocol, sys.argv[1:]), encoding="utf-8")


def main() -> None:
    run_script("bench_embedding", parse(), report)


if __name__ == "__main__":
    main()
