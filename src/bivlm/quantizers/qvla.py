"""QVLA: every row of a weight, an output channel, has its own number of bits, and some have none.

QVLA, arXiv 2602.03782 (ICLR 2026), made for models that act. With R_jj² the pivots of the damped second
moment of the inputs (its Cholesky factor; 1 / U_jj of GPTQ) and Q_b rounding in b bits, b = 0, 2, 4, 8, 16,

    cost_b(row) = Σ_j R_jj² (w_j - Q_b(w)_j)²
    rows at 16 bits give up bits until the average is what is asked for        steps/row_widths.py

as its public code does; the paper's text speaks of the change of the actions. Q_b has 2^b - 1 evenly spaced
levels, from -max |w| to max |w|: three for "two bits", which take 1.6 bits here.

Differences and additions:

- `bits` are the true ones, scales and the rows' classes included. The public code averages the widths over
  channels, of all linears together, however many weights they have (`counted="widths"` counts so). There is
  one budget per linear here; a recipe's `budget` deals bits out among linears by their effect on the answers.
- The cost of a row is its error under the second moment (`cost="moment"`). That of the public code
  (`cost="pivots"`) is the one of GPTQ, but nothing is fed back there.
- Widths are chosen by the increase of the cost per saved bit (`score="increase"`), which is optimal. The
  public code looks at the cost at the next width alone (`score="cost"`).
- `feedback` quantizes the rows of each width by GPTQ.
- `row_weight="fisher"` multiplies a row's cost by its squared gradients.

The paper counts the average of the widths over channels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from bivlm.formats.base import QuantizedWeight
from bivlm.formats.encoding import bits as streams
from bivlm.formats.encoding.numbers import Numbers
from bivlm.formats.raw import RawWeight, raw_nbytes
from bivlm.formats.rows import RowsWeight, row_classes_nbytes
from bivlm.formats.uniform import UniformWeight, uniform_nbytes
from bivlm.quantizers.base import Damping, GradientPower, GroupSize, Quantizer, Weighting, in_range, moment_of
from bivlm.quantizers.gptq import GPTQ
from bivlm.quantizers.steps.compensation import damped_moment, moment_factor
from bivlm.quantizers.steps.row_widths import Score, choose_widths
from bivlm.types import LinearStats

WHOLE_ROW = 1 << 20
RAW = 16  # the width that is not quantized
Width = Literal[0, 1, 2, 3, 4, 5, 6, 7, 8, 16]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class QVLA(Quantizer):
    """Settings of QVLA.

    bits             true bits per weight, or with counted="widths" the average of the rows' widths
    widths           the numbers of bits that a row can have, ascending; 0 drops it, 16 leaves it as it is
    counted          "stored" or "widths": what `bits` counts
    score            which row gives up bits first: that with the lowest "increase" of its cost per saved bit,
                     or with the lowest "cost" at its next width
    cost             the cost of a row: its error under the second "moment", or its squared errors times the
                     "pivots" of the columns
    feedback         rows are quantized by GPTQ, not rounded
    group_size       with feedback: columns that share a scale; more than a row has means the whole row
    row_weight       "fisher" multiplies a row's cost by its squared gradients
    damping          share of the mean diagonal added to the second moment
    modality_weight  how text and visual tokens share the second moment: "tokens", "balanced", "gradient", or
                     the visual tokens' share
    gradient_power   a token counts by this power of its squared output gradient; 0: all alike
    """

    name: ClassVar[str] = "qvla"

    bits: Annotated[float, Field(ge=0.5, le=16.0)] = 4.0
    widths: tuple[Width, ...] = (0, 2, 4, 8, 16)
    counted: Literal["stored", "widths"] = "stored"
    score: Score = "increase"
    cost: Literal["moment", "pivots"] = "moment"
    feedback: bool = False
    group_size: GroupSize = WHOLE_ROW
    row_weight: Literal["none", "fisher"] = "none"
    damping: Damping = 0.01
    modality_weight: Weighting = "tokens"
    gradient_power: GradientPower = 0.0

    def __post_init__(self) -> None:
        if list(self.widths) != sorted(set(self.widths)) or self.widths in ((), (0,)):
            raise ValueError(f"widths is {self.widths}; needs ascending numbers of bits, one of them above 0")
        if 1 in self.widths and not self.feedback:
            raise ValueError("one bit has no level but 0 without feedback; leave 1 out of widths")

    @property
    def needs_data(self) -> bool:
        return True

    @property
    def needs_fisher(self) -> bool:
        return self.row_weight == "fisher"

    def quantize(self, weight: Tensor, stats: LinearStats | None) -> RowsWeight:
        w, exponent = in_range(weight)
        hessian = moment_of(stats, self.modality_weight)
        known = hessian is not None and stats is not None
        if hessian is None:
            hessian = torch.eye(w.shape[1], dtype=torch.float32, device="cpu")
        moment = LinearStats({"all": hessian}, {"all": 1.0})
        made = [self._made(w, width, moment) for width in self.widths]
        costs = self._costs(w, made, hessian)
        if self.row_weight == "fisher" and known:
            assert stats is not None
            if stats.fisher is None:
                raise ValueError("this method needs the squared gradients of the weight, and none were kept")
            costs = costs * stats.fisher.sum(1, keepdim=True).clamp_min(0.0)
        chosen = self._chosen(costs, w.shape)
        used = [width for width in range(len(self.widths)) if bool((chosen == width).any())]
        parts = [
            self._part(weight[chosen == width], w[chosen == width], self.widths[width], moment, exponent)
            for width in used
        ]
        classes = torch.zeros(len(w), dtype=torch.uint8, device="cpu")
        for place, width in enumerate(used):
            classes[chosen == width] = place
        return RowsWeight(classes, tuple(parts))

    def _made(self, w: Tensor, width: int, moment: LinearStats) -> Tensor:
        """All rows of a weight at one width, decoded."""
        if width == RAW:
            return w
        part = self._part(w, w, width, moment, 0)
        return torch.zeros_like(w) if part is None else part.dequantize()

    def _part(
        self, rows: Tensor, w: Tensor, width: int, moment: LinearStats, exponent: int
    ) -> QuantizedWeight | None:
        """The weight of some `rows`, w · 2^exponent, at one width."""
        if width == 0:
            return None
        if width == RAW:
            return RawWeight.of(rows)
        if self.feedback:
            return GPTQ(bits=width, group_size=self.group_size, damping=self.damping).quantize(rows, moment)
        return _rounded(w, width, exponent)

    def _costs(self, w: Tensor, made: list[Tensor], hessian: Tensor) -> Tensor:
        """The cost of every row at every width, (out, widths) float64."""
        if self.cost == "pivots":
            return row_costs(w, made, moment_factor(hessian, self.damping).diagonal()).double()
        damped = damped_moment(hessian, self.damping)
        errors = ((w - q).double() for q in made)
        return torch.stack([((error @ damped) * error).sum(1) for error in errors], 1)

    def _chosen(self, costs: Tensor, shape: torch.Size) -> Tensor:
        """The width of every row, as its place among all. One row at least is not dropped."""
        rows, columns = shape
        useful = self._useful(columns)
        if self.counted == "widths":
            sizes, budget = [float(self.widths[place]) for place in useful], self.bits * rows
        else:
            sizes = [self._row_bits(columns, self.widths[place]) for place in useful]
            budget = self.bits * rows * columns - 8 * row_classes_nbytes(rows, len(self.widths))
        chosen = choose_widths(costs[:, useful], [sizes] * rows, budget, self.score)
        if self.widths[useful[0]] == 0 and not bool(chosen.any()):
            chosen[costs[:, 0].argmax()] = 1
        return torch.tensor(useful, dtype=torch.int64, device="cpu")[chosen]

    def _useful(self, columns: int) -> list[int]:
        """The places of the widths that take fewer bits than every larger one: in a narrow weight some do
        not.
        """
        sizes, found = [self._row_bits(columns, width) for width in self.widths], [len(self.widths) - 1]
        for place in reversed(range(len(sizes) - 1)):
            if sizes[place] < sizes[found[0]]:
                found.insert(0, place)
        return found

    def _row_bits(self, columns: int, width: int) -> float:
        """The bits that are stored of one row at one width, without its class."""
        if width == 0:
            return 0.0
        if width == RAW:
            return 8.0 * raw_nbytes((1, columns))
        if self.feedback:
            group_size = min(self.group_size, columns)
            return 8.0 * uniform_nbytes((1, columns), 1 << width, group_size, 16, "free", False)
        return 8.0 * uniform_nbytes((1, columns), _alphabet(width), columns, 16, _zero(width), False)

    def bits_bound(self, shape: tuple[int, int]) -> float:
        rows, columns = shape
        widths = [self.widths[place] for place in self._useful(columns)]
        sizes = [self._row_bits(columns, width) for width in widths]
        classes = 8 * row_classes_nbytes(rows, len(self.widths))
        least = rows * sizes[0] if widths[0] else sizes[1]
        if self.counted == "stored":
            wanted = self.bits * rows * columns
        else:
            more = max(size - width * columns for size, width in zip(sizes, widths, strict=True))
            wanted = (self.bits * columns + max(more, 0.0)) * rows + classes
        most = rows * sizes[-1] + classes
        return max(least + classes, min(wanted, most)) / (rows * columns)

    def paper_bits(self, quantized: QuantizedWeight) -> float | None:
        assert isinstance(quantized, RowsWeight)
        widths = [_width_of(part) for part in quantized.parts]
        total = sum(rows * width for rows, width in zip(quantized.counts, widths, strict=True))
        return total / quantized.shape[0]

    def with_bits(self, bits: float) -> Self:
        return replace(self, bits=bits)


def row_costs(w: Tensor, made: list[Tensor], pivots: Tensor) -> Tensor:
    """Σ_j R_jj² (w - q)² of every row of `w` (out, in) for every q of `made`, given R_jj (in,): (out,
    widths).
    """
    importance = pivots.square()
    return torch.stack([((w - q).square() * importance).sum(1) for q in made], 1)


def _alphabet(width: int) -> int:
    """Grid points that hold 2^width - 1 symmetric levels."""
    levels = (1 << width) - 1
    return next(size for size in streams.RADIX if size >= levels)


def _zero(width: int) -> Literal["middle", "code"]:
    """The middle of the grid is 0 where its points are odd in number; elsewhere a code is."""
    return "middle" if _alphabet(width) % 2 else "code"


def _rounded(w: Tensor, width: int, exponent: int) -> UniformWeight:
    """Every row on 2^width - 1 evenly spaced levels from -max |w| to max |w|, in float16 scales."""
    largest = (1 << (width - 1)) - 1
    scales = Numbers.of((w.abs().amax(1) / largest)[:, None, None], 16)
    scale = scales.expand()[..., 0]
    codes = torch.where(scale > 0, w / scale, 0.0).round().clamp(-largest, largest) + largest
    points = torch.zeros(0, dtype=torch.float16, device="cpu")
    if _zero(width) == "code":
        points = torch.full((len(w), 1), largest, dtype=torch.uint8, device="cpu")
    nothing = torch.zeros(0, dtype=torch.float16, device="cpu")
    return UniformWeight(
        codes.to(torch.uint8), _alphabet(width), scales, points, nothing, w.shape[1], exponent
    )


def _width_of(part: QuantizedWeight | None) -> int:
    """The bits that the paper counts for each weight of a part."""
    if part is None:
        return 0
    if not isinstance(part, UniformWeight):
        return RAW
    return part.alphabet.bit_length() if part.alphabet % 2 else (part.alphabet - 1).bit_length()
