"""Trellis-coded quantization of rotated weights with error feedback: the smallest error for its bits of all
methods here (docs/trellis.md).

It combines three parts, after QTIP (Tseng, Sun, Hou, De Sa, arXiv 2406.11235) and QuIP# (arXiv 2402.04396):

    rotation     W Rᵀ instead of W: the weights of a row become nearly normal, and no input dominates
                 (formats/encoding/rotation.py)
    feedback     columns are quantized one after the other, and each error is fed back into the later columns
                 (steps/compensation.py)
    trellis      the column of a strip of rows is quantized at once, as the best path through the windows of a
                 bit stream (steps/viterbi.py)

Additions: The trellis runs down the rows, so the feedback reaches every single column (in QTIP there is none
within a block of 16 columns). It looks ahead into the next column. A Hartley transform mixes widths that
are no power of two. Every run of 16 columns has its own number of bits, so the mean may be any number;
columns get more bits if an error that no later column can correct costs more (reverse water-filling over the
pivots of the second moment). Row scales are refitted in closed form under the second moment.

The method's papers count K bits per weight, and leave out the row scales.
"""

from __future__ import annotations

import heapq
import logging
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from bivlm.formats.base import QuantizedWeight
from bivlm.formats.encoding.rotation import Rotation, blocks_of, signs_of
from bivlm.formats.encoding.trellis_checks import LARGEST_PRIME, LARGEST_SEED, MOST_BITS, can_rotate
from bivlm.formats.encoding.trellis_code import UNIT, standard_tables
from bivlm.formats.trellis import (
    RUN,
    STRIP,
    TrellisWeight,
    column_bits,
    pack_symbols,
    runs,
    strips,
    trellis_nbytes,
)
from bivlm.profile import part
from bivlm.quantizers.base import Damping, GradientPower, Quantizer, Weighting, in_range, moment_of
from bivlm.quantizers.steps.compensation import feed_back, moment_factor, through_factor
from bivlm.quantizers.steps.viterbi import search_columns
from bivlm.types import LinearStats

logger = logging.getLogger(__name__)

# Mean squared error of a normal weight of variance 1 at K = 0 … 4 bits, by window: measured by
# benchmarks/fit_trellis_tables.py
DISTORTION = {
    8: (1.0, 0.28485, 0.07541, 0.01977, 0.00524),
    12: (1.0, 0.28294, 0.07343, 0.01871, 0.00483),
    16: (1.0, 0.28223, 0.07207, 0.01809, 0.00459),
}
LARGEST_SCALE = 60000.0
MOST_BLOCKS = 64
SPREADS = (1.05, 1.17, 1.31, 1.47, 1.65, 1.85)  # that are tried where the spread is fitted, in this order
AT_ONCE = 1 << 23  # weights that are quantized at a time: each takes some thirty bytes meanwhile


