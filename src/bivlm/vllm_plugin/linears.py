# pyright: reportMissingImports=false
"""vLLM's linear layers with packed weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from vllm.distributed import tensor_model_parallel_all_gather
from vllm.model_executor.layers.linear import LinearMethodBase

from bivlm.checkpoint.modules import ModuleSpec
from bivlm.formats.base import PackedTensor
from bivlm.vllm_plugin.ranks import HeldLinear, Outputs, prepared, split_inputs
from bivlm.vllm_plugin.stored import Stored


class PackedLinearMethod(LinearMethodBase):
    """The stored weights of one layer: `weights` in the order of its outputs, each with its name, None for
    one in full precision.
    """

    def __init__(self, weights: Sequence[tuple[str, ModuleSpec | None]]) -> None:
        self.weights = weights

    def create_weights(
        self,
        layer: Any,
        input_size_per_partition: int,
        output_partition_sizes: list[int],
        input_size: int,
        output_size: int,
        params_dtype: torch.dtype,
        **attributes: Any,
    ) -> None:
        """Give the layer a parameter without elements for every tensor that is read. InputError if the packed
        weights do not fit the layer.
        """
        self.dtype, self.divides_inputs = params_dtype, input_size_per_partition != input_size
        self.size = output_size // sum(output_partition_sizes)  # ranks that its rows are divided among
        stored = [None if spec is None else spec.shape[0] for _, spec in self.weights]
        replicas = getattr(layer, "num_kv_head_replicas", 1)
        self.outputs = Outputs.of(stored, output_partition_sizes, self.size, replicas)
        self.stored = Stored(self.weights, self.outputs.owner)
        await_tensors(layer, self.stored, params_dtype)

    def process_weights_after_loading(self, layer: Any) -> None:
        """Cut the weights for this rank and prepare their products."""
        weights, device = take(layer, self.stored)
        if self.divides_inputs:
            held = split_inputs(weights[0], layer.tp_rank, layer.tp_size, self.dtype)
        else:
            rank = layer.tp_rank if self.size > 1 else 0
            held = HeldLinear(weights, self.outputs.rows(rank, self.size), self.dtype)
        layer.held = prepared(held, device)

    def apply(self, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x Wᵀ + bias, of this rank."""
        held: HeldLinear = layer.held
        return held(tensor_model_parallel_all_gather(x) if held.gathers else x, bias)


def await_tensors(layer: nn.Module, stored: Stored, dtype: torch.dtype) -> None:
    """Register a parameter for every tensor of the stored weights: vLLM's loader hands them over by it."""
    for name, kind in stored.names.items():
        parameter = nn.Parameter(torch.empty(0, dtype=kind or dtype), requires_grad=False)
        parameter.weight_loader = _loader(stored, name)  # pyright: ignore[reportAttributeAccessIssue]
        layer.register_parameter(name, parameter)


def _loader(stored: Stored, name: str) -> Callable[..., None]:
    def load(parameter: nn.Parameter, tensor: Tensor, shard: Any = None) -> None:
        stored.put(shard, name, tensor)

    return load


def take(layer: nn.Module, stored: Stored) -> tuple[list[PackedTensor | Tensor], torch.device]:
    """The weights that were read, as they are in the files, and the device that the layer is on; the
    parameters that waited for them go.
    """
    names = stored.names
    device = layer.get_parameter(next(iter(names))).device
    for name in names:
        delattr(layer, name)
    return stored.take(), device
