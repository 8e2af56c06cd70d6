"""Which kernel serves a format on a device. Pairs that are not listed run on the reference kernel."""

from __future__ import annotations

from bivlm.formats import format_named
from bivlm.kernels import codes, trellis
from bivlm.kernels.base import Kernel
from bivlm.kernels.reference import ReferenceProduct

KERNELS: dict[tuple[str, str], Kernel] = {
    ("factors", "cpu"): codes.product,
    ("levels", "cpu"): codes.product,
    ("planes", "cpu"): codes.product,
    ("trellis", "cpu"): trellis.product,
    ("uniform", "cpu"): codes.product,
}


def kernel_for(format_: str, device: str) -> Kernel:
    """The kernel of a format on a type of device ("cpu", "cuda", …); the reference if none is listed.
    ValueError for a format that there is not.
    """
    format_named(format_)
    return KERNELS.get((format_, device), ReferenceProduct)
