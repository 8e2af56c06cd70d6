"""Which of a sequence's tokens go on, and the reduction of all tensors with an entry per token to these
tokens: hidden states, positions, masks, whatever a model's blocks receive. Tensors are known by their shapes.

The sequences of a batch may keep different numbers of tokens. All are cut to the longest. The shorter ones
are filled with some of their dropped tokens, and the mask hides this filler from all tokens except itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

    def take(self, tensor: Tensor, dim: int, rows: int = 0) -> Tensor:
        """The entries of the tokens that go on; `tensor` has one entry per token along `dim`, and one for
        each sequence, or one for all of them, along `rows`.
        """
        if len(self.index) == 1 and tensor.shape[rows] == 1:
            return tensor.index_select(dim, self.index[0])
        dim, rows = dim % tensor.dim(), rows % tensor.dim()
        batch, stay = self.index.shape
        tensor = tensor.expand([batch if axis == rows else size for axis, size in enumerate(tensor.shape)])
        shape = [batch if axis == rows else stay if axis == dim else 1 for axis in range(tensor.dim())]
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

    def follow(self, value: Any, queries: int) -> Any:
        """An argument of a block for the tokens that go on of whole sequences of `queries` tokens: masks, and
        all tensors with an entry per token, are cut. Mappings stay the same objects, for blocks fill them.
        """
        if isinstance(value, Tensor):
            if _is_mask(value.shape, len(self.index), queries):
                return self.attention_mask(value, queries, 0)
            axes = token_axes(value.shape, len(self.index), queries)
            if axes is None:
                return value
            rows, tokens = axes
            whole = self.grown(queries)
            if rows is None:
                return value.index_select(tokens, whole.index[0])
            return whole.take(value, tokens, rows)
        if isinstance(value, list):
            return [self.follow(one, queries) for one in value]
        if isinstance(value, tuple) and not hasattr(value, "_fields"):
            return tuple(self.follow(one, queries) for one in value)
        return value

    def call_arguments(self, kwargs: Mapping[str, Any], queries: int, past: int) -> dict[str, Any]:
        """A language block's keyword arguments for the tokens that go on; `queries` and `past` as above.
        Tokens after the prompt all go on: with a past only the mask is cut.
        """
        cut = dict(kwargs) if past else {name: self.follow(one, queries) for name, one in kwargs.items()}
        return {**cut, "attention_mask": self.attention_mask(kwargs.get("attention_mask"), queries, past)}

    def patch_arguments(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """A vision block's keyword arguments for the patches that go on: their windows, if there are several
        in one sequence, hold fewer.
        """
        cut = {
            name: one if name == "cu_seqlens" else self.follow(one, self.length)
            for name, one in kwargs.items()
        }
        if kwargs.get("attention_mask") is not None:
            cut["attention_mask"] = self.attention_mask(kwargs["attention_mask"], self.length, 0)
        if kwargs.get("cu_seqlens") is not None:
            cut["cu_seqlens"] = self.lengths_left(kwargs["cu_seqlens"])
            if kwargs.get("max_seqlen") is not None:
                cut["max_seqlen"] = int(cut["cu_seqlens"].diff().max())
        return cut

    def lengths_left(self, edges: Tensor) -> Tensor:
        """Cumulative lengths of the windows of one sequence, counting the tokens that go on; empty windows
        are removed.
        """
        kept = torch.searchsorted(self.index[0], edges.to(self.index.dtype))
        return kept.to(edges.dtype).unique_consecutive()


def token_axes(shape: Sequence[int], rows: int, count: int) -> tuple[int | None, int] | None:
    """The axis of the sequences and that of their tokens, in a tensor with an entry for each of `count`
    tokens of `rows` sequences: hidden states (rows, t, d), positions of several axes (axes, rows, t), tables
    (rows, heads, t, d). One sequence needs no axis of its own (t, d). None for any other shape.
    """
    for tokens in (axis for axis, size in enumerate(shape) if size == count):
        if rows == 1:
            return None, tokens
        for axis in (tokens - 1,) if len(shape) < 4 else (0, tokens - 1):
            if 0 <= axis < tokens and shape[axis] in (1, rows):
                return axis, tokens
    return None


def _is_mask(shape: Sequence[int], rows: int, count: int) -> bool:
    """Whether a tensor is as large as a mask (rows or 1, heads or 1, t, t) of whole sequences."""
    return len(shape) == 4 and shape[0] in (1, rows) and tuple(shape[2:]) == (count, count)


def hidden_and_named(
    block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Tensor, dict[str, Any]]:
    """The hidden states of a block's call, its first argument, and the others, all by name: models give the
    first one by name, or the mask by place.
    """
    names = list(signature(block.forward).parameters)
    named = {**dict(zip(names[: len(args)], args, strict=True)), **kwargs}
    return named.pop(names[0]), named


def hide(mask: Tensor, real: Tensor, *, square: bool) -> Tensor:
    """`mask` (batch, heads or 1, t, m) with the columns hidden where `real` (batch, m) is False. In a square
    mask each token still attends to itself, so no row is empty.
    """
    hidden = ~real[:, None, None, :]
    if square:
        hidden = hidden & ~torch.eye(real.shape[1], dtype=torch.bool, device=real.device)
    return mask.masked_fill(hidden, False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min)
