"""Pruning in the vision tower: dropping patches early, or measuring the attention that they receive at its
end.

    patches ─ block 0 … j-1 ─ decide ─┬─► cut ─ block j ─ put back among zeros ─┬─► projector
                                       └─────────── block j + 1 … ◄──────────────┘
        ─► visual tokens ─ language.py drops those of the zeros

What the model itself does between two blocks, or with the output of one, therefore sees sequences of the
whole length: it pools, folds and selects as always.

A projector may merge several patches into one token. The patches of a token are kept or dropped together;
`Family.patch_tokens` says which patches these are. Each image (or tile) has its own budget.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bivlm.cutting import Kept, hidden_and_named
from bivlm.errors import InputError
from bivlm.pruning.dropping.choose import choose
from bivlm.pruning.dropping.geometry import shape_of, token_places
from bivlm.pruning.dropping.received import attention_received
from bivlm.pruning.dropping.state import Encoding, pixels_in

if TYPE_CHECKING:
    from bivlm.pruning.apply import TokenPruning


@dataclass(frozen=True)
class Patches:
    """The patches that stay in the tower: `kept`, of (rows, patches)."""

    kept: Kept


class Tower:
    """The blocks of a model's vision tower, and how patches become tokens."""

    def __init__(self, owner: TokenPruning) -> None:
        self.owner, model = owner, owner.model
        if owner.family.patch_tokens is None:
            what = (
                "the attention in the vision tower"
                if owner.pruning.site == "input"
                else "dropping inside the vision tower"
            )
            raise InputError(
                f"{what} is not offered for {owner.family.model_type}; use the site language, or input with a"
                " pruner that asks for no attention"
            )
        stack = [stack for stack in owner.family.stacks if stack.part == "vision"][-1]
        self.blocks: list[nn.Module] = list(model.get_submodule(stack.path))
        self.read = sorted(owner.family.tower_outputs(model.config, len(self.blocks)))

    def tokens_of(self, noted: Encoding, hidden: Tensor) -> Tensor:
        """Which token each patch becomes: (rows, patches), -1 for none; tokens are numbered in each row."""
        assert self.owner.family.patch_tokens is not None
        rows, patches = (1, len(hidden)) if hidden.dim() == 2 else hidden.shape[:2]
        return self.owner.family.patch_tokens(self.owner.model.config, noted.inputs, rows, patches).to(
            hidden.device
        )

    def images(self, noted: Encoding, tokens: Tensor) -> Tensor:
        """The image of each token (rows, tokens): its row, or, if all images share one sequence, from their
        grids.
        """
        grids = self._grids(noted)
        count = int(tokens.max()) + 1
        if len(tokens) > 1 or grids is None:
            return torch.arange(len(tokens), device=tokens.device)[:, None].expand(-1, count)
        sizes = torch.tensor([rows * columns for rows, columns in grids], device=tokens.device)
        return torch.arange(len(sizes), device=tokens.device).repeat_interleave(sizes)[None]

    def shapes(self, noted: Encoding, images: Tensor) -> list[tuple[int, int]]:
        grids = self._grids(noted)
        counts = torch.bincount(images.flatten()).tolist()
        return (
            grids
            if grids is not None and len(grids) == len(counts)
            else [shape_of(count) for count in counts]
        )

    def _grids(self, noted: Encoding) -> list[tuple[int, int]] | None:
        family = self.owner.family
        return (
            None if family.token_grids is None else family.token_grids(self.owner.model.config, noted.inputs)
        )


