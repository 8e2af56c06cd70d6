"""What must hold for every packed weight, however broken: all readers refuse it with a ValueError, or all
take it and agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bivlm.formats import PackedTensor, PlanesWeight, UniformWeight, format_named
from bivlm.formats.checks import CHECKS, check_packed
from bivlm.formats.lowrank import factors_of
from bivlm.formats.rows import classes_of, row_classes_of
from bivlm.kernels.codes import FactorsProduct
from bivlm.kernels.lowrank import LowrankProduct
from bivlm.kernels.native_product import FewTokens, NativeProduct
from bivlm.kernels.rows import RowsProduct
from bivlm.kernels.table import kernel_for

# Errors of a product relative to ‖x‖ times `_norms`: float32 sums; inputs rounded to eight bits in blocks of
# 128 (√128 / 254, in two products in sequence twice that); inputs, weights, results rounded to bfloat16
FLOAT, INT8, BFLOAT16 = 1e-5, 0.1, 2.0**-6
SMALLEST = 1e-36  # below it, products lose bits
LARGEST = 1e37  # above it, sums may overflow
INPUTS = (
    (1, torch.float32, False),
    (3, torch.bfloat16, False),
    (2, torch.bfloat16, True),
    (5, torch.float32, True),
)


class Fault(AssertionError):
    """A rule is broken."""


def verdict(packed: PackedTensor, seed: int = 0) -> str:
    """The word "refused" or "accepted"; Fault if the readers disagree, or one raises anything but
    ValueError.
    """
    weight = _answer("decode", lambda: format_named(packed.format).decode(packed).dequantize())
    checked = _answer("check_packed", lambda: format_named(packed.format).check_packed(packed) or "fine")
    if (arrays := _in_numpy(packed)) is not None:  # as `bivlm verify` reads a file
        again = _answer("check_packed", lambda: check_packed(arrays, packed.format) or "fine")
        _require(str(again) == str(checked), f"arrays: {again}; tensors: {checked}")
    rows = _answer("unpack_rows", lambda: _rows(packed))
    products = _answer("the kernel", lambda: _products(packed, seed))
    if isinstance(weight, ValueError):
        _require(isinstance(checked, ValueError), f"check_packed accepts what decode refuses: {weight}")
        _require(isinstance(products, ValueError), f"the kernel accepts what decode refuses: {weight}")
        return "refused"
    for name, answer in (("check_packed", checked), ("unpack_rows", rows), ("the kernel", products)):
        _require(not isinstance(answer, ValueError), f"{name} refuses what decode accepts: {answer}")
    norms = _norms(packed, weight)
    _require(bool(weight.isfinite().all()), "decode gives a weight that is not finite")
    _compare("unpack_rows", rows - weight[[0, -1]], FLOAT * norms[[0, -1], None] + 1e-30)
    for x, y, bound in products:
        size = x.norm(dim=1, keepdim=True) * norms
        error = torch.where(size < LARGEST, y - x @ weight.double().T, 0.0)
        _compare("the kernel", error, bound * size + SMALLEST)
    return "accepted"


def _in_numpy(packed: PackedTensor) -> PackedTensor | None:
    """The same weight with arrays; None where numpy has no such tensor, and for a format that is none."""
    tensors = packed.tensors.values()
    plain = all(isinstance(one, Tensor) and one.is_cpu and one.layout is torch.strided for one in tensors)
    if (
        not plain
        or any(one.dtype == torch.bfloat16 for one in tensors)
        or not (isinstance(packed.format, str) and packed.format in CHECKS)
    ):
        return None
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in packed.tensors.items()}
    return replace(packed, tensors=arrays)


def _answer(name: str, call: Callable[[], Any]) -> Any:
    """The result of a call, or the ValueError that it raises."""
    try:
        return call()
    except ValueError as error:
        return error
    except Exception as error:
        raise Fault(f"{name} raises {type(error).__name__}: {error}") from error


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise Fault(message)


def _compare(name: str, error: Tensor, most: Tensor) -> None:
    """Fault unless every error is a number and at most as large as it may be."""
    excess = (error.abs() / most).nan_to_num(torch.inf)
    _require(float(excess.max()) <= 1.0, f"{name} is {float(excess.max()):.3g} times as wrong as it may be")


def _rows(packed: PackedTensor) -> Tensor:
    rows = packed.shape[0] if isinstance(packed.shape, tuple | list) and packed.shape else 0
    index = [0, rows - 1] if type(rows) is int and 0 < rows < 1 << 40 else [0, 0]
    return format_named(packed.format).unpack_rows(packed, torch.tensor(index))


def _products(packed: PackedTensor, seed: int) -> list[tuple[Tensor, Tensor, float]]:
    """Inputs, outputs and the error that these may have; every other seed as if the tokens were many."""
    product: Any = kernel_for(packed.format, "cpu")(packed)
    if seed % 2:
        for part in _native(product):
            part.few = FewTokens(0, 0, 0)
    generator, found = torch.Generator().manual_seed(3), []
    for tokens, dtype, int8 in INPUTS:
        x = torch.randn(tokens, packed.shape[1], generator=generator).to(dtype)
        y = product(x, None, int8)
        _require(
            y.shape == (tokens, packed.shape[0]) and y.dtype == dtype, f"the result is {y.dtype} {y.shape}"
        )
        bound = INT8 if int8 else FLOAT if dtype == torch.float32 else BFLOAT16
        found.append((x.double(), y.double(), bound))
    return found


def _native(product: Any) -> list[NativeProduct]:
    """The library's products that a product is made of."""
    if isinstance(product, RowsProduct):
        return [native for _, part in product.parts for native in _native(part)]
    if isinstance(product, LowrankProduct):
        return [*_native(product.left), *_native(product.right)]
    if isinstance(product, FactorsProduct):
        return [product.left, product.right]
    return [product] if isinstance(product, NativeProduct) else []