class Moment(NamedTuple):
    """The second moment of rotated inputs as R Rᵀ - D: upper R (in, in) and the diagonal D (in,) float32,
    which damping added.
    """

    factor: Tensor
    added: Tensor

    @classmethod
    def of(cls, hessian: Tensor, damping: float, rotation: Rotation | None) -> Moment:
        """That of inputs with second moment `hessian` (in, in) before the rotation."""
        factor = moment_factor(hessian, damping, rotation and rotation.turn)
        whole = torch.linalg.vector_norm(factor, dim=1).double().square()
        added = whole - hessian.diagonal().double()
        if rotation is not None:  # the same everywhere, and a rotation leaves the sum of a diagonal
            added = added.mean().expand(len(added))
        return cls(factor, added.clamp_min(0.0).float())


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Trellis(Quantizer):
    """Settings of the trellis.

    bits             bits per weight in the streams, on average over the columns; any number from 0.25 to 4
    window           L: 8 (fast to decode), 12 or 16 (fewer errors; the search takes 2^(L-8) times as long)
    rotation         rotate the inputs; a weight whose width has a prime factor above 1024 is left unrotated,
                     with a warning (the format has no rotation for it)
    blocks           equal diagonal blocks of the rotation, between which the inputs can be split among
                     devices; a width that cannot be cut so often has fewer: the most that divide this number
    feedback         feed errors on through the second moment of the inputs; needs calibration data
    allocation       give columns bits by the cost of their errors; without it all columns have the same
                     number, or two neighbouring numbers
    refit            least squares for the row scales at the end
    spread           the row scale before the refit, in standard deviations of the row; "fitted": the one of
                     SPREADS that suits each weight, if errors are fed back
    damping          share of the mean diagonal added to the second moment
    block_size       columns between two error pushes
    modality_weight  how text and visual tokens share the second moment: "tokens", "balanced", "gradient", or
                     the visual tokens' share
    gradient_power   a token counts by this power of its squared output gradient; 0: every token alike
    seed             seed of the rotation's signs
    """

    name: ClassVar[str] = "trellis"
    on_cards: ClassVar[bool] = True

    bits: Annotated[float, Field(ge=0.25, le=MOST_BITS)] = 2.0
    window: Literal[8, 12, 16] = 8
    rotation: bool = True
    blocks: Annotated[int, Field(ge=1, le=MOST_BLOCKS)] = 1
    feedback: bool = True
    allocation: bool = True
    refit: bool = True
    spread: Annotated[float, Field(gt=0.0, le=4.0)] | Literal["fitted"] = SPREADS[0]
    damping: Damping = 0.01
    block_size: Annotated[int, Field(ge=RUN, multiple_of=RUN)] = 128
    modality_weight: Weighting = "tokens"
    gradient_power: GradientPower = 0.0
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED)] = 0

    @property
    def needs_data(self) -> bool:
        return self.feedback

    def quantize(self, weight: Tensor, stats: LinearStats | None) -> QuantizedWeight:
        w, exponent = in_range(weight)
        columns = w.shape[1]
        hessian = moment_of(stats, self.modality_weight) if self.feedback else None
        rotated = self.rotation and can_rotate(columns)
        if self.rotation and not rotated:
            logger.warning(
                "a linear with %d inputs is quantized without rotation: a prime factor is above %d",
                columns,
                LARGEST_PRIME,
            )
        blocks = blocks_of(columns, self.blocks, RUN) if rotated else 1
        rotation = Rotation(signs_of(self.seed, columns), blocks) if rotated else None
        if hessian is None:
            moment, cost = None, torch.ones(columns, dtype=torch.float64, device="cpu")
        else:
            moment = Moment.of(hessian, self.damping, rotation)
            cost = moment.factor.diagonal().double().square().cpu()
        run_bits = self._run_bits(cost)
        spread = self._best_spread(w, rotation, moment, run_bits)
        pieces = [
            self._quantize_rows(rows, rotation, moment, run_bits, spread)
            for rows in w.split(rows_at_once(columns))
        ]
        codes, scale = (torch.cat(parts) for parts in zip(*pieces, strict=True))
        table, run_bits = torch.zeros(0, 0, dtype=torch.int8, device=w.device), run_bits.to(w.device)
        return TrellisWeight(
            codes, columns, run_bits, scale, table, self.window, rotated, self.seed, exponent, blocks
        )

    def _best_spread(
        self,
        w: Tensor,
        rotation: Rotation | None,
        moment: Moment | None,
        run_bits: Tensor,
    ) -> float:
        """The spread itself, or the fitted one: that with the smallest layer error of a strip of rows, taken
        evenly from the whole weight. SPREADS are tried in their order until two in a row gain nothing.

        What is fed back widens the targets beyond their rows: the more, the fewer the bits and the stronger
        the correlation of the inputs.
        """
        if self.spread != "fitted":
            return self.spread
        best, least, missed = SPREADS[0], torch.inf, 0
        if moment is None:
            return best
        rows = w[:: max(1, len(w) // STRIP)][:STRIP]
        rows = rows if rotation is None else rotation.turn(rows)
        for spread in SPREADS:
            _, lost, _ = self._searched(rows, moment, run_bits, spread)
            error = float(lost.sum())
            if error < least:
                best, least, missed = spread, error, 0
            elif missed:
                break
            else:
                missed += 1
        return best

    def _quantize_rows(
        self,
        w: Tensor,
        rotation: Rotation | None,
        moment: Moment | None,
        run_bits: Tensor,
        spread: float,
    ) -> tuple[Tensor, Tensor]:
        """Streams (bytes,) and scales (rows,) float16 of some whole strips of the weight, (rows, in), rotated
        if there is a rotation. Strips are independent of each other. Without a second moment nothing is fed
        back.
        """
        w = w if rotation is None else rotation.turn(w)
        scale, _, symbols = self._searched(w, moment, run_bits, spread)
        return pack_symbols(symbols, run_bits), (scale * UNIT).clamp(max=LARGEST_SCALE).half()

    def _searched(
        self, w: Tensor, moment: Moment | None, run_bits: Tensor, spread: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scales (rows,), errors (rows,) under the second moment, and symbols (in, held) uint8 for some rows
        of the rotated weight, (rows, in).
        """
        scale = w.square().mean(1).sqrt() * (spread / UNIT)
        unit = torch.where(scale > 0, scale, 1.0)
        of_unit = w / unit[:, None]
        values, felt, symbols = self._decide(of_unit, moment, run_bits)
        whole, added = of_unit, torch.zeros_like(w[0])
        if moment is not None:
            whole, added = through_factor(of_unit, moment.factor), moment.added
        # what H makes of every row: of w with w, of w with its values, of the values with themselves
        kept = whole - felt
        alone, across, own = (
            (left * right).sum(1) - (first * added * second).sum(1)
            for left, right, first, second in (
                (whole, whole, of_unit, of_unit),
                (whole, kept, of_unit, values),
                (kept, kept, values, values),
            )
        )
        best = refitted(across, own) if self.refit else torch.ones_like(scale)
        return scale * best, unit.square() * (alone - 2 * best * across + best.square() * own), symbols

    def with_bits(self, bits: float) -> Trellis:
        return replace(self, bits=bits)

    def bits_bound(self, shape: tuple[int, int]) -> float:
        fullest = fullest_bits if self.allocation else even_bits
        return 8 * trellis_nbytes(shape, fullest(self.bits, shape[1])) / (shape[0] * shape[1])

    def paper_bits(self, quantized: QuantizedWeight) -> float | None:
        assert isinstance(quantized, TrellisWeight)
        return float(column_bits(quantized.bits, quantized.columns).double().mean())

    def _run_bits(self, cost: Tensor) -> Tensor:
        """K of every run (ceil(in / 16),) uint8, from the cost of a unit of error in each column (in,)."""
        if not self.allocation:
            return even_bits(self.bits, len(cost))
        return allocated_bits(cost, self.bits, DISTORTION[self.window])

    def _decide(self, w: Tensor, moment: Moment | None, run_bits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values and their error through R, (out, in) float32, and symbols (in, held) uint8 for the weight
        (out, in) in units of the tables, with feedback if there is a second moment.
        """
        rows, columns = w.shape
        held, tables = sum(strips(rows)), standard_tables(self.window).to(w.device)
        symbols = torch.zeros(columns, held, dtype=torch.uint8, device=w.device)
        state = torch.zeros(len(strips(rows)), dtype=torch.int32, device=w.device)

        def decide(block: Tensor, u: Tensor, start: int) -> Tensor:
            nonlocal state
            k = int(run_bits[start // RUN])
            if k == 0:
                return torch.zeros_like(block)
            here = slice(start, start + block.shape[1])
            with part("trellis search"):
                values, symbols[here], state = search_columns(
                    block.T.contiguous(), u, self.window, k, tables[k - 1], state
                )
            return values.T

        blocks = equal_blocks(run_bits, columns, self.block_size)
        if moment is not None:
            felt = torch.empty_like(w)
            return feed_back(w, moment.factor, decide, blocks, felt=felt), felt, symbols
        values = torch.empty_like(w)
        for block in blocks:
            nothing_fed_back = torch.eye(block.stop - block.start, dtype=torch.float32, device=w.device)
            values[:, block] = decide(w[:, block], nothing_fed_back, block.start)
        return values, w - values, symbols


def rows_at_once(columns: int) -> int:
    """Whole strips of about AT_ONCE weights."""
    return STRIP * max(1, AT_ONCE // (STRIP * columns))


def allocated_bits(cost: Tensor, bits: float, distortion: tuple[float, ...]) -> Tensor:
    """K of every run (ceil(in / 16),) uint8 with the least expected error and a mean of at most `bits` per
    column.

    The expected error of a column is its cost (in,) times `distortion` at its K. One bit at a time goes to
    the run where it helps most: optimal, as `distortion` is convex. If there is a bit for every column, every
    column gets one, because a column that calibration hardly excites may matter on other inputs. (Without
    bits for such columns the KL divergence of the embedded model at one bit is four times as large, although
    the error on the calibration data is smaller.)
    """
    columns = runs(len(cost))
    weight = [float(cost[run].sum()) / (run.stop - run.start) for run in columns]
    least = 1 if bits >= 1 else 0
    chosen, left = [least] * len(columns), (bits - least) * len(cost) + 1e-9
    gains = [
        (-(distortion[least] - distortion[least + 1]) * mean, index) for index, mean in enumerate(weight)
    ]
    heapq.heapify(gains)
    while gains:
        _, index = heapq.heappop(gains)
        size = columns[index].stop - columns[index].start
        if size > left:
            continue
        left -= size
        chosen[index] += 1
        if chosen[index] < MOST_BITS:
            heapq.heappush(
                gains, (-(distortion[chosen[index]] - distortion[chosen[index] + 1]) * weight[index], index)
            )
    return torch.tensor(chosen, dtype=torch.uint8, device="cpu")


def even_bits(bits: float, columns: int) -> Tensor:
    """K of every run (ceil(in / 16),) uint8, evenly mixed, with a mean of at most `bits` per column.

    They are the same or two neighbouring numbers, except for a last run that is short.
    """
    chosen, given, seen = [], 0.0, 0
    for run in runs(columns):
        size = run.stop - run.start
        seen += size
        chosen.append(min(MOST_BITS, int((bits * seen - given) / size + 1e-9)))
        given += chosen[-1] * size
    return torch.tensor(chosen, dtype=torch.uint8, device="cpu")


def fullest_bits(bits: float, columns: int) -> Tensor:
    """K of every run (ceil(in / 16),) uint8 with the largest sum over the columns that `allocated_bits` can
    give for any costs.
    """
    whole, rest = divmod(columns, RUN)
    most = bits * columns + 1e-9

    def before(last: int) -> int:
        return min(MOST_BITS * whole, int((most - rest * last) // RUN))

    last = max(
        (k for k in range(MOST_BITS + 1) if rest * k <= most), key=lambda k: RUN * before(k) + rest * k
    )
    chosen = [before(last) * (index + 1) // whole - before(last) * index // whole for index in range(whole)]
    return torch.tensor(chosen + ([last] if rest else []), dtype=torch.uint8, device="cpu")


def equal_blocks(run_bits: Tensor, columns: int, block_size: int) -> list[slice]:
    """Neighbouring runs of the same K joined, up to `block_size` columns: the blocks that are searched at
    once.
    """
    blocks: list[slice] = []
    for run, k in zip(runs(columns), run_bits.tolist(), strict=True):
        if blocks and run_bits[blocks[-1].start // RUN] == k and run.stop - blocks[-1].start <= block_size:
            blocks[-1] = slice(blocks[-1].start, run.stop)
        else:
            blocks.append(run)
    return blocks


def refitted(across: Tensor, own: Tensor) -> Tensor:
    """By how much to scale each row q of some values, (out,), for the smallest error under a second moment H:
    `across` (out,) is w H qᵀ, `own` (out,) is q H qᵀ. Rows without a scale above 0 keep theirs.
    """
    best = across / own
    return torch.where(best.isfinite() & (best > 0) & (own > 0), best, 1.0)
