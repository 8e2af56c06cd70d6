"""`PackedEmbedding` replaces the token embedding; `TiedHead` replaces a language head that shares its weight.

Tied weights are stored once, in the embedding. The head has only a reference to the embedding, so nothing has
to be tied again after loading.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bivlm.families.linears import is_linear
from bivlm.formats.base import PackedTensor
from bivlm.packed.module import PackedModule, check_shape


class PackedEmbedding(PackedModule):
    """An embedding whose table (vocabulary, hidden size) is a `PackedTensor`: only the rows of the given
    tokens are unpacked.
    """

    def __init__(self, packed: PackedTensor, padding_idx: int | None, compute_dtype: torch.dtype) -> None:
        super().__init__(packed, compute_dtype)
        self.num_embeddings, self.embedding_dim = packed.shape
        self.padding_idx = padding_idx

    def forward(self, ids: Tensor) -> Tensor:
        return self.look_up(ids)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, format={self.format}"


class TiedHead(nn.Module):
    """The language head with the weight of a packed embedding, and a bias if it has one."""

    def __init__(self, embedding: PackedEmbedding, bias: Tensor | None) -> None:
        super().__init__()
        self._embedding = (embedding,)  # in a tuple, so that it does not become a submodule of this module
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
        self.in_features, self.out_features = embedding.embedding_dim, embedding.num_embeddings

    def forward(self, x: Tensor) -> Tensor:
        return self._embedding[0].project(x, self.bias)

    @property
    def weight(self) -> Tensor:
        """The embedding's stand-in."""
        return self._embedding[0].weight

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None},"
            " tied to the embedding"
        )


def replace_embedding(
    root: nn.Module, name: str, packed: PackedTensor, head: str | None = None
) -> PackedEmbedding:
    """Replace the embedding `name` of `root` by a `PackedEmbedding`, and its `head` by a `TiedHead`; returns
    the embedding. InputError if the packed weight has another shape than either of them.
    """
    embedding = root.get_submodule(name)
    assert isinstance(embedding, nn.Embedding), name
    check_shape(name, packed, embedding.weight)
    replacement = PackedEmbedding(packed, embedding.padding_idx, embedding.weight.dtype)
    if head is not None:
        linear = root.get_submodule(head)
        assert is_linear(linear), head
        check_shape(head, packed, linear.weight)
        root.set_submodule(head, TiedHead(replacement, linear.bias))
    root.set_submodule(name, replacement)
    return replacement
