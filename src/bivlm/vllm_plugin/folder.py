"""The `quantization_config` of a packed folder as vLLM hands it over: what is packed, or why vLLM cannot
serve it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from bivlm.checkpoint.groups import layer_of_experts
from bivlm.checkpoint.modules import ModuleSpec, experts_are_split, keys_are_names, read_modules
from bivlm.errors import InputError

logger = logging.getLogger(__name__)


def packed_modules(quantization: Mapping[str, Any]) -> dict[str, ModuleSpec]:
    """The packed modules by their names in transformers' model.

    Raises InputError for packed experts, and for everything that `read_modules` refuses. A pruning that the
    folder has by default is told as a warning: vLLM reads every visual token.
    """
    modules = read_modules(quantization)
    keys_are_names(quantization)
    packed = next((name for name in modules if layer_of_experts(name) is not None), None)
    if packed is not None or experts_are_split(quantization):
        raise InputError(
            "the experts of this folder are packed, and the vLLM plug-in has no kernel for packed experts;"
            " serve it with `bivlm serve`"
        )
    if quantization.get("pruning") is not None:
        logger.warning(
            "this folder prunes visual tokens by default; vLLM does not: every visual token is read"
        )
    return modules
