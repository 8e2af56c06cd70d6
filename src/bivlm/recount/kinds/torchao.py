"""torchao, in safetensors: a tensor subclass is taken apart into `module._weight_qdata`,
`module._weight_scale` and so on, and the header's metadata has its class and settings under `module.weight`.

Source: torchao 0.18, torchao/prototype/safetensors/safetensors_support.py, and the classes in
torchao/quantization/quantize_/workflows.
"""

from __future__ import annotations

import json
from math import prod
from typing import Any

from bivlm.recount.kinds.base import Layout, Misfit, Module, Unpacked, by_layout

QDATA = "._weight_qdata"
# weights for each byte of qdata, of the classes that do not store the shape
PER_BYTE = {
    **{"Int8Tensor": 1, "IntxUnpackedToInt8Tensor": 1, "Float8Tensor": 1, "NVFP4Tensor": 2},
    **{"Int4Tensor": 2, "Int4TilePackedTo4dTensor": 2, "Int4PlainInt32Tensor": 2},
}


def _any(module: Module) -> bool:
    return True


def _unpack(module: Module) -> Unpacked:
    said = _described(module)
    kind, data = said.get("_type"), said.get("_data")
    shape = data.get("shape") if isinstance(data, dict) else None
    nbytes = module.tensors[QDATA].nbytes
    if isinstance(shape, list) and shape and all(type(size) is int and size > 0 for size in shape):
        return Unpacked(prod(shape), 8 * nbytes / prod(shape))
    if kind == "MXTensor":
        packed = "float4" in json.dumps(data)
        return Unpacked(nbytes * (2 if packed else 1), 4 if packed else 8)
    if kind not in PER_BYTE:
        raise Misfit(f"the header names the class {str(kind)[:40]}, whose codes are not known here")
    return Unpacked(nbytes * PER_BYTE[kind], 8 / PER_BYTE[kind])


def _described(module: Module) -> dict[str, Any]:
    """What the header's metadata says of the module's weight."""
    try:
        said = json.loads(module.settings.metadata[f"{module.name}.weight"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise Misfit("the header's metadata do not name the class of its weight") from error
    return said if isinstance(said, dict) else {}


take = by_layout(Layout("torchao", (QDATA,), ("._weight_*",), _any, _unpack))
