"""What every storage format offers: a decision about a weight (`QuantizedWeight`) and the tensors that stand
for it in a file (`PackedTensor`).

    quantizer ─► QuantizedWeight ─ encode() ─► PackedTensor ─► file
                       ▲                           │
                       └───────── decode() ◄───────┘

`decode(encode(q)) == q`, exactly. The bits of a weight are those of its packed tensors: everything that is
needed to decode is in them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self, cast

from torch import Tensor

from bivlm.formats.encoding.checks import blaming, same_bits


@dataclass(frozen=True)
class PackedTensor:
    """A weight as it lies in a file: named tensors, the shape that they stand for, and the format's own
    settings.

    `tensors` have the names that follow the linear's own name in the checkpoint ("….q_proj.codes");
    `settings` are the few numbers that tell how to read them (alphabet, group size…): JSON values, kept in
    `config.json`.
    """

    format: str
    shape: tuple[int, int]  # (out, in)
    tensors: Mapping[str, Tensor]
    settings: Mapping[str, int | float | bool | str] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    def bits_per_weight(self) -> float:
        """Stored bits over weights: scales, tables, positions, padding, everything counted."""
        rows, columns = self.shape
        return 8 * self.nbytes / (rows * columns)


class QuantizedWeight(ABC):
    """What a quantizer decided about one weight. Subclasses are frozen dataclasses (eq=False: equality is
    here), checked when they are made: ValueError, naming format and field, for what the format cannot hold.
    """

    format: ClassVar[str]

    def __post_init__(self) -> None:
        with blaming(self.format):
            self.check()

    def __eq__(self, other: object) -> bool:
        """The same bits in every field (so -0.0 is not 0.0)."""
        if not isinstance(other, type(self)):
            return NotImplemented
        names = [field.name for field in fields(cast(Any, self))]
        return all(same_bits(getattr(self, name), getattr(other, name)) for name in names)

    @abstractmethod
    def check(self) -> None:
        """Raises ValueError, naming the field, where the fields contradict each other or the format."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(out, in) of the weight that this stands for."""

    @abstractmethod
    def dequantize(self) -> Tensor:
        """The weight as the model computes with it: (out, in) float32."""

    @abstractmethod
    def encode(self) -> PackedTensor:
        """The tensors that go into the file."""

    @classmethod
    @abstractmethod
    def decode(cls, packed: PackedTensor) -> Self:
        """The inverse of `encode`, exactly. Raises ValueError when the tensors contradict the settings or the
        shape.
        """

    @classmethod
    def unpack_rows(cls, packed: PackedTensor, index: Tensor) -> Tensor:
        """Some rows of `decode(packed).dequantize()`: `index` (n,) int64, the result (n, in) float32, the
        same but for the rounding of sums.

        Formats whose rows can be read alone do better than this, which unpacks all of them.
        """
        return cls.decode(packed).dequantize()[index]
