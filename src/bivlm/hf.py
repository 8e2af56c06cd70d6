# pyright: reportAttributeAccessIssue=false
# (transformers types quant_method as a closed enumeration, and a quantizer's config as its base class)
"""The only file that touches transformers' quantizer registration: importing it teaches `from_pretrained` to read bivlm checkpoints.

Before the weights are loaded every packed linear of the checkpoint is put in its place with buffers of the stored shapes, so that loading is a
plain copy; and the files are checked against the checksums of the index, so that a damaged one is an error instead of a model that talks nonsense.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from bivlm.checkpoint.job import FORMAT_VERSION
from bivlm.checkpoint.verify import verify_shards
from bivlm.errors import InputError
from bivlm.formats import FORMATS, PackedTensor
from bivlm.kernels.linear import PackedLinear, packed_linears, replace_linear
from bivlm.pruning.apply import prune

logger = logging.getLogger(__name__)


@register_quantization_config("bivlm")
class BivlmConfig(QuantizationConfigMixin):
    """The `quantization_config` of config.json. `modules` tells, for each packed linear, its format, shape, settings and stored tensors."""

    def __init__(self, modules: Mapping[str, Any] | None = None, format_version: int = FORMAT_VERSION, **details: Any) -> None:
        details.pop("quant_method", None)
        self.quant_method = "bivlm"
        self.format_version = format_version
        self.modules = dict(modules or {})
        self.details = details  # recipe, source, calibration, pruning…: kept as they are when the model is saved again

    def to_dict(self) -> dict[str, Any]:
        return {"quant_method": self.quant_method, "format_version": self.format_version, "modules": self.modules, **self.details}


@register_quantizer("bivlm")
class BivlmHfQuantizer(HfQuantizer):
    """Puts packed linears where config.json says, and nothing else: quantizing while loading is not offered."""

    requires_calibration = True  # from_pretrained(full_precision_folder, quantization_config=…) is refused by transformers

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        version = self.quantization_config.format_version
        if version > FORMAT_VERSION:
            raise InputError(f"this checkpoint has format version {version}, and this bivlm reads up to {FORMAT_VERSION}: pip install -U bivlm")
        unknown = {spec["format"] for spec in self.quantization_config.modules.values()} - set(FORMATS)
        if unknown:
            raise InputError(f"this checkpoint uses the format {sorted(unknown)[0]!r}, which this bivlm does not know: pip install -U bivlm")

    def _process_model_before_weight_loading(self, model: nn.Module, checkpoint_files: Sequence[str] | None = None, **kwargs: Any) -> nn.Module:
        if checkpoint_files:
            verify_shards([Path(file) for file in checkpoint_files])
        for name, spec in resolve_modules(model, self.quantization_config.modules):
            replace_linear(model, name, empty_packed(spec))
        return model

    def _process_model_after_weight_loading(self, model: nn.Module, **kwargs: Any) -> nn.Module:
        for name, linear in packed_linears(model).items():
            absent = [part for part in linear.tensor_names if getattr(linear, part).is_meta]
            if absent:
                raise InputError(f"the checkpoint lacks {name}.{absent[0]}; it is incomplete: quantize the model again")
        pruning = self.quantization_config.details.get("pruning")
        if pruning is not None and model.base_model is not model:  # a bare base model has no prompt to prune
            prune(model, pruning)
        return model

    def _dequantize(self, model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
        for name, packed in packed_linears(model).items():
            linear = nn.Linear(packed.in_features, packed.out_features, packed.bias is not None, device="meta")
            weight = FORMATS[packed.format].decode(packed.packed).dequantize().to(dtype or packed.compute_dtype)
            linear.weight = nn.Parameter(weight, requires_grad=False)
            if packed.bias is not None:
                linear.bias = packed.bias
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, linear)
        return model

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False


def empty_packed(spec: Mapping[str, Any]) -> PackedTensor:
    """A packed weight of the shapes that config.json gives, on the meta device."""
    tensors = {name: torch.empty(shape, dtype=getattr(torch, dtype), device="meta") for name, (dtype, shape) in spec["tensors"].items()}
    return PackedTensor(spec["format"], tuple(spec["shape"]), tensors, spec["settings"])


def resolve_modules(model: nn.Module, modules: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The packed linears' names in `model`, which may be the base model or sit inside a larger one: by the longest unambiguous suffix.

    Raises InputError when a recorded linear is not in the model, or when several could be meant: a silent skip would leave random weights.
    """
    linears = {name for name, module in model.named_modules() if isinstance(module, nn.Linear) and not isinstance(module, PackedLinear)}
    for recorded, spec in modules.items():
        if recorded in linears:
            yield recorded, spec
            continue
        words = recorded.split(".")
        for start in range(1, len(words)):
            tail = ".".join(words[start:])
            found = [name for name in linears if name == tail or name.endswith("." + tail)]
            if len(found) == 1:
                yield found[0], spec
                break
            if found:
                raise InputError(f"the packed linear {recorded} could be any of {', '.join(sorted(found)[:3])} in {type(model).__name__}")
        else:
            raise InputError(f"the packed linear {recorded} is not in {type(model).__name__}: config.json and the weights do not belong together")
