"""The device on which blocks run and weights are quantized: the CPU, or one CUDA or ROCm card.

On a card are one block at a time, its second moments, and the working memory of its largest linear.
Everything else stays in the CPU's memory, and so do the steps that run the whole model: gradients, the
measurements of a budget, tuning the whole model.
"""

from __future__ import annotations

import torch

from bivlm.calibration.placed import CPU
from bivlm.checkpoint.source import SourceModel
from bivlm.errors import InputError, cut
from bivlm.job.plan import Plan
from bivlm.kernels import gpu

CONTEXT_BYTES = 700 << 20  # what CUDA, its libraries and a sample's activations take
ELSEWHERE = "leave --device out to work on the CPU"


def packing_device(name: str) -> torch.device:
    """The device of a name: cpu, cuda or cuda:N. InputError for any other, and for a card that is not there
    or that Triton's kernels do not serve.
    """
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"the device is {cut(repr(name))}; needs cpu, cuda, or cuda:1 for a second card")
    if device.type == "cpu":
        return CPU
    if device.type == "mps":
        raise InputError(
            "the device is mps, which has no kernel for the search and no float64 for the factors; quantizing"
            f" there would run on the reference: {ELSEWHERE}"
        )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}"
        built = built if torch.version.cuda or torch.version.hip else "the CPU alone"
        raise InputError(
            f"the device is {name}, and no card is found (this torch is built for {built}, and needs a"
            f" driver that runs); {ELSEWHERE}"
        )
    index = device.index or 0
    if index >= count:
        raise InputError(f"the device is {name}; there are {count} cards, from cuda:0 on")
    device = torch.device("cuda", index)
    if why := gpu.why_reference(device):
        raise InputError(f"the device is {name}, and the search cannot run there: {why}; {ELSEWHERE}")
    return device


def check_device(device: torch.device, source: SourceModel, plan: Plan) -> None:
    """InputError if a card cannot do a plan, or has too little free memory for it."""
    if device == CPU:
        return
    if plan.tuning:
        raise InputError(
            f"tuning each block (effort high) works on the CPU alone; choose another effort, or {ELSEWHERE}"
        )
    needed, free = card_bytes(source, plan), torch.cuda.mem_get_info(device)[0]
    if needed > free:
        widest = max((linear.shape[1] for linear in plan.linears if linear.quantizer), default=0)
        raise InputError(
            f"{device} has {free / 1e9:.1f} GB free, and this job needs about {needed / 1e9:.1f} GB there:"
            f" one block and the second moments of its linears, of which the widest has {widest} inputs; free"
            f" some of it, choose another card, or {ELSEWHERE}"
        )


def card_bytes(source: SourceModel, plan: Plan) -> int:
    """The bytes that a job takes on a card: of a block its weights, what they are decoded to, and the second
    moments of its inputs, and of its largest linear the factor and what the search works with.
    """
    most = 0
    for block in plan.blocks:
        weights = sum(source.entries[name].nbytes for name in source.parameter_names(block.path))
        shapes = [linear.shape for linear in block.quantized]
        moments = sum(8 * width * width for width in {width for _, width in shapes})
        working = max((12 * width * width + 16 * rows * width for rows, width in shapes), default=0)
        decoded = sum(4 * rows * width for rows, width in shapes)
        most = max(most, weights + decoded + moments + working)
    return CONTEXT_BYTES + most


def facts(device: torch.device) -> dict[str, str]:
    """What of a card decides the bytes of a result; nothing on the CPU."""
    if device == CPU:
        return {}
    platform = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}"
    return {"device": f"{torch.cuda.get_device_name(device)}, {platform}"}
