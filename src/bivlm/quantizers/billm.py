"""BiLLM: in every block a few salient columns get two sign planes. The other weights are split by magnitude
into two parts with one sign plane each.

Huang et al., arXiv 2402.04291. Per block of 128 columns, with error feedback from block to block
(steps/compensation.py):

    salience of a weight     w², over the squared diagonal of the inverse factor ("hessian"), or |w|
                             ("magnitude")
    salient columns          the 1…49 with the largest column sums, as many as minimise the error of
                             binarizing the salience (steps/partition.py)
    other weights            split where the salience of a weight passes the best of 81 quantiles
    binarization             mean + scale * sign per row and part, order 2 for the salient columns
                             (steps/residual.py)

The searches run on the salience, not on the weights, as in the public code. The settings that reproduce this
code are scale_bits 32, error_rule "diagonal", refit False. Its error rule divides a block's error only by the
diagonal of the factor, although the whole block was quantized at once; "exact" solves the triangular system.
`refit` fits scales and means again under the second moment.

The paper counts 1.06 to 1.11 bits: one bit, plus one for the salient columns. It leaves out the bit that
names the part of each weight (0.9 and more per weight) and the seven numbers per row and block (0.88 in
float16). The true count is 2.9.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from bivlm.formats.base import QuantizedWeight
from bivlm.formats.encoding.numbers import NumberBits
from bivlm.formats.planes import PlanesWeight
from bivlm.quantizers.base import Damping, GradientPower, Quantizer, Weighting
from bivlm.quantizers.steps.compensation import ErrorRule
from bivlm.quantizers.steps.parted_blocks import Salience, quantize_blocks
from bivlm.quantizers.steps.residual import binarize
from bivlm.quantizers.steps.sign_planes import (
    BlockPlanes,
    block_planes,
    parted,
    parted_nbytes,
)
from bivlm.types import LinearStats


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class BiLLM(Quantizer):
    """Settings of BiLLM.

    salience         the values that the searches for salient columns and magnitude parts use
    most_salient     largest number of salient columns in a block
    compensate       feed the error of each block on; without it, and with magnitude salience, no data are
                     needed
    error_rule       "exact", or "diagonal" as in the public code
    refit            least squares for scales and means at the end
    scale_bits       16, 32, or 8 with a 16-bit unit per row
    damping          share of the mean diagonal added to the second moment
    block_size       columns that share their numbers, between two error pushes
    modality_weight  how text and visual tokens share the second moment: "tokens", "balanced",
                     "gradient", or the visual tokens' share
    gradient_power   a token counts by this power of its squared output gradient; 0: all alike
    """

    name: ClassVar[str] = "billm"

    salience: Salience = "magnitude"
    most_salient: Annotated[int, Field(ge=1)] = 49
    compensate: bool = True
    error_rule: ErrorRule = "exact"
    refit: bool = False
    scale_bits: NumberBits = 16
    damping: Damping = 0.01
    block_size: Annotated[int, Field(ge=2)] = 128
    modality_weight: Weighting = "tokens"
    gradient_power: GradientPower = 0.0

    @property
    def needs_data(self) -> bool:
        return self.compensate or self.salience == "hessian" or self.refit

    def quantize(self, weight: Tensor, stats: LinearStats | None) -> PlanesWeight:
        return quantize_blocks(self, weight, stats, self._block)

    def _block(self, block: Tensor, target: Tensor) -> BlockPlanes:
        salient, small, large = parted(target, self.most_salient)
        pieces = [
            binarize(block, small, 1),
            binarize(block, large, 1),
            binarize(block, salient.expand_as(small), 2),
        ]
        return block_planes(salient, large, pieces)

    def bits_bound(self, shape: tuple[int, int]) -> float:
        stored = parted_nbytes(
            shape,
            self.block_size,
            self.most_salient,
            self.scale_bits,
            salient_parts=1,
            means=True,
            column_scales=False,
        )
        return 8 * stored / (shape[0] * shape[1])

    def paper_bits(self, quantized: QuantizedWeight) -> float | None:
        assert isinstance(quantized, PlanesWeight)
        return 1.0 + float(quantized.salient.float().mean())
