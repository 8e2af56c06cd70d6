"""QSVD: the weights that read the same input (q, k and v) are a product of two factors, and the right one is
stored once.

Wang and others, arXiv 2510.16292 (NeurIPS 2025). With the weights one above the other and S a whitening,

    [Wq; Wk; Wv] S = U Σ Vᵀ,     A = U_r Σ_r^(1-β),  B = Σ_r^β V_rᵀ S⁻¹

and A cut into the rows of each weight. Both factors are then quantized. Differences:

- S is the Cholesky factor of the second moment of the inputs, with which the error that is left out is the
  smallest possible under it (`whitening="moment"`); the paper's is diagonal, the mean magnitude of each input
  to the power 0.5 (`whitening="diagonal"`; here the root mean square in place of the mean).
- The rank follows from the true bits. The paper keeps the singular values of the largest importance over all
  layers, σ_i times the root mean square of the loss's gradient in it; here a recipe's `budget` deals bits out
  among layers by their effect on the answers.
- B is quantized under the second moment of the inputs. Then the best A for this B is computed, by least
  squares, and quantized under the second moment of B x. The paper rounds both, after a random rotation.
- Grouped queries are cut by the rows of each weight. The public code cuts three equal pieces.

The paper counts no bits for factors. `bits` here counts all of them, B once for all weights that share it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from bivlm.errors import InputError
from bivlm.formats.base import QuantizedWeight
from bivlm.formats.lowrank import LowrankWeight
from bivlm.formats.raw import RawWeight
from bivlm.quantizers.base import Damping, GroupQuantizer, Weighting, in_range, moment_of
from bivlm.quantizers.gptq import GPTQ
from bivlm.quantizers.steps.compensation import damped_moment
from bivlm.quantizers.trellis import Trellis
from bivlm.types import LinearStats

RIDGE = 1e-6  # of the mean diagonal, in the least squares for A


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class QSVD(GroupQuantizer):
    """Settings of QSVD.

    bits             true bits per weight of all weights that share B; the rank is the largest that fits
    rank             the rank itself, in place of `bits`
    factors          how the factors are stored: by "gptq", in a "trellis", or "raw", 16 bits for each number
    factor_bits      bits of the factors' numbers, scales not counted
    whitening        "moment" or "diagonal"
    split            β: the power of the singular values that goes to B
    damping          share of the mean diagonal added to the second moment
    modality_weight  how text and visual tokens share the second moment: "tokens", "balanced", "gradient", or
                     the visual tokens' share
    """

    name: ClassVar[str] = "qsvd"

    bits: Annotated[float, Field(gt=0.0, le=16.0)] = 3.0
    rank: Annotated[int, Field(ge=1)] | None = None
    factors: Literal["gptq", "trellis", "raw"] = "gptq"
    factor_bits: Annotated[int, Field(ge=1, le=4)] = 4
    whitening: Literal["moment", "diagonal"] = "moment"
    split: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    damping: Damping = 0.01
    modality_weight: Weighting = "tokens"

    @property
    def needs_data(self) -> bool:
        return True

    def quantize_group(
        self, weights: Sequence[Tensor], stats: LinearStats | None
    ) -> tuple[QuantizedWeight, ...]:
        w, exponent = in_range(torch.cat([weight.float() for weight in weights]))
        hessian = moment_of(stats, self.modality_weight)
        if hessian is None:
            hessian = torch.eye(w.shape[1], dtype=torch.float32, device="cpu")
        rows = [len(weight) for weight in weights]
        moment = damped_moment(hessian, self.damping)
        left, right = self._factors(w.double(), moment, self._rank(rows, w.shape[1]))
        stored = self._part(right.float(), moment.float())
        decoded = stored.dequantize().double()
        between = decoded @ moment @ decoded.T
        between.diagonal().add_(RIDGE * between.diagonal().mean().clamp_min(1e-30))
        left = torch.linalg.solve(between, decoded @ moment @ w.double().T).T
        left = left.ldexp(left.new_tensor(exponent)).float()
        return tuple(
            LowrankWeight(self._part(own.contiguous(), between.float()), stored) for own in left.split(rows)
        )

    def _factors(self, w: Tensor, moment: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        if self.whitening == "moment":
            root = torch.linalg.cholesky(moment)
        else:
            root = moment.diagonal().pow(0.25).diag()
        u, s, v = torch.linalg.svd(w @ root, full_matrices=False)
        return split_factors(u, s, v, torch.arange(rank), self.split, root)

    def _part(self, factor: Tensor, moment: Tensor) -> QuantizedWeight:
        """A factor (out, in), quantized under the second moment of its inputs."""
        if self.factors == "raw":
            return RawWeight.of(factor)
        known = LinearStats({"all": moment}, {"all": 1.0})
        return self._method().quantize(factor, known)

    def _method(self) -> GPTQ | Trellis:
        if self.factors == "gptq":
            return GPTQ(bits=self.factor_bits)
        return Trellis(bits=float(self.factor_bits))

    def _bits(self, rows: Sequence[int], columns: int, rank: int) -> float:
        """The most bits that the weights of these rows take at a rank, all of them together."""
        shapes = [(rank, columns), *((own, rank) for own in rows)]
        if self.factors == "raw":
            return 16.0 * sum(one * other for one, other in shapes)
        method = self._method()
        return sum(method.bits_bound(shape) * shape[0] * shape[1] for shape in shapes)

    def _rank(self, rows: Sequence[int], columns: int) -> int:
        """The rank for weights of these rows. InputError if `rank` is larger than all of them together."""
        most = min(sum(rows), columns)
        if self.rank is not None:
            if self.rank > most:
                raise InputError(
                    f"the rank {self.rank} is larger than the weights that share it, {(sum(rows), columns)}:"
                    f" give at most {most}"
                )
            return self.rank
        budget = self.bits * sum(rows) * columns
        return max(1, bisect_right(range(1, most + 1), budget, key=lambda r: self._bits(rows, columns, r)))

    def bits_bound(self, shape: tuple[int, int]) -> float:
        rows, columns = shape
        rank = self._rank([rows], columns)
        return max(
            self._bits([rows], columns, rank) / (rows * columns), self.bits if self.rank is None else 0.0
        )

    def paper_bits(self, quantized: QuantizedWeight) -> float | None:
        return None

    def with_bits(self, bits: float) -> Self:
        return replace(self, bits=bits, rank=None)


def split_factors(
    u: Tensor, s: Tensor, v: Tensor, kept: Tensor, split: float, root: Tensor
) -> tuple[Tensor, Tensor]:
    """A = U Σ^(1-β) and B = Σ^β Vᵀ S⁻¹ for the singular values `kept` (r,), with β the `split`, `v` (n, in)
    the rows of Vᵀ, and S the `root` (in, in).
    """
    s = s[kept]
    right = torch.linalg.solve(root, v[kept] * s.pow(split)[:, None], left=False)
    return u[:, kept] * s.pow(1 - split), right
