"""The demo: the embedded model in full precision, packed by the trellis, and by Bi-VLM with 1, 2 and 5 bands:
the language model, and all parts.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bivlm.data.samples import read_samples
from bivlm.eval.fidelity import ReferenceAnswers, collect_reference
from bivlm.eval.inspection import inspect
from bivlm.eval.run import EvalResult, evaluate
from bivlm.events import SILENT, Events
from bivlm.job.run import quantize
from bivlm.loading import load
from bivlm.studies.study import Labelled
from bivlm.types import PARTS, PartName, Sample
from bivlm.zoo import check_embedded_model, embedded_model

CALIBRATION_SAMPLES = 32
BATCH_SIZE, MAX_NEW_TOKENS = 50, 4
LANGUAGE: tuple[PartName, ...] = ("language",)
RUNS: tuple[tuple[str, tuple[PartName, ...]], ...] = tuple(
    (preset, parts)
    for presets in (
        ("trellis-1", "trellis-1.5", "trellis-2"),
        *(tuple(f"{preset}:bands={bands}" for bands in (1, 2, 5)) for preset in ("bivlm-paper", "bivlm")),
    )
    for parts in (LANGUAGE, PARTS)
    for preset in presets
)


@dataclass(frozen=True)
class DemoRow:
    """One model of the demo. Bits are those of the packed linears, bytes those of the whole folder, seconds
    those of packing and of evaluating.
    """

    name: str
    parts: str
    accuracy: float
    interval: tuple[float, float]
    kl: float
    top1_agreement: float
    bits_per_weight: float
    paper_bits: float | None
    folder_bytes: int
    quantize_seconds: float
    eval_seconds: float


def run_demo(out: Path | None, questions: int, events: Events = SILENT) -> list[DemoRow]:
    """Pack, load, answer and measure; `out` keeps the packed folders. `events` hears a line of every finished
    model.
    """
    check_embedded_model()
    samples = read_samples("easy-vqa", split="test", limit=questions)
    calibration = read_samples("easy-vqa", split="train", limit=CALIBRATION_SAMPLES)
    with tempfile.TemporaryDirectory(prefix="bivlm-demo-") as temporary:
        work = _Demo(out or Path(temporary), samples, calibration, events)
        full, reference = work.full_precision()
        return [full, *(work.packed(preset, parts, reference) for preset, parts in RUNS)]


@dataclass(frozen=True)
class _Demo:
    """The demo at work."""

    folder: Path
    samples: Sequence[Sample]
    calibration: Sequence[Sample]
    events: Events

    def full_precision(self) -> tuple[DemoRow, ReferenceAnswers]:
        """The embedded model as it is, and its answers as the reference."""
        source = embedded_model()
        model, processor = load(source)
        started = time.perf_counter()
        events = Labelled(self.events, "full precision")
        reference = collect_reference(
            model,
            processor,
            self.samples,
            batch_size=BATCH_SIZE,
            max_new_tokens=MAX_NEW_TOKENS,
            events=events,
        )
        result = evaluate(
            model, processor, self.samples, max_new_tokens=MAX_NEW_TOKENS, reference=reference, events=events
        )
        row = DemoRow(
            "full precision",
            "",
            result.accuracy,
            result.interval,
            *_fidelity(result),
            bits_per_weight=8.0 * model.dtype.itemsize,
            paper_bits=None,
            folder_bytes=sum(path.stat().st_size for path in source.iterdir() if path.is_file()),
            quantize_seconds=0.0,
            eval_seconds=time.perf_counter() - started,
        )
        self.events.say(row_line(row))
        return row, reference

    def packed(self, preset: str, parts: tuple[PartName, ...], reference: ReferenceAnswers) -> DemoRow:
        """One packed model: made, counted, loaded from its folder, and asked."""
        where = "all" if parts == PARTS else "language"
        target = self.folder / f"{preset.replace(':bands=', '-')}-{where}"
        started = time.perf_counter()
        quantize(embedded_model(), target, recipe=preset, parts=parts, data=self.calibration, overwrite=True)
        seconds = time.perf_counter() - started
        inspection = inspect(target)
        model, processor = load(target, expand=True)
        result = evaluate(
            model,
            processor,
            self.samples,
            max_new_tokens=MAX_NEW_TOKENS,
            reference=reference,
            events=Labelled(self.events, f"{preset} ({where})"),
        )
        row = DemoRow(
            preset,
            where,
            result.accuracy,
            result.interval,
            *_fidelity(result),
            bits_per_weight=inspection.total.bits_per_weight,
            paper_bits=inspection.total.paper_bits,
            folder_bytes=inspection.folder_bytes_after,
            quantize_seconds=seconds,
            eval_seconds=result.seconds,
        )
        self.events.say(row_line(row))
        return row


def _fidelity(result: EvalResult) -> tuple[float, float]:
    """KL divergence and top-1 agreement, which are there with every reference."""
    assert result.kl is not None
    assert result.top1_agreement is not None
    return result.kl, result.top1_agreement


def row_line(row: DemoRow) -> str:
    """A finished model in one line."""
    where = f" ({row.parts})" if row.parts else ""
    return f"{row.name}{where}: {row.bits_per_weight:.2f} bits, accuracy {row.accuracy:.1%}, KL {row.kl:.4f}"
