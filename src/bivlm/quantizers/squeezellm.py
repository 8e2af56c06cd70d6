"""SqueezeLLM: levels that are best for the most sensitive weights, and a few weights in a sparse list.

Kim, Hooper, Gholami, Dong, Li, Shen, Mahoney, Keutzer, arXiv 2306.07629 (ICML 2024). With F the Fisher
information of the weights, their squared gradients summed over samples,

    sparse   the weights with the largest F, then those of largest magnitude: 16 bits each, with their places
    levels   of a row = argmin Σ_j F_j (w_j - nearest level)² over the other weights
    codes    the nearest level: no feedback, no groups

The public code takes as outliers what lies beyond T = max(|Q1 - r IQR|, |Q3 + r IQR|) in a weight with the
quartiles Q1 and Q3, and chooses r so that all weights of a model together lose a share of 0.45 %, of which
0.05 % are the sensitive ones. A quantizer sees one weight: here every weight loses these shares, or
`outlier_range` gives r. The public code's k-means starts at random levels, and stayed 8 to 10 % above the
optimum on the weight of the tests; here it is the optimum (steps/exact_means.py). Sparse values replace the
dense ones; the public code adds to them.

`feedback` is an addition: with the same levels the errors are fed back as in GPTQ, and sparse values take up
what arrives at them. It says what the levels alone are worth.

The paper counts codes, levels of 16 bits, and 48 bits for a sparse value with its column.
"""

from __future__ import annotations

import logging
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from bivlm.formats.base import QuantizedWeight
from bivlm.formats.levels import LevelsWeight, levels_nbytes
from bivlm.quantizers.base import Damping, GradientPower, Quantizer, Weighting, in_range, moment_of
from bivlm.quantizers.steps.compensation import moment_factor, visiting_order
from bivlm.quantizers.steps.exact_means import best_levels
from bivlm.quantizers.steps.level_feedback import feedback_codes, levels_weight
from bivlm.types import LinearStats

logger = logging.getLogger(__name__)

