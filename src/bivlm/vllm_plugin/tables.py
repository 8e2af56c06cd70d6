# pyright: reportMissingImports=false
"""vLLM's token embedding and language head with packed weights. vLLM rounds the vocabulary up: the rows that
there are not give zeros, which it leaves out itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase

from bivlm.checkpoint.modules import ModuleSpec
from bivlm.errors import InputError
from bivlm.formats.base import PackedTensor
from bivlm.vllm_plugin.linears import await_tensors, take
from bivlm.vllm_plugin.ranks import HeldRows, prepared
from bivlm.vllm_plugin.stored import Stored


class PackedTableMethod(QuantizeMethodBase):
    """A packed table (vocabulary, hidden size), as an embedding, as a head, or as both."""

    def __init__(self, name: str, spec: ModuleSpec) -> None:
        self.name, self.spec = name, spec

    def create_weights(self, layer: Any, *sizes: Any, params_dtype: torch.dtype, **attributes: Any) -> None:
        """Give the layer a parameter without elements for every tensor that is read. InputError if this rank
        would hold no row of it.
        """
        places = layer.shard_indices
        self.start, self.stop = places.org_vocab_start_index, places.org_vocab_end_index
        if self.start == self.stop:
            raise InputError(
                f"{self.name} has {self.spec.shape[0]} rows, too few for {layer.tp_size} ranks; give a"
                " smaller --tensor-parallel-size"
            )
        self.dtype, self.stored = params_dtype, Stored([(self.name, self.spec)], (0,))
        await_tensors(layer, self.stored, params_dtype)

    def process_weights_after_loading(self, layer: Any) -> None:
        """Cut the table for this rank and prepare its product."""
        [table], device = take(layer, self.stored)
        assert isinstance(table, PackedTensor)
        layer.held = prepared(HeldRows(table, self.start, self.stop, self.dtype), device)

    def embedding(self, layer: Any, ids: Tensor) -> Tensor:
        """The rows of tokens, counted from the first of this rank."""
        held: HeldRows = layer.held
        return held.look_up(ids)

    def apply(self, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """The logits of this rank's tokens, zeros (and the bias) after them."""
        y = layer.held(x, None)
        y = nn.functional.pad(y, (0, layer.num_embeddings_per_partition - y.shape[-1]))
        return y if bias is None else y + bias

    def tie_weights(self, layer: Any, embed_tokens: Any) -> Any:
        """InputError: this head has a weight of its own."""
        raise InputError(
            f"vLLM wants to tie the head {self.name}, which this folder has packed with a weight of its own;"
            " set tie_word_embeddings to false in its config.json"
        )


class TiedTableMethod(QuantizeMethodBase):
    """A head without a weight of its own: that of a packed embedding, once vLLM has tied both."""

    def create_weights(self, layer: Any, *sizes: Any, **attributes: Any) -> None:
        """Nothing is stored."""

    def tie_weights(self, layer: Any, embed_tokens: Any) -> Any:
        """Multiply with the embedding's weight from now on."""
        layer.tied = (embed_tokens,)  # in a tuple, so that it does not become a submodule
        return layer

    def apply(self, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """The logits of this rank's tokens. InputError if vLLM has not tied the head."""
        if not hasattr(layer, "tied"):
            raise InputError(
                "this folder's head shares the packed weight of the embedding, and vLLM's model has not tied"
                " them; serve it with `bivlm serve`"
            )
        [embedding] = layer.tied
        return embedding.quant_method.apply(embedding, x, bias)
