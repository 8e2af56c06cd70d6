"""Makes plain `AutoModelForImageTextToText.from_pretrained` understand bivlm checkpoints without `import
bivlm`.

transformers has no entry point for quantization methods: a checkpoint whose method it does not know gets a
warning and random weights. torch does have one (group `torch.backends`, run at the end of `import torch`),
and `init` uses it to wait for transformers' quantizers to be imported; bivlm itself is imported only when a
bivlm checkpoint is opened. `TORCH_DEVICE_BACKEND_AUTOLOAD=0` switches all such entry points off.

It stands outside the package, imports nothing heavy and never raises: an error here would break `import
torch`.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

TARGET = "transformers.quantizers.auto"


class _WaitForTransformers(importlib.abc.MetaPathFinder):
    """Watches for the import of transformers' quantizer table, once."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != TARGET:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_teach(module: ModuleType) -> None:
            execute(module)
            _teach(module)

        spec.loader.exec_module = execute_and_teach
        return spec


def _teach(auto: Any) -> None:
    """Have the table import bivlm (which registers itself) when it is first asked for the method "bivlm"."""
    known = auto.AutoHfQuantizer.supports_quant_method

    def supports_quant_method(quantization_config: Any) -> bool:
        if isinstance(quantization_config, dict) and quantization_config.get("quant_method") == "bivlm":
            import bivlm.packed.hf  # noqa: F401 - the import registers
        return known(quantization_config)

    auto.AutoHfQuantizer.supports_quant_method = staticmethod(supports_quant_method)


def init() -> None:
    """Called by torch, and by `import bivlm`; the second call changes nothing."""
    if any(isinstance(finder, _WaitForTransformers) for finder in sys.meta_path):
        return
    module = sys.modules.get(TARGET)
    if module is None:
        sys.meta_path.insert(0, _WaitForTransformers())
    elif module.AutoHfQuantizer.supports_quant_method.__module__ != __name__:
        _teach(module)
