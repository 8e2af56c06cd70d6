"""What every quantizer is: a frozen dataclass whose fields are the method's hyper-parameters and whose one method is the algorithm.

A quantizer sees tensors only: a weight (out, in) and, when `needs_data`, what the linear received. It never changes its arguments.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from bivlm.formats.base import QuantizedWeight
from bivlm.types import LinearStats


class Quantizer(ABC):
    """A method with its settings. Subclasses are pydantic dataclasses (frozen, unknown fields forbidden): a wrong value fails at construction."""

    name: ClassVar[str]

    @property
    @abstractmethod
    def needs_data(self) -> bool:
        """Whether `quantize` looks at `stats`; when no linear needs data, calibration is skipped."""

    @abstractmethod
    def quantize(self, weight: Tensor, stats: LinearStats | None) -> QuantizedWeight:
        """Decide how `weight` (out, in), finite, any float dtype, is stored; the same input gives the same bytes.

        Raises ValueError when `needs_data` and `stats` is None.
        """

    @abstractmethod
    def bits_bound(self, shape: tuple[int, int]) -> float:
        """The most true bits per weight that a linear of this shape can take: what the preflight table shows."""

    @abstractmethod
    def paper_bits(self, quantized: QuantizedWeight) -> float | None:
        """Bits per weight as the method's own paper counts them, shown beside the true bits; None if the paper counts as we do."""
