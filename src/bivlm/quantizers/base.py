"""The base class of quantizers: a frozen dataclass whose fields are the method's hyper-parameters. `quantize`
is the algorithm.

A quantizer sees tensors only: a weight (out, in) and, if it `needs_data`, statistics of the linear's inputs.
It never changes its arguments.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, ClassVar, Self

from pydantic import Field
from torch import Tensor

from bivlm.errors import InputError
from bivlm.formats.base import QuantizedWeight
from bivlm.formats.encoding.numbers import exponent_for
from bivlm.types import LinearStats, ModalityWeight

logger = logging.getLogger(__name__)

Damping = Annotated[float, Field(gt=0.0, le=1.0)]
GroupSize = Annotated[int, Field(ge=1)]  # more than a row has means the whole row
GradientPower = Annotated[float, Field(ge=0.0, le=1.0)]
Weighting = Annotated[ModalityWeight, Field(union_mode="left_to_right")]


class Quantizer(ABC):
    """A method with its settings. Subclasses are pydantic dataclasses (frozen, unknown fields forbidden): a
    wrong value fails at construction.

    name             what recipes and tables call the method
    on_cards         whether `quantize` takes tensors on a CUDA or ROCm device, and computes there
    needs_inputs     whether `quantize` looks at `stats.inputs`, some of the linear's inputs
    modality_weight  how text and visual tokens share the statistics; a field if the method has the setting
    gradient_power   a token counts in the statistics by this power of its squared output gradient; 0: every
                     token alike; a field if the method has the setting
    """

    name: ClassVar[str]
    needs_inputs: ClassVar[bool] = False
    on_cards: ClassVar[bool] = False
    modality_weight: ModalityWeight = "tokens"
    gradient_power: float = 0.0

    @property
    @abstractmethod
    def needs_data(self) -> bool:
        """Whether `quantize` looks at `stats`; when no linear needs data, calibration is skipped."""

    @property
    def needs_fisher(self) -> bool:
        """Whether `quantize` looks at `stats.fisher`, the squared gradients of every weight."""
        return False

    @property
    def needs_gradients(self) -> bool:
        """Whether the statistics that `quantize` looks at need a backward pass through the model."""
        weighed = self.modality_weight == "gradient" or self.gradient_power > 0
        return self.needs_data and (weighed or self.needs_fisher)

    @abstractmethod
    def quantize(self, weight: Tensor, stats: LinearStats | None) -> QuantizedWeight:
        """Quantize `weight` (out, in), finite, any float dtype; the same input gives the same bytes.

        Raises ValueError when `needs_data` and `stats` is None.
        """

    @abstractmethod
    def bits_bound(self, shape: tuple[int, int]) -> float:
        """An upper bound of the true bits per weight of a linear of this shape, for the preflight table."""

    @abstractmethod
    def paper_bits(self, quantized: QuantizedWeight) -> float | None:
        """Bits per weight as the method's own paper counts them, shown next to the true bits; None if the
        paper counts as we do.
        """

    def with_bits(self, bits: float) -> Self:
        """The same method with another number of bits per weight, as a budget allocates them.

        Raises InputError for a method that does not work at any number of bits.
        """
        raise InputError(
            f"a budget is dealt out among linears of the quantizer trellis, not {self.name}; choose one of"
            " the trellis presets"
        )


class GroupQuantizer(Quantizer):
    """A method that quantizes weights with the same input together: q, k and v; gate and up.

    A job gives it all linears of a block that receive the very same tensor and have this quantizer, in the
    order of the block.
    """

    @abstractmethod
    def quantize_group(
        self, weights: Sequence[Tensor], stats: LinearStats | None
    ) -> tuple[QuantizedWeight, ...]:
        """Quantize `weights`, each (out, in), of linears with one input: as many quantized weights, in their
        order. Raises ValueError as `quantize` does.
        """

    def quantize(self, weight: Tensor, stats: LinearStats | None) -> QuantizedWeight:
        return self.quantize_group([weight], stats)[0]


def in_range(weight: Tensor) -> tuple[Tensor, int]:
    """The weight / 2^e as float32 (out, in), and e; e is 0 for weights of ordinary size. Raises ValueError
    for NaN and infinity.
    """
    w = weight.detach().float()
    if not bool(w.isfinite().all()):
        raise ValueError("the weight holds NaN or infinity")
    exponent = exponent_for(w)
    return (w.ldexp(w.new_tensor(-exponent)) if exponent else w), exponent


def moment_of(stats: LinearStats | None, modality_weight: ModalityWeight) -> Tensor | None:
    """The second moment (in, in) that a method calibrates with; None, with a warning, if every input is zero.

    Raises ValueError when there are no statistics.
    """
    if stats is None:
        raise ValueError("this method needs calibration statistics and got none")
    hessian = stats.second_moment(modality_weight)
    if bool((hessian.diagonal() != 0).any()):
        return hessian
    logger.warning("a linear with %d inputs receives zeros only: it is quantized without data", len(hessian))
    return None
