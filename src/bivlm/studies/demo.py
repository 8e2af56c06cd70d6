"""The demo: the embedded model in full precision, packed by the trellis, and by Bi-VLM with 1, 2 and 5 bands:
the language model, and all parts.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bivlm.data.samples import read_samples
from bivlm.eval.fidelity import collect_reference
from bivlm.eval.inspection import inspect
from bivlm.eval.run import EvalResult, evaluate
from bivlm.job.run import quantize
from bivlm.loading import load
from bivlm.types import PARTS, PartName
from bivlm.zoo import embedded_model

CALIBRATION_SAMPLES = 32
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


def run_demo(out: Path | None, questions: int, say: Callable[[str], None]) -> list[DemoRow]:
    """Pack, load, answer and measure; `out` keeps the packed folders. `say` gets a line per finished
    model.
    """
    with tempfile.TemporaryDirectory(prefix="bivlm-demo-") as temporary:
        folder = out or Path(temporary)
        samples = read_samples("easy-vqa", split="test", limit=questions)
        calibration = read_samples("easy-vqa", split="train", limit=CALIBRATION_SAMPLES)
        source = embedded_model()
        model, processor = load(source)
        started = time.perf_counter()
        reference = collect_reference(model, processor, samples, batch_size=50, max_new_tokens=4)
        full = evaluate(model, processor, samples, batch_size=50, max_new_tokens=4, reference=reference)
        stored = sum(path.stat().st_size for path in source.iterdir() if path.is_file())
        bits = 8.0 * model.dtype.itemsize
        rows = [_row("full precision", (), full, bits, None, stored, 0.0, time.perf_counter() - started)]
        say(_line(rows[-1]))
        for preset, parts in RUNS:
            target = folder / f"{preset.replace(':bands=', '-')}-{'all' if parts == PARTS else 'language'}"
            started = time.perf_counter()
            quantize(source, target, recipe=preset, parts=parts, samples=calibration, overwrite=True)
            packed = time.perf_counter()
            inspection = inspect(target)
            model, processor = load(target, expand=True)
            result = evaluate(model, processor, samples, batch_size=50, max_new_tokens=4, reference=reference)
            bits, paper = inspection.total.bits_per_weight, inspection.total.paper_bits
            rows.append(
                _row(
                    preset,
                    parts,
                    result,
                    bits,
                    paper,
                    inspection.folder_bytes_after,
                    packed - started,
                    result.seconds,
                )
            )
            say(_line(rows[-1]))
    return rows


def _row(
    name: str,
    parts: tuple[PartName, ...],
    result: EvalResult,
    bits: float,
    paper: float | None,
    folder_bytes: int,
    quantize_s: float,
    eval_s: float,
) -> DemoRow:
    assert result.kl is not None and result.top1_agreement is not None  # noqa: PT018 - both come with the reference
    return DemoRow(
        name,
        "all" if parts == PARTS else ", ".join(parts),
        result.accuracy,
        result.interval,
        result.kl,
        result.top1_agreement,
        bits,
        paper,
        folder_bytes,
        quantize_s,
        eval_s,
    )


def _line(row: DemoRow) -> str:
    where = f" ({row.parts})" if row.parts else ""
    return f"{row.name}{where}: {row.bits_per_weight:.2f} bits, accuracy {row.accuracy:.1%}, KL {row.kl:.4f}"
