"""The kinds of checkpoints that are told apart, in the order in which they are tried; a file for each.

A kind gets the tensors that no earlier kind has taken. What none takes is counted as it stands: one weight
for each element of a float.
"""

from __future__ import annotations

from bivlm.recount.kinds import (
    additive,
    awq,
    bitsandbytes,
    bivlm,
    compressed_tensors,
    eight_bit,
    exllama,
    gguf,
    gptq,
    hqq,
    microscaled,
    mlx,
    ternary,
    torchao,
)
from bivlm.recount.kinds.base import Kind

KINDS: dict[str, Kind] = {
    "gguf": gguf.take,
    "bivlm": bivlm.take,
    "torchao": torchao.take,
    "hqq": hqq.take,
    "exllama": exllama.take,
    "compressed-tensors": compressed_tensors.take,
    "gptq": gptq.take,
    "awq": awq.take,
    "bitsandbytes": bitsandbytes.take,
    "aqlm": additive.take,
    "mlx": mlx.take,
    "bitnet": ternary.take,
    "microscaled": microscaled.take,
    "eight-bit": eight_bit.take,
}
