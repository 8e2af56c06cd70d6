"""Which kernel serves a format on a device. Pairs that are not listed run on the reference kernel."""

from __future__ import annotations

from bivlm.formats import format_named
from bivlm.formats.base import PackedTensor
from bivlm.kernels import codes, gpu, trellis
from bivlm.kernels.base import Kernel, Product
from bivlm.kernels.lowrank import LowrankProduct
from bivlm.kernels.raw import RawProduct
from bivlm.kernels.reference import ReferenceProduct
from bivlm.kernels.rows import RowsProduct


def _rows(packed: PackedTensor) -> Product:
    return RowsProduct(packed, _product_of)


def _lowrank(packed: PackedTensor) -> Product:
    return LowrankProduct(packed, _product_of)


def _product_of(part: PackedTensor) -> Product:
    """The product of a part of a container, on the device where it is."""
    return kernel_for(part.format, next(iter(part.tensors.values())).device.type)(part)


KERNELS: dict[tuple[str, str], Kernel] = {
    ("factors", "cpu"): codes.product,
    ("factors", "cuda"): gpu.product,
    ("levels", "cpu"): codes.product,
    ("levels", "cuda"): gpu.product,
    ("lowrank", "cpu"): _lowrank,
    ("lowrank", "cuda"): _lowrank,
    ("planes", "cpu"): codes.product,
    ("planes", "cuda"): gpu.product,
    ("raw", "cpu"): RawProduct,
    ("raw", "cuda"): RawProduct,
    ("rows", "cpu"): _rows,
    ("rows", "cuda"): _rows,
    ("trellis", "cpu"): trellis.product,
    ("trellis", "cuda"): gpu.product,
    ("uniform", "cpu"): codes.product,
    ("uniform", "cuda"): gpu.product,
}


def kernel_for(format_: str, device: str) -> Kernel:
    """The kernel of a format on a type of device ("cpu", "cuda" for CUDA and ROCm, …); the reference if none
    is listed. ValueError for a format that there is not.
    """
    format_named(format_)
    return KERNELS.get((format_, device), ReferenceProduct)
