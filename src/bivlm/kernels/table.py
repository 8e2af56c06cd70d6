"""Which kernel serves a format on a device. Pairs that are not listed run on the reference kernel."""

from __future__ import annotations

from bivlm.formats import format_named
from bivlm.kernels import codes, gpu, trellis
from bivlm.kernels.base import Kernel
from bivlm.kernels.reference import ReferenceProduct

KERNELS: dict[tuple[str, str], Kernel] = {
    ("factors", "cpu"): codes.product,
    ("factors", "cuda"): gpu.product,
    ("levels", "cpu"): codes.product,
    ("levels", "cuda"): gpu.product,
    ("planes", "cpu"): codes.product,
    ("planes", "cuda"): gpu.product,
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
