"""What a comparison finds: one row for every run, and what all rows have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from pydantic import TypeAdapter

from bivlm.eval.statistics.draws import OverDraws
from bivlm.eval.statistics.paired import Difference, Verdict
from bivlm.notebook import html_table
from bivlm.types import PARTS, PartName

FULL_PRECISION = "full precision"

# the parts study: each part alone, each pair, all three
COMBINATIONS: tuple[tuple[PartName, ...], ...] = tuple(
    chosen for count in (1, 2, 3) for chosen in combinations(PARTS, count)
)


@dataclass(frozen=True)
class DrawNumbers:
    """The numbers of one calibration draw."""

    accuracy: float | None
    kl: float | None
    kl_geometric: float | None


@dataclass(frozen=True)
class Told:
    """What a paired test says of a row and the first one, and the difference in every calibration draw, None
    for one draw.
    """

    difference: Difference
    draws: OverDraws | None

    @property
    def verdict(self) -> Verdict:
        """The test's, unless the difference has not the same sign in every draw."""
        unsteady = self.draws is not None and not self.draws.holds
        return "not told apart" if unsteady else self.difference.verdict


@dataclass(frozen=True)
class Against:
    """A row against the first one, on the same questions; p-values hold for all rows together."""

    accuracy: Told | None = None
    kl: Told | None = None
    kl_geometric: Told | None = None


@dataclass(frozen=True)
class ComparisonRow:
    """One packed model, or the full-precision one (`preset` is FULL_PRECISION, no parts).

    Bits are those of the packed linears, `folder_bytes` those of the whole folder; `peak_bytes` is the peak
    resident memory of the quantizing process, None where the system does not tell. Errors, means and measures
    of confidence are those of `EvalResult`. With several calibration draws the numbers are means over them,
    and `draws` has those of each. `against` compares the row with the first one of the table. A run that
    failed has its reason in `failure`, and no numbers.
    """

    preset: str
    method: str
    parts: tuple[PartName, ...]
    questions: int = 0
    accuracy: float | None = None
    interval: tuple[float, float] | None = None
    kl: float | None = None
    top1_agreement: float | None = None
    true_bits: float | None = None
    paper_bits: float | None = None
    folder_bytes: int | None = None
    quantize_seconds: float | None = None
    peak_bytes: int | None = None
    eval_seconds: float | None = None
    note: str = ""
    failure: str = ""
    standard_error: float | None = None
    kl_geometric: float | None = None
    kl_standard_error: float | None = None
    greedy_agreement: float | None = None
    ece: float | None = None
    brier: float | None = None
    aurc: float | None = None
    auroc: float | None = None
    draws: tuple[DrawNumbers, ...] = ()
    against: Against | None = None

    @property
    def label(self) -> str:
        """The preset, and its parts unless they are all."""
        return label_of(self.preset, self.parts)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ComparisonRow:
        """The row that `asdict` and JSON made plain."""
        return TypeAdapter(cls).validate_python(content)


@dataclass(frozen=True)
class Comparison:
    """All rows, by rising true bits, full precision and what failed last; and what they were measured with.
    Presets that need data were packed with each of `draws` draws of calibration samples.

    `study`: the rows are the combinations of parts of each preset, in that order. `apart`: no image that was
    calibrated on is asked about.
    """

    rows: tuple[ComparisonRow, ...]
    study: bool
    model: str
    questions: int
    metric: str
    calibration_samples: int
    machine: str
    command: str
    notes: tuple[str, ...]
    draws: int = 1
    apart: bool = False

    @property
    def packed(self) -> str:
        """What was packed, in words; the rows of a comparison have the same parts, those of a study have
        not.
        """
        parts = next((row.parts for row in self.rows if row.parts), ())
        return "all parts" if parts in ((), PARTS) else f"{' and '.join(parts)} only"

    @property
    def failed(self) -> tuple[ComparisonRow, ...]:
        return tuple(row for row in self.rows if row.failure)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def _repr_html_(self) -> str:
        """For notebooks: the main columns of every row."""

        def shown(value: float | None, form: str) -> str:
            return "" if value is None else format(value, form)

        rows = (
            (
                row.label,
                shown(row.true_bits, ".2f"),
                shown(row.accuracy, ".1%") or "failed",
                shown(row.kl, ".4g"),
                shown(row.kl_geometric, ".4g"),
            )
            for row in self.rows
        )
        return html_table(("preset", "true bits", "accuracy", "KL (nats)", "geometric KL"), rows)


def label_of(preset: str, parts: Sequence[PartName]) -> str:
    """What people read of a run: the preset, and its parts unless they are all."""
    return f"{preset} ({', '.join(parts)})" if parts and tuple(parts) != PARTS else preset


def by_true_bits(row: ComparisonRow) -> tuple[bool, bool, float, str]:
    """The order of a comparison's table."""
    return bool(row.failure), row.preset == FULL_PRECISION, row.true_bits or 0.0, row.preset
