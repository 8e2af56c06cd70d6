"""The plan of a job: every linear of a model with the quantizer that serves it, or the reason why it stays.
Made before anything long starts.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from torch import nn

from bivlm.checkpoint.source import SourceModel
from bivlm.errors import InputError
from bivlm.families import Family, Stack
from bivlm.job.recipe import KEEP, Recipe, build_quantizer, embedding_quantizer
from bivlm.quantizers import Quantizer
from bivlm.types import EMBEDDINGS, PartName


@dataclass(frozen=True)
class LinearPlan:
    """One linear: its name in the model, its part, its (out, in) shape, and its quantizer, or why it is kept.

    The token embedding and the language head, where they are packed, are planned like linears, of a `kind` of
    their own; `head` is the name of the language head that has no weight but the embedding's.
    """

    name: str
    part: PartName | None
    shape: tuple[int, int]
    quantizer: Quantizer | None
    kept_because: str = ""
    kind: Literal["linear", "embedding", "head"] = "linear"
    head: str | None = None

    @property
    def place(self) -> str:
        """Where tables put it: its part, or what stands around the blocks."""
        return self.part or ("outside" if self.kind == "linear" else EMBEDDINGS)


@dataclass(frozen=True)
class BlockPlan:
    """One block: its path in the model and its linears. `stack` indexes the family's stacks; `is_output`: the
    model reads its output later.
    """

    path: str
    stack: int
    is_output: bool
    linears: tuple[LinearPlan, ...]

    @property
    def quantized(self) -> tuple[LinearPlan, ...]:
        return tuple(linear for linear in self.linears if linear.quantizer is not None)

    @property
    def needs_data(self) -> bool:
        return any(linear.quantizer.needs_data for linear in self.quantized if linear.quantizer is not None)


@dataclass(frozen=True)
class Plan:
    """All blocks in the order in which the model runs them, the linears outside of them, which stay, and what
    the recipe says about the walk.

    `embeddings` are the token embedding and the language head, where they are packed.
    """

    blocks: tuple[BlockPlan, ...]
    outside: tuple[LinearPlan, ...]
    propagation: float = 0.0
    tuning: int = 0
    embeddings: tuple[LinearPlan, ...] = ()

    @property
    def linears(self) -> tuple[LinearPlan, ...]:
        return (
            tuple(linear for block in self.blocks for linear in block.linears)
            + self.outside
            + self.embeddings
        )

    @property
    def shards(self) -> tuple[str, ...]:
        """The paths of the modules that are written one by one."""
        return tuple(block.path for block in self.blocks) + tuple(linear.name for linear in self.embeddings)

    @property
    def shared(self) -> frozenset[str]:
        """The parameters that a packed embedding stands for as well: nothing of theirs is written."""
        return frozenset(f"{linear.head}.weight" for linear in self.embeddings if linear.head is not None)

    @property
    def needs_data(self) -> bool:
        return self.head_needs_data or any(self.runs(block) for block in self.blocks)

    @property
    def head_needs_data(self) -> bool:
        """Whether the samples have to run through all blocks, for what reaches the language head."""
        return any(linear.quantizer is not None and linear.quantizer.needs_data for linear in self.embeddings)

    def runs(self, block: BlockPlan) -> bool:
        """Whether the calibration samples have to run up to a block: its quantizers need data, or it is
        fitted to what the samples say there.
        """
        return block.needs_data or bool(block.quantized and (self.propagation or self.tuning))


def block_paths(model: nn.Module, stack: Stack) -> list[str]:
    """The module paths of a stack's blocks: the entries of a ModuleList, or the one module itself."""
    module = model.get_submodule(stack.path)
    if isinstance(module, nn.ModuleList):
        return [f"{stack.path}.{index}" for index in range(len(module))]
    return [stack.path]


