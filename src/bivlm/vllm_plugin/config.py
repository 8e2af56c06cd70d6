# pyright: reportMissingImports=false
"""The quantization "bivlm" of vLLM: which method multiplies in which layer. The import registers it."""

from __future__ import annotations

import logging
from typing import Any

import torch
from vllm.model_executor.layers.fused_moe import RoutedExperts
from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod
from vllm.model_executor.layers.quantization import register_quantization_config
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig, QuantizeMethodBase
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.models.utils import WeightsMapper

from bivlm.errors import InputError
from bivlm.kernels.gpu import LEAST_CAPABILITY
from bivlm.vllm_plugin.folder import packed_modules
from bivlm.vllm_plugin.linears import PackedLinearMethod
from bivlm.vllm_plugin.names import WITHOUT_LEVEL, Names
from bivlm.vllm_plugin.tables import PackedTableMethod, TiedTableMethod

logger = logging.getLogger(__name__)


@register_quantization_config("bivlm")
class BivlmConfig(QuantizationConfig):
    """What a folder's config.json says of its packed weights."""

    def __init__(self, names: Names) -> None:
        super().__init__()
        self.names, self.is_told = names, False

    def get_name(self) -> str:
        return "bivlm"

    def get_supported_act_dtypes(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16, torch.float32]

    @classmethod
    def get_min_capability(cls) -> int:
        major, minor = LEAST_CAPABILITY
        return 10 * major + minor

    @staticmethod
    def get_config_filenames() -> list[str]:
        return []

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> BivlmConfig:
        """InputError for a folder that cannot be served (`packed_modules`)."""
        return cls(Names(packed_modules(config)))

    def apply_vllm_mapper(self, hf_to_vllm_mapper: WeightsMapper) -> None:
        self.names.rename(hf_to_vllm_mapper.map_name)

    def get_quant_method(self, layer: torch.nn.Module, prefix: str) -> QuantizeMethodBase | None:
        """The method of a layer; None, or the plain one, for a layer that is not packed. InputError for a
        packed weight that no method serves.
        """
        if isinstance(layer, VocabParallelEmbedding):
            return self._table(layer, prefix)
        if isinstance(layer, LinearBase):
            weights = self.names.linears(prefix, self.packed_modules_mapping)
            return PackedLinearMethod(weights) if weights else UnquantizedLinearMethod()
        if isinstance(layer, RoutedExperts) and (inside := self.names.under(prefix)):
            raise InputError(f"{inside} is part of experts, for which the vLLM plug-in has no kernel")
        return None

    def get_checkpoint_weight_mapper(self) -> WeightsMapper:
        """The names of the tensors for this version of vLLM. It is asked when the whole model stands, so this
        also tells which packed weights have no place in it.
        """
        if not self.is_told and (lost := self.names.without_place()):
            logger.warning(
                "vLLM's model has no packed layer for %s: if it builds them at all, it builds them without a"
                " quantization, and loading fails; pack without them (--parts)",
                ", ".join(lost[:4]),
            )
        self.is_told = True  # each part of a model asks for itself
        level = {WITHOUT_LEVEL: "vision_tower.vision_model."}
        return WeightsMapper(orig_to_new_regex=level if self.names.has_level else {})

    def _table(self, layer: VocabParallelEmbedding, prefix: str) -> QuantizeMethodBase | None:
        shape, is_head = (layer.org_vocab_size, layer.embedding_dim), isinstance(layer, ParallelLMHead)
        found = self.names.table("head" if is_head else "embedding", shape, prefix)
        if found is not None:
            return PackedTableMethod(*found)
        return TiedTableMethod() if is_head and self.names.tied_to(shape) else None