def _norms_of_product(packed: PackedTensor) -> Tensor:
    """`_norms` of two factors: what either of them may be wrong by, times the other."""
    parts = list(factors_of(packed).values())
    left, right = (format_named(part.format).decode(part).dequantize() for part in parts)
    own, other = _norms(parts[0], left), _norms(parts[1], right)
    between = right.double().norm(dim=1).maximum(other)
    return own * between.max() * 2 + left.double().abs() @ other


def _norms(packed: PackedTensor, weight: Tensor) -> Tensor:
    """What the errors of each row are measured by, (out,) float64: √in times the largest number that a
    product may add up there. That may be larger than its largest weight, where sums cancel.
    """
    tensors, columns = packed.tensors, weight.shape[1]
    if packed.format == "rows":
        norms = torch.zeros(len(weight), dtype=torch.float64)
        for place, part in enumerate(classes_of(packed).values()):
            mine = row_classes_of(packed) == place
            norms[mine] = 0.0 if part is None else _norms(part, weight[mine])
        return norms
    if packed.format == "lowrank":
        return _norms_of_product(packed)
    largest = weight.double().abs().amax(1)
    if packed.format == "factors":
        row, middle, column = (
            tensors[f"{name}_scale"].double().abs() for name in ("row", "middle", "column")
        )
        largest = row * 2.0 ** int(packed.settings["exponent"]) * column.max()
        largest *= middle.norm() * len(middle) ** 0.5
    elif packed.format == "levels":
        largest = largest.maximum(tensors["levels"].double().abs().amax((1, 2)) * tensors["scale"].double())
    elif packed.format == "uniform":
        decoded = UniformWeight.decode(packed)
        scales = decoded.scales.expand().double().amax((1, 2)) * 2.0**decoded.exponent
        if decoded.column_scale.numel():
            scales = scales * decoded.column_scale.double().max()
        zero = decoded.zero_points.double().abs()
        largest = scales * (decoded.alphabet + (zero.max() if zero.numel() else 0.0))
    elif packed.format == "planes" and packed.settings["column_scales"]:
        planes = PlanesWeight.decode(packed)
        scales = (
            planes.scales.expand().double().abs().amax((1, 2)) * planes.column_scales.double().abs().max()
        )
        means = 0.0 if planes.means is None else planes.means.expand().double().abs().amax((1, 2))
        largest = largest.maximum((2 * scales + means) * 2.0**planes.exponent)
    return largest * columns**0.5
