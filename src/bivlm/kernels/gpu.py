"""The kernels of CUDA and ROCm devices: Triton's, where it is installed and serves the device, otherwise the
reference kernel. Triton is imported at the first product on such a device, and not before.
"""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from importlib.util import find_spec

import torch

from bivlm.formats.base import PackedTensor
from bivlm.kernels import reference
from bivlm.kernels.base import Product

MODULES = {  # by format: where its `product` is
    "factors": "bivlm.kernels.triton_factors",
    "levels": "bivlm.kernels.triton_levels",
    "planes": "bivlm.kernels.triton_planes",
    "trellis": "bivlm.kernels.triton_trellis",
    "uniform": "bivlm.kernels.triton_uniform",
}
LEAST_CAPABILITY = (8, 0)  # of NVIDIA's devices: the first with bfloat16
INTERPRETER = "TRITON_INTERPRET"  # Triton's own variable: its functions then run on the CPU, in numpy


def product(packed: PackedTensor) -> Product:
    """The fastest product for the device that the weight is on. ValueError for tensors that contradict each
    other.
    """
    why = why_reference(next(iter(packed.tensors.values())).device)
    if why:
        return reference.ReferenceProduct(packed, why)
    return import_module(MODULES[packed.format]).product(packed)


@cache
def why_reference(device: torch.device) -> str:
    """Why packed weights on a device run on the reference kernel; empty if they do not. Environment and
    device are looked at once per process.
    """
    if os.environ.get("BIVLM_KERNEL") == "reference":
        return "BIVLM_KERNEL=reference"
    if device.type != "cuda" and os.environ.get(INTERPRETER) != "1":
        return f"Triton's kernels are for CUDA and ROCm devices, and this is {device.type}"
    if find_spec("triton") is None:
        return "Triton is not installed: pip install 'bivlm[gpu]'"
    try:
        import_module("bivlm.kernels.triton_shared")
    except Exception as error:  # a Triton that does not fit torch, Python or the driver fails in many ways
        said = str(error).strip().partition("\n")[0]
        return f"Triton cannot be imported: {type(error).__name__}: {said}"
    return _why_not_card(device) if device.type == "cuda" else ""


def _why_not_card(device: torch.device) -> str:
    """Why Triton's kernels do not serve a card; empty if they do."""
    if torch.version.hip is not None:
        return ""
    found = torch.cuda.get_device_capability(device)
    if found >= LEAST_CAPABILITY:
        return ""
    least, is_ = (".".join(map(str, capability)) for capability in (LEAST_CAPABILITY, found))
    return f"the card has compute capability {is_} and no bfloat16; the kernels need {least}"
