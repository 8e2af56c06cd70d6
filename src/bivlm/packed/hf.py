# pyright: reportAttributeAccessIssue=false
# (transformers types quant_method as a closed enumeration, and a quantizer's config as its base class)
"""The only file that uses transformers' quantizer registration: after its import `from_pretrained` reads
bivlm checkpoints.

Before the weights are loaded, every packed module of the checkpoint is put in its place with buffers of the
stored shapes, so loading is a plain copy. The files are also checked against the checksums of the index, so a
damaged file is an error and not a model with wrong answers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from bivlm.checkpoint.modules import (
    FORMAT_VERSION,
    ModuleSpec,
    experts_are_split,
    keys_are_names,
    read_modules,
)
from bivlm.checkpoint.seal import read_seal
from bivlm.checkpoint.shards import read_entries
from bivlm.checkpoint.verify import verify_modules, verify_packed, verify_shards
from bivlm.errors import InputError
from bivlm.families.experts import fuse_experts, split_experts
from bivlm.families.linears import is_linear
from bivlm.formats import FORMATS, PackedTensor
from bivlm.packed.embedding import PackedEmbedding, TiedHead, replace_embedding
from bivlm.packed.experts import compute_together
from bivlm.packed.linear import PackedLinear, replace_linear
from bivlm.packed.module import PackedModule, packed_modules
from bivlm.pruning.apply import prune

logger = logging.getLogger(__name__)


@register_quantization_config("bivlm")
class BivlmConfig(QuantizationConfigMixin):
    """The `quantization_config` of config.json. `modules` has, for each packed module, its format, shape,
    settings and stored tensors.

    The token embedding has `"kind": "embedding"`, and `"head"` names the language head if it shares the
    weight. A language head with its own packed weight has `"kind": "head"`. All others are linears of the
    blocks.
    """

    def __init__(
        self, modules: Mapping[str, Any] | None = None, format_version: int = FORMAT_VERSION, **details: Any
    ) -> None:
        details.pop("quant_method", None)
        self.quant_method = "bivlm"
        self.format_version = format_version
        self.modules = dict(modules or {})
        self.details = (
            details  # recipe, source, calibration, pruning…: kept unchanged when the model is saved again
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "quant_method": self.quant_method,
            "format_version": self.format_version,
            "modules": self.modules,
            **self.details,
        }


@register_quantizer("bivlm")
class BivlmHfQuantizer(HfQuantizer):
    """Replaces the modules that config.json names by packed modules. It does not quantize while loading."""

    requires_calibration = (
        True  # from_pretrained(full_precision_folder, quantization_config=…) is refused by transformers
    )
    _is_checked = False
    _shared: Mapping[str, Mapping[str, str]] = {}

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        read_modules(self.quantization_config.to_dict())

    def update_weight_conversions(self, weight_conversions: list[Any], model: PreTrainedModel) -> list[Any]:
        """What transformers renames and converts while loading: nothing where the tensors have the names of
        the model already, which its rules are not made for.
        """
        if keys_are_names(self.quantization_config.to_dict()):
            return []
        return super().update_weight_conversions(weight_conversions, model)

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, checkpoint_files: Sequence[str] | None = None, **kwargs: Any
    ) -> PreTrainedModel:
        modules = read_modules(self.quantization_config.to_dict())
        if checkpoint_files:
            shards = [Path(file) for file in checkpoint_files]
            verify_shards(shards)
            folder = shards[0].parent
            entries = read_entries(shards)
            verify_modules(folder, modules, read_seal(folder), entries)
            verify_packed(folder, modules, entries)
            self._is_checked = True
        if experts_are_split(self.quantization_config.to_dict()):
            split_experts(model)
        self._shared = put_modules(model, modules)
        share_tensors(model, self._shared)
        compute_together(model)
        return model

    def _process_model_after_weight_loading(self, model: nn.Module, **kwargs: Any) -> nn.Module:
        share_tensors(model, self._shared)
        for name, module in packed_modules(model).items():
            absent = [part for part in module.tensor_names if getattr(module, part).is_meta]
            if absent:
                raise InputError(
                    f"the checkpoint lacks {name}.{absent[0]}; it is incomplete: quantize the model again"
                )
            if self._is_checked:  # in the files: here it would bring all of it into memory
                continue
            try:
                FORMATS[module.format].check_packed(module.packed)
            except ValueError as error:
                raise InputError(f"the packed weight {name} is damaged: {error}") from error
        pruning = self.quantization_config.details.get("pruning")
        if pruning is not None and model.base_model is not model:  # a bare base model has no prompt to prune
            prune(model, pruning)
        return model

    def _dequantize(self, model: PreTrainedModel, dtype: torch.dtype | str | None = None) -> PreTrainedModel:
        if isinstance(dtype, str):  # transformers writes it so into the config of a saved model
            dtype = getattr(torch, dtype)
        heads = {name: module for name, module in model.named_modules() if isinstance(module, TiedHead)}
        for name, module in packed_modules(model).items():
            weight = nn.Parameter(module.dequantize().to(dtype or module.compute_dtype), requires_grad=False)
            if isinstance(module, PackedLinear):
                model.set_submodule(name, plain_linear(weight, module.bias))
            elif isinstance(module, PackedEmbedding):
                model.set_submodule(name, module.plain(weight))
                for place, head in heads.items():
                    if head.embedding is module:
                        model.set_submodule(place, plain_linear(weight, head.bias))
                        tie_again(model)
        fuse_experts(model)
        return model

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False


def put_modules(model: PreTrainedModel, modules: Mapping[str, ModuleSpec]) -> dict[str, dict[str, str]]:
    """Put every packed module in its place, with empty tensors. Returns, by the modules' names in `model`,
    which of their tensors lie with another module, and with which.

    InputError as `resolve_modules` raises it, and for a tensor that lies with no packed linear.
    """
    resolved = list(resolve_modules(model, modules))
    for name, spec in resolved:
        if spec.kind == "embedding":
            put_embedding(model, name, spec)
        else:
            replace_linear(model, name, empty_packed(spec))
    owners = {
        spec.key + tensor: name for name, spec in resolved for tensor in {*spec.tensors} - {*spec.shared}
    }
    found: dict[str, dict[str, str]] = {}
    for name, spec in resolved:
        for tensor, key in spec.shared.items():
            if key not in owners or not key.endswith(f".{tensor}"):
                raise InputError(
                    f"the module {name}: its tensor {tensor} should be {key}, which no packed linear has"
                )
            found.setdefault(name, {})[tensor] = owners[key]
    return found


def share_tensors(model: nn.Module, shared: Mapping[str, Mapping[str, str]]) -> None:
    """Give every module the tensors that lie with another one, as `put_modules` returns them."""
    for name, tensors in shared.items():
        module = model.get_submodule(name)
        for tensor, owner in tensors.items():
            other = model.get_submodule(owner)
            assert isinstance(module, PackedModule), name
            assert isinstance(other, PackedModule), owner
            module.share(tensor, other)


def empty_packed(spec: ModuleSpec) -> PackedTensor:
    """A packed weight of the shapes that config.json gives, on the meta device."""
    tensors = {
        name: torch.empty(shape, dtype=dtype, device="meta") for name, (dtype, shape) in spec.tensors.items()
    }
    return PackedTensor(spec.format, spec.shape, tensors, spec.settings)


def put_embedding(model: PreTrainedModel, name: str, spec: ModuleSpec) -> None:
    """Put a packed embedding in its place, and, if `model` has one, the head that shares its weight: after
    that nothing has to be tied.
    """
    head = model.get_output_embeddings() if spec.head is not None else None
    heads = [place for place, module in model.named_modules() if head is not None and module is head]
    replace_embedding(model, name, empty_packed(spec), *heads)
    for place in heads:
        weight = f"{place}.weight"
        model._tied_weights_keys = {
            key: source for key, source in (model._tied_weights_keys or {}).items() if key != weight
        }
        model.all_tied_weights_keys.pop(weight, None)


def tie_again(model: PreTrainedModel) -> None:
    """Restore the declaration of tied weights from the class of `model`."""
    del model._tied_weights_keys
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)


def plain_linear(weight: nn.Parameter, bias: nn.Parameter | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    linear.weight, linear.bias = weight, bias
    return linear


def resolve_modules(
    model: PreTrainedModel, modules: Mapping[str, ModuleSpec]
) -> Iterator[tuple[str, ModuleSpec]]:
    """The packed modules' names in `model`, found by the longest unambiguous suffix: `model` may be the base
    model or part of a larger one.

    If `model` has no language head, the head is left out. Raises InputError if a recorded module is not in
    the model, or if several modules match: a silent skip would leave random weights.
    """
    linears = {name for name, module in model.named_modules() if is_linear(module)}
    embeddings = {name for name, module in model.named_modules() if isinstance(module, nn.Embedding)}

    @cache
    def tails(of_embeddings: bool) -> dict[str, list[str]]:
        """The names of the embeddings, or of the linears, by all that they end in."""
        found: dict[str, list[str]] = {}
        for name in embeddings if of_embeddings else linears:
            words = name.split(".")
            for start in range(len(words)):
                found.setdefault(".".join(words[start:]), []).append(name)
        return found

    for recorded, spec in modules.items():
        kind = spec.kind
        if kind == "head" and model.get_output_embeddings() is None:
            continue
        there = embeddings if kind == "embedding" else linears
        if recorded in there:
            yield recorded, spec
            continue
        words = recorded.split(".")
        for start in range(1, len(words)):
            found = tails(kind == "embedding").get(".".join(words[start:]), [])
            if len(found) == 1:
                yield found[0], spec
                break
            if found:
                raise InputError(
                    f"the packed {kind} {recorded} could be any of {', '.join(sorted(found)[:3])} in"
                    f" {type(model).__name__}"
                )
        else:
            raise InputError(
                f"the packed {kind} {recorded} is not in {type(model).__name__}: config.json and the weights"
                " do not belong together"
            )
