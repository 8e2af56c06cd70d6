"""`PackedEmbedding` replaces the token embedding; `TiedHead` replaces a language head that shares its weight.

Tied weights are stored once, in the embedding. The head has only a reference to the embedding, so nothing has
to be tied again after loading.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bivlm.families.linears import is_linear
from bivlm.formats.base import PackedTensor
from bivlm.packed.module import PackedModule, check_shape

# classes of transformers, read one by one: a row of the table times a number, both in the table's dtype
SCALED = frozenset(
    {
        "GemmaTextScaledWordEmbedding",
        "Gemma3TextScaledWordEmbedding",
        "Gemma4TextScaledWordEmbedding",
        "Gemma4UnifiedTextScaledWordEmbedding",
    }
)


def scale_of(embedding: Any) -> float | None:
    """The number by which an embedding multiplies its rows; None for a module that may do something else."""
    if type(embedding) is nn.Embedding:
        return 1.0
    return float(embedding.scalar_embed_scale) if type(embedding).__name__ in SCALED else None


class PackedEmbedding(PackedModule):
    """An embedding whose table (vocabulary, hidden size) is a `PackedTensor`: only the rows of the given
    tokens are unpacked. `kind` is the class of the embedding that it replaces, `scale` what that multiplies
    its rows by.
    """

    def __init__(
        self,
        packed: PackedTensor,
        padding_idx: int | None,
        compute_dtype: torch.dtype,
        kind: type[nn.Embedding] = nn.Embedding,
        scale: float = 1.0,
    ) -> None:
        super().__init__(packed, compute_dtype)
        self.num_embeddings, self.embedding_dim = packed.shape
        self.padding_idx = padding_idx
        self._kind, self._scale = kind, scale  # the packed tensors have the names without _

    def forward(self, ids: Tensor) -> Tensor:
        rows = self.look_up(ids)
        if self._kind is nn.Embedding:
            return rows
        return rows * torch.tensor(self._scale, dtype=rows.dtype, device=rows.device)

    def plain(self, weight: nn.Parameter) -> nn.Embedding:
        """An embedding of the kind that was replaced, with the given table."""
        scaled: dict[str, Any] = {} if self._kind is nn.Embedding else {"embed_scale": self._scale}
        embedding = self._kind(1, 1, padding_idx=None, **scaled)
        embedding.num_embeddings, embedding.embedding_dim = weight.shape
        embedding.padding_idx, embedding.weight = self.padding_idx, weight
        return embedding

    def extra_repr(self) -> str:
        scaled = "" if self._kind is nn.Embedding else f", scale={self._scale:g}"
        return f"{self.num_embeddings}, {self.embedding_dim}, format={self.format}{scaled}"


class TiedHead(nn.Module):
    """The language head with the weight of a packed embedding, and a bias if it has one."""

    def __init__(self, embedding: PackedEmbedding, bias: Tensor | None) -> None:
        super().__init__()
        self._embedding = (embedding,)  # in a tuple, so that it does not become a submodule of this module
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
        self.in_features, self.out_features = embedding.embedding_dim, embedding.num_embeddings

    @property
    def embedding(self) -> PackedEmbedding:
        """The embedding whose weight it has."""
        return self._embedding[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.embedding.project(x, self.bias)

    @property
    def weight(self) -> Tensor:
        """The embedding's stand-in."""
        return self.embedding.weight

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
    scale, kind = scale_of(embedding), type(embedding)
    assert scale is not None, f"a {kind.__name__} is not packed"
    replacement = PackedEmbedding(packed, embedding.padding_idx, embedding.weight.dtype, kind, scale)
    if head is not None:
        linear = root.get_submodule(head)
        assert is_linear(linear), head
        check_shape(head, packed, linear.weight)
        root.set_submodule(head, TiedHead(replacement, linear.bias))
    root.set_submodule(name, replacement)
    return replacement
