"""What was found about an architecture: its stacks, what stays in full precision and why, and what else is
worth knowing before it is packed.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from typing import Any

from transformers import PretrainedConfig

from bivlm.families.base import Family, Stack
from bivlm.families.found.patches import Patches
from bivlm.types import PartName

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")


def pattern_of(name: str) -> str:
    """A module's name with a star for every number: the same for a linear of every block."""
    return _NUMBER.sub("*", name)


@dataclass(frozen=True)
class FoundStack:
    """A stack: its part and path, how many blocks it has, and the linears of a language block that see the
    image alone.
    """

    part: PartName
    path: str
    blocks: int
    visual_linears: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kept:
    """Modules that stay in full precision, as a glob pattern, and why."""

    pattern: str
    reason: str


@dataclass(frozen=True)
class Structure:
    """An architecture as it was found.

    `shared` are groups of linears that receive the same tensor, as patterns. `experts` are patterns of
    stacked expert weights, which are parameters and no linears. `tied`: embedding and head share a weight.
    `notes` are remarks about what could not be seen. `inputs` says what the small model was run on.
    `takes` are the arguments of `forward`, if the model's class is not transformers' own. `patches` says
    which visual tokens the tower's patches become, if patches can be dropped in it.
    """

    model_type: str
    auto_class: str
    stacks: tuple[FoundStack, ...]
    kept: tuple[Kept, ...]
    image_token_id: int | None
    answer_token_type: int = 0
    shared: tuple[tuple[str, ...], ...] = ()
    experts: tuple[str, ...] = ()
    tied: bool = False
    notes: tuple[str, ...] = ()
    inputs: str = ""
    takes: tuple[str, ...] = ()
    patches: Patches | None = None

    @property
    def family(self) -> Family:
        """The declaration that says the same."""
        return family_from(
            self.model_type,
            self.auto_class,
            tuple(
                Stack(part=stack.part, path=stack.path, visual_linears=stack.visual_linears)
                for stack in self.stacks
            ),
            tuple(kept.pattern for kept in self.kept),
            self.image_token_id,
            self.answer_token_type,
            self.takes,
            self.patches,
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class ImageToken:
    """A constant token of the image, whatever the config."""

    token: int | None

    def __call__(self, config: PretrainedConfig) -> int | None:
        return self.token


def family_from(
    model_type: str,
    auto_class: str,
    stacks: tuple[Stack, ...],
    full_precision: tuple[str, ...],
    image_token_id: int | None,
    answer_token_type: int,
    takes: tuple[str, ...] = (),
    patches: Patches | None = None,
) -> Family:
    """A found family. Language models are asked without a chat template if they have none."""
    found = Family(
        model_type=model_type,
        stacks=stacks,
        full_precision=full_precision,
        image_token_id=ImageToken(image_token_id),
        answer_token_type=answer_token_type,
        auto_class=auto_class,
        takes=takes,
        origin="found",
        **({} if patches is None else patches.declared()),
    )
    return found if found.reads_images else replace(found, prompt="{bos}{question}")