Share = Annotated[float, Field(ge=0.0, le=0.5)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SqueezeLLM(Quantizer):
    """Settings of SqueezeLLM; the defaults are the paper's.

    bits             2^bits levels for each row
    sensitive        share of the weights that are sparse because of their Fisher information
    outliers         share that is sparse because of its magnitude; with `outlier_range` at most this share
    outlier_range    r of the threshold T, in interquartile ranges; left out: `outliers` alone decides
    feedback         feed errors on through the second moment, with the same levels
    act_order        strongest inputs first, for `feedback`
    damping          share of the mean diagonal added to the second moment, for `feedback`
    block_size       columns between two error pushes, for `feedback`
    modality_weight  how text and visual tokens share the second moment, for `feedback`: "tokens",
                     "balanced", "gradient", or the visual tokens' share
    gradient_power   a token counts by this power of its squared output gradient, for `feedback`; 0: all alike
    """

    name: ClassVar[str] = "squeezellm"

    bits: Annotated[int, Field(ge=1, le=4)] = 3
    sensitive: Share = 0.0005
    outliers: Share = 0.004
    outlier_range: Annotated[float, Field(ge=0.0)] | None = None
    feedback: bool = False
    act_order: bool = True
    damping: Damping = 0.01
    block_size: Annotated[int, Field(ge=1)] = 128
    modality_weight: Weighting = "tokens"
    gradient_power: GradientPower = 0.0

    @property
    def needs_fisher(self) -> bool:
        return True

    @property
    def needs_data(self) -> bool:
        return True

    def quantize(self, weight: Tensor, stats: LinearStats | None) -> LevelsWeight:
        w, exponent = in_range(weight)
        hessian = moment_of(stats, self.modality_weight)
        fisher = _fisher_of(stats, w)
        sparse = self._sparse(w, fisher)
        levels = best_levels(w, _without(fisher, sparse), 1 << self.bits).half()[:, None]
        if self.feedback and hessian is not None:
            order = visiting_order(hessian, self.act_order)
            factor = moment_factor(hessian[order][:, order], self.damping)
            codes, values = feedback_codes(w, levels, factor, order, w.shape[1], self.block_size, sparse)
        else:
            codes, values = _nearest(w, levels[:, 0]).masked_fill_(sparse, 0), w
        return levels_weight(levels, codes, w.shape[1], exponent, sparse, values)

    def _counts(self, weights: int) -> tuple[int, int]:
        """How many weights are sparse because of their Fisher information, and at most of their magnitude."""
        return round(self.sensitive * weights), round(self.outliers * weights)

    def _sparse(self, w: Tensor, fisher: Tensor) -> Tensor:
        """Which weights are sparse, (out, in) bool."""
        sensitive, outliers = self._counts(w.numel())
        sparse = _largest(fisher.reshape(-1), sensitive)
        size = w.abs().reshape(-1).masked_fill(sparse, 0.0)
        if self.outlier_range is not None:
            size = torch.where(size > _threshold(w, self.outlier_range), size, 0.0)
        return (sparse | _largest(size, outliers)).view(w.shape)

    def bits_bound(self, shape: tuple[int, int]) -> float:
        weights = shape[0] * shape[1]
        stored = levels_nbytes(
            shape,
            alphabet=1 << self.bits,
            symmetric=False,
            group_size=shape[1],
            rows_of_tables=shape[0],
            tail=sum(self._counts(weights)),
            values=True,
        )
        return 8 * stored / weights

    def paper_bits(self, quantized: QuantizedWeight) -> float | None:
        rows, columns = quantized.shape
        sparse = len(quantized.tail_positions) if isinstance(quantized, LevelsWeight) else 0
        return self.bits + 16 * (1 << self.bits) / columns + 48 * sparse / (rows * columns)


def _fisher_of(stats: LinearStats | None, w: Tensor) -> Tensor:
    """The Fisher information of every weight (out, in) float32. ValueError if it was not measured, or is of
    another weight, or is no Fisher information.
    """
    fisher = None if stats is None else stats.fisher
    if fisher is None:
        raise ValueError("this method needs the Fisher information of the weights, and it was not measured")
    if fisher.shape != w.shape:
        raise ValueError(f"the Fisher information is {list(fisher.shape)}, and the weight {list(w.shape)}")
    if not bool((fisher >= 0).all()) or not bool(fisher.isfinite().all()):
        raise ValueError("the Fisher information holds NaN, infinity or a number below 0")
    if not bool(fisher.any()):
        logger.warning("no answer depends on a weight of %d inputs: its levels count all alike", w.shape[1])
    return fisher.float()


def _without(fisher: Tensor, sparse: Tensor) -> Tensor:
    """What errors count when levels are fitted, (out, in): those of sparse weights nothing; in a row whose
    other weights have no Fisher information, those of the others the same.
    """
    rest = fisher.masked_fill(sparse, 0.0)
    alike = ~(rest > 0).any(1, keepdim=True)
    return torch.where(alike & ~sparse, 1.0, rest)


def _largest(numbers: Tensor, count: int) -> Tensor:
    """Marks the `count` largest of `numbers` (n,), as far as they are above 0."""
    marked = torch.zeros(len(numbers), dtype=torch.bool, device="cpu")
    found, places = numbers.topk(count)
    marked[places[found > 0]] = True
    return marked


def _threshold(w: Tensor, spread: float) -> float:
    """T = max(|Q1 - r IQR|, |Q3 + r IQR|) of all weights; the quartiles are those of numpy's default."""
    low, high = np.quantile(w.numpy(), (0.25, 0.75))
    return float(max(abs(low - spread * (high - low)), abs(high + spread * (high - low))))


def _nearest(w: Tensor, levels: Tensor) -> Tensor:
    """The nearest of each row's levels (out, L): (out, in) int64."""
    table = levels.float()
    return torch.searchsorted(((table[:, 1:] + table[:, :-1]) / 2).contiguous(), w.contiguous())
