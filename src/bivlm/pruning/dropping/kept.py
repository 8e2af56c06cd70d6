"""Which of a sequence's tokens go on, and the reduction of all tensors with an entry per token to these
tokens: hidden states, positions, masks.

The sequences of a batch may keep different numbers of tokens. All are cut to the longest. The shorter ones
are filled with some of their dropped tokens, and the mask hides this filler from all tokens except itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Kept:
    """The tokens that go on, of sequences of `length` tokens.

    index  (batch, m) int64, ascending: their places; tokens after `length` (generated later) always go on
    real   (batch, m) bool: False for filler; None when there is none
    """

    index: Tensor
    real: Tensor | None
    length: int

    @classmethod
    def of(cls, keep: Tensor) -> Kept:
        """From a mask (batch, n), True where a token goes on."""
        counts = keep.sum(1)
        most = int(counts.max())
        # a stable sort brings what is kept to the front, then the filler; the places are put in order again
        index = keep.long().argsort(dim=1, descending=True, stable=True)[:, :most].sort(dim=1).values
        real = None if bool((counts == most).all()) else keep.gather(1, index)
        return cls(index, real, keep.shape[1])

    def grown(self, length: int) -> Kept:
        """The same for longer sequences: the tokens after it go on."""
        added = length - self.length
        if not added:
            return self
        after = torch.arange(self.length, length, device=self.index.device).expand(len(self.index), added)
        real = (
            None
            if self.real is None
            else torch.cat([self.real, self.real.new_ones(len(self.index), added)], dim=1)
        )
        return Kept(torch.cat([self.index, after], dim=1), real, length)

    def take(self, tensor: Tensor, dim: int) -> Tensor:
        """The entries of the tokens that go on; `tensor` is (batch or 1, …) with one entry per token along
        `dim`.
        """
        if len(self.index) == 1 and len(tensor) == 1:
            return tensor.index_select(dim, self.index[0])
        tensor = tensor.expand(len(self.index), *tensor.shape[1:])
        dim = dim % tensor.dim()
        shape = [
            len(self.index) if axis == 0 else self.index.shape[1] if axis == dim else 1
            for axis in range(tensor.dim())
        ]
        return tensor.take_along_dim(self.index.view(shape), dim)

    def put_back(self, tensor: Tensor) -> Tensor:
        """The reverse of `take` along dimension 1: (batch, m, d) becomes (batch, length, d), zero where
        nothing goes on.
        """
        whole = tensor.new_zeros(len(tensor), self.length, tensor.shape[-1])
        return whole.scatter_(1, self.index[..., None].expand_as(tensor), tensor)

    def attention_mask(self, mask: Tensor | None, queries: int, past: int) -> Tensor | None:
        """A block's mask for the tokens that go on: as keys and, in a whole sequence, as queries.

        `queries` tokens come after the `past` tokens in the cache, counted before the cut; a whole sequence
        has no past. `mask` is None (each token attends to itself and all before it), (batch, n) as for flash
        attention, or (batch or 1, heads or 1, queries, n), boolean or additive; n = past + queries.
        """
        keys = self.grown(past + queries)
        if mask is None:
            if keys.real is None:
                return None
            every = torch.ones(queries, past + queries, dtype=torch.bool, device=self.index.device)
            mask = every.tril(past)[None, None]
        if mask.dim() == 2:
            cut = keys.take(mask, 1)
            return cut if keys.real is None else cut * keys.real.to(cut.dtype)
        cut = keys.take(mask, -1) if past else keys.take(keys.take(mask, -1), -2)
        return cut if keys.real is None else hide(cut, keys.real, square=not past)

    def call_arguments(self, kwargs: Mapping[str, Any], queries: int, past: int) -> dict[str, Any]:
        """A language block's keyword arguments for the tokens that go on; `queries` and `past` as above."""
        cut = {**kwargs, "attention_mask": self.attention_mask(kwargs.get("attention_mask"), queries, past)}
        if past:
            return cut  # tokens after the prompt: they all go on
        whole = self.grown(queries)
        if kwargs.get("position_embeddings") is not None:
            cut["position_embeddings"] = tuple(
                whole.take(table, 1) for table in kwargs["position_embeddings"]
            )
        if kwargs.get("position_ids") is not None:
            cut["position_ids"] = whole.take(kwargs["position_ids"], -1)
        return cut


def arguments_after_the_first(
    block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of a block without its hidden states, all by name: some models give the mask by place."""
    names = list(signature(block.forward).parameters)[: len(args)]
    return {**dict(zip(names[1:], args[1:], strict=True)), **kwargs}


def hide(mask: Tensor, real: Tensor, *, square: bool) -> Tensor:
    """`mask` (batch, heads or 1, t, m) with the columns hidden where `real` (batch, m) is False. In a square
    mask each token still attends to itself, so no row is empty.
    """
    hidden = ~real[:, None, None, :]
    if square:
        hidden = hidden & ~torch.eye(real.shape[1], dtype=torch.bool, device=real.device)
    return mask.masked_fill(hidden, False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min)