class TowerWatch(Tower):
    """Records the attention that patches receive in the last block whose output the model reads, as a mean
    over the patches of each token.
    """

    def attach(self) -> Iterator[Any]:
        yield self.blocks[self.read[-1]].register_forward_pre_hook(self._before, with_kwargs=True)

    def _before(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        noted = self.owner.encoding
        if noted is not None:
            tokens = self.tokens_of(noted, hidden_and_named(block, args, kwargs)[0])
            scores = attention_received(block, args, kwargs, tokens=tokens.shape[1])
            noted.scores = token_means(scores[..., None], tokens)[..., 0].flatten()


class TowerDrop(Tower):
    """Drops patches from block `layer` of the tower on."""

    def __init__(self, owner: TokenPruning) -> None:
        super().__init__(owner)
        self.first = owner.pruning.layer
        if self.first >= len(self.blocks):
            raise InputError(
                f"layer is {self.first}, and the vision tower has the blocks 0 to {len(self.blocks) - 1}"
            )
        if self.read[0] < self.first:
            raise InputError(
                f"layer is {self.first}, and the model reads the output of block {self.read[0]} of its vision"
                " tower; give at most that"
            )

    def attach(self) -> Iterator[Any]:
        for index, block in enumerate(self.blocks):
            if index >= self.first:
                yield block.register_forward_pre_hook(partial(self._before, index), with_kwargs=True)
                # before the hooks by which the model records the outputs of its blocks
                yield block.register_forward_hook(self._after, prepend=True)

    def _before(
        self, index: int, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        noted = self.owner.encoding
        if noted is None:
            return None
        hidden, named = hidden_and_named(block, args, kwargs)
        if index == self.first:
            self._decide(noted, block, args, kwargs, hidden)
        if noted.patches is None:
            return None
        kept: Kept = noted.patches.kept
        hidden = kept.take(hidden[None], 1)[0] if hidden.dim() == 2 else kept.take(hidden, 1)
        return (hidden,), kept.patch_arguments(named)

    def _decide(
        self,
        noted: Encoding,
        block: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        hidden: Tensor,
    ) -> None:
        owner = self.owner
        tokens = self.tokens_of(noted, hidden)
        patches = hidden[None] if hidden.dim() == 2 else hidden
        scores = None
        if owner.pruner.queries is not None:
            scores = token_means(
                attention_received(block, args, kwargs, tokens=tokens.shape[1])[..., None], tokens
            )[..., 0]
        images = self.images(noted, tokens)
        chosen = self._choose(noted, images, token_means(patches, tokens), scores)
        noted.stays = chosen.flatten()
        if bool(chosen.all()):
            return
        noted.patches = Patches(Kept.of((tokens < 0) | chosen.gather(1, tokens.clamp_min(0))))

    def _choose(self, noted: Encoding, images: Tensor, features: Tensor, scores: Tensor | None) -> Tensor:
        """Which tokens (rows, tokens) stay, image by image."""
        owner, chosen = self.owner, torch.zeros_like(images, dtype=torch.bool)
        pixels = pixels_in(noted.inputs)
        assert pixels is not None
        seed = zlib.crc32(
            str(float(pixels.float().sum(dtype=torch.float64))).encode()
        )  # the questions are not known here
        for image, shape in enumerate(self.shapes(noted, images)):
            candidates = (images == image).flatten()[None]
            flat = None if scores is None else scores.flatten()[None]
            places = (token_places([shape]),)
            chosen |= choose(
                owner.pruner,
                owner.pruning.keep,
                candidates,
                features.flatten(0, 1)[None],
                flat,
                places,
                (seed + image,),
            ).view_as(images)
        return chosen

    def _after(self, block: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Zeros in place of dropped patches."""
        noted = self.owner.encoding
        if noted is None or noted.patches is None:
            return None
        hidden = output[0] if isinstance(output, tuple) else output
        kept: Kept = noted.patches.kept
        whole = kept.put_back(hidden[None])[0] if hidden.dim() == 2 else kept.put_back(hidden)
        return (whole, *output[1:]) if isinstance(output, tuple) else whole


def token_means(values: Tensor, tokens: Tensor) -> Tensor:
    """Means of (rows, patches, d) over the patches of each token: (rows, tokens, d) float32."""
    count = int(tokens.max()) + 1
    place = torch.where(tokens < 0, count, tokens)
    sums = values.new_zeros(len(tokens), count + 1, values.shape[-1], dtype=torch.float32)
    sums.scatter_add_(1, place[..., None].expand_as(values), values.float())
    sizes = torch.zeros(len(tokens), count + 1, dtype=torch.float32, device=values.device).scatter_add_(
        1, place, torch.ones_like(place, dtype=torch.float32)
    )
    return (sums / sizes.clamp_min(1.0)[..., None])[:, :count]
