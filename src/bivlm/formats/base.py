"""What every storage format offers: a quantized weight (`QuantizedWeight`) and the tensors that store it in a
file (`PackedTensor`).

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
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from bivlm.errors import InputError
from bivlm.formats.encoding.checks import blaming, same_bits

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PackedTensor:
    """A weight as it is stored in a file: named tensors, the shape of the weight, and the format's own
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
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def bits_per_weight(self) -> float:
        """Stored bits over weights: scales, tables, positions, padding, everything counted."""
        rows, columns = self.shape
        return 8 * self.nbytes / (rows * columns)


class QuantizedWeight(ABC):
    """The result of a quantizer for one weight. Subclasses are frozen dataclasses (eq=False: equality is
    defined here). They are checked when they are made: ValueError, naming format and field, for a weight
    that the format cannot hold.
    """

    format: ClassVar[str]
    row_step: ClassVar[int] = 1  # weights that can be cut into rows are cut at its multiples

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
        """Raises ValueError, naming the field, if the fields contradict each other or the format."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(out, in) of the weight."""

    @abstractmethod
    def dequantize(self) -> Tensor:
        """The weight as the model computes with it: (out, in) float32."""

    @abstractmethod
    def encode(self) -> PackedTensor:
        """The tensors that go into the file."""

    @classmethod
    @abstractmethod
    def decode(cls, packed: PackedTensor) -> Self:
        """The inverse of `encode`, exactly. Raises ValueError for anything that `encode` cannot have written:
        settings, shapes, and every rule of docs/format.md for the bytes.
        """

    @classmethod
    def check_packed(cls, packed: PackedTensor) -> None:
        """Raises ValueError exactly when `decode` does, without expanding the weight.

        Every reader of packed bytes goes through it, so all of them refuse the same. It takes at most a block
        of rows at a time.
        """
        from bivlm.formats.checks import check_packed  # whose rules are about what is declared here

        check_packed(packed, cls.format)

    def slice_rows(self, start: int, stop: int) -> Self:
        """The rows start … stop - 1 as a weight of their own: its `dequantize` gives these rows, up to the
        rounding of sums. InputError where this weight cannot be cut.

        A format that can be cut overrides it.
        """
        raise InputError(f"a weight in {self.format} cannot be cut into rows")

    def slice_columns(self, start: int, stop: int) -> Self:
        """The columns start … stop - 1 as a weight of their own, for these inputs alone: the outputs of all
        slices add up to those of the whole weight. InputError where this weight cannot be cut.

        A format that can be cut overrides it.
        """
        raise InputError(f"a weight in {self.format} cannot be cut into columns")

    @classmethod
    def unpack_rows(cls, packed: PackedTensor, index: Tensor) -> Tensor:
        """Some rows of `decode(packed).dequantize()`: `index` (n,) int64, the result (n, in) float32, equal
        up to the rounding of sums. Raises ValueError as `decode` does, or only for what these rows are read
        from.

        This unpacks all rows. Formats whose rows can be read alone override it.
        """
        return cls.decode(packed).dequantize()[index]