def make_plan(source: SourceModel, recipe: Recipe, parts: Collection[PartName]) -> Plan:
    """Match every linear of the model with the recipe.

    Raises InputError when a rule matches no linear of the chosen parts, when no linear is left to quantize,
    or when a linear belongs nowhere.
    """
    model, family = source.model, source.family
    used: set[int] = set()
    blocks: list[BlockPlan] = []
    for index, stack in enumerate(family.stacks):
        paths = block_paths(model, stack)
        outputs = set(stack.outputs(source.config, len(paths)))
        for position, path in enumerate(paths):
            linears = tuple(
                _plan_linear(name, stack.part, linear, family, recipe, parts, used)
                for name, linear in _linears_below(model, path)
            )
            blocks.append(BlockPlan(path, index, position in outputs, linears))
    embeddings = (
        () if recipe.embeddings is None else _plan_embeddings(source, recipe.embeddings, recipe.needs_data)
    )
    inside = {linear.name for block in blocks for linear in block.linears} | {
        name for one in embeddings for name in (one.name, one.head)
    }
    outside = tuple(
        LinearPlan(name, None, (linear.out_features, linear.in_features), None, "outside the blocks")
        for name, linear in model.named_modules()
        if isinstance(linear, nn.Linear) and name not in inside
    )
    _check_rules(recipe, parts, used)
    return Plan(tuple(blocks), outside, recipe.propagation, recipe.tuning, embeddings)


def _plan_embeddings(source: SourceModel, bits: float, fed: bool) -> tuple[LinearPlan, ...]:
    """The token embedding, and the language head unless it shares the embedding's weight. `fed`: calibration
    says what reaches the head.

    Raises InputError for a model whose embedding or head is of a kind that cannot be packed.
    """
    embedding, head = source.model.get_input_embeddings(), source.model.get_output_embeddings()
    names = {id(module): name for name, module in source.model.named_modules()}
    if type(embedding) is not nn.Embedding or type(head) is not nn.Linear:
        raise InputError(
            f"embeddings = {bits:g}: the embedding of {type(source.model).__name__} is a"
            f" {type(embedding).__name__} and its head a {type(head).__name__}; only nn.Embedding and"
            " nn.Linear can be packed: leave embeddings out"
        )
    name, head_name, shape = (
        names[id(embedding)],
        names[id(head)],
        (embedding.num_embeddings, embedding.embedding_dim),
    )
    if f"{head_name}.weight" in source.model.all_tied_weights_keys:
        return (
            LinearPlan(name, None, shape, embedding_quantizer(bits, fed), kind="embedding", head=head_name),
        )
    return (
        LinearPlan(name, None, shape, embedding_quantizer(bits, False), kind="embedding"),
        LinearPlan(
            head_name,
            None,
            (head.out_features, head.in_features),
            embedding_quantizer(bits, fed),
            kind="head",
        ),
    )


def _linears_below(model: nn.Module, path: str) -> list[tuple[str, nn.Linear]]:
    block = model.get_submodule(path)
    return [
        (f"{path}.{name}" if name else path, child)
        for name, child in block.named_modules()
        if isinstance(child, nn.Linear)
    ]


def _plan_linear(
    name: str,
    part: PartName,
    linear: nn.Linear,
    family: Family,
    recipe: Recipe,
    parts: Collection[PartName],
    used: set[int],
) -> LinearPlan:
    shape = (linear.out_features, linear.in_features)
    if any(fnmatchcase(name, pattern) for pattern in family.full_precision):
        return LinearPlan(name, part, shape, None, "kept by its family")
    if part not in parts:
        return LinearPlan(name, part, shape, None, "part not chosen")
    rule = recipe.rule_for(part, name)
    if rule is None:
        return LinearPlan(name, part, shape, None, "no rule matches")
    used.add(recipe.rules.index(rule))
    if rule.quantizer == KEEP:
        return LinearPlan(name, part, shape, None, "kept by the recipe")
    return LinearPlan(name, part, shape, build_quantizer(rule))


def _check_rules(recipe: Recipe, parts: Collection[PartName], used: set[int]) -> None:
    if not used:
        raise InputError(
            f"recipe {recipe.name} matches no linear of the chosen parts ({', '.join(sorted(parts))}):"
            " nothing would be quantized"
        )
    for number, rule in enumerate(recipe.rules):
        if number not in used and (rule.part is None or rule.part in parts) and not _shadowed(recipe, number):
            raise InputError(
                f"recipe {recipe.name}: rule {number + 1} (part {rule.part or 'any'}, linears"
                f" {rule.linears!r}) matches no linear; mend or remove it"
            )


def _shadowed(recipe: Recipe, number: int) -> bool:
    """A general rule behind particular ones may be left with nothing when only their parts are chosen: that
    is no mistake.
    """
    rule = recipe.rules[number]
    return rule.part is None and rule.linears == "*" and number > 0
