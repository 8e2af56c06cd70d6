"""The plan of a job: every linear of a model with its quantizer, or the reason why it stays in full
precision.

    Plan ─ units ─┬─ BlockPlan ─ linears       a transformer block, or a projector
                  └─ TablePlan                 the token embedding, or the language head

A unit is the smallest piece that is written. The plan is made before any long work starts.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from torch import nn

from bivlm.actions import ActionTokens, action_tokens
from bivlm.checkpoint.source import SourceModel
from bivlm.errors import InputError
from bivlm.families.experts import choosing, expert_paths, gates
from bivlm.families.linears import is_linear
from bivlm.job.recipe import KEEP, BudgetFrom, Recipe, build_quantizer
from bivlm.job.tables import table_quantizer
from bivlm.packed.embedding import scale_of
from bivlm.pooling import Pooling
from bivlm.quantizers import Quantizer
from bivlm.types import EMBEDDINGS, PartName


@dataclass(frozen=True)
class LinearPlan:
    """One linear: its name in the model, its part (None outside the stacks), its (out, in) shape, and its
    quantizer, or why it stays in full precision.
    """

    name: str
    part: PartName | None
    shape: tuple[int, int]
    quantizer: Quantizer | None
    kept_because: str = ""

    @property
    def place(self) -> str:
        """Its row in tables: its part, or outside."""
        return self.part or "outside"


@dataclass(frozen=True)
class TablePlan:
    """The token embedding or the language head, if it is packed: a unit of its own.

    `shape` is (vocabulary, hidden size). `head` is the name of the language head that shares this embedding's
    weight.
    """

    name: str
    kind: Literal["embedding", "head"]
    shape: tuple[int, int]
    quantizer: Quantizer
    head: str | None = None

    kept_because = ""
    place = EMBEDDINGS

    @property
    def path(self) -> str:
        return self.name

    @property
    def quantized(self) -> tuple[TablePlan, ...]:
        return (self,)

    @property
    def needs_data(self) -> bool:
        return self.quantizer.needs_data


WeightPlan = LinearPlan | TablePlan


@dataclass(frozen=True)
class BlockPlan:
    """One block: its path in the model and its linears. `stack` indexes the family's stacks."""

    path: str
    stack: int
    linears: tuple[LinearPlan, ...]

    @property
    def quantized(self) -> tuple[LinearPlan, ...]:
        return tuple(linear for linear in self.linears if linear.quantizer is not None)

    @property
    def needs_data(self) -> bool:
        return any(linear.quantizer.needs_data for linear in self.quantized if linear.quantizer is not None)


UnitPlan = BlockPlan | TablePlan


# the pooling of a recipe's fidelity
EMBEDDED: dict[str, Pooling] = {"embedding": "last", "embedding-mean": "mean"}


@dataclass(frozen=True)
class Plan:
    """All blocks in the order in which the model runs them, the linears outside of them (which stay in full
    precision), the tables that are packed, and the recipe's settings for the walk. A budget and gradients are
    about answers; with `pooling` about the samples' pooled vectors, with `actions` about the actions' values.
    """

    blocks: tuple[BlockPlan, ...]
    outside: tuple[LinearPlan, ...]
    propagation: float = 0.0
    tuning: int = 0
    tables: tuple[TablePlan, ...] = ()
    distillation: int = 0
    budget_from: BudgetFrom = "answers"
    reads_images: bool = True
    calibration_top_k: int = 0
    pooling: Pooling | None = None
    actions: ActionTokens | None = None

    @property
    def units(self) -> tuple[UnitPlan, ...]:
        """The units, in the order in which they are written."""
        return (*self.blocks, *self.tables)

    @property
    def linears(self) -> tuple[LinearPlan, ...]:
        """Every linear of the model except a language head that is packed."""
        return (*(linear for block in self.blocks for linear in block.linears), *self.outside)

    @property
    def weights(self) -> tuple[WeightPlan, ...]:
        """Every linear and every table."""
        return (*self.linears, *self.tables)

    @property
    def shared(self) -> frozenset[str]:
        """The parameters that share the weight of a packed embedding: they are not written."""
        return frozenset(f"{table.head}.weight" for table in self.tables if table.head is not None)

    @property
    def runs_beside(self) -> bool:
        """Whether the full-precision model runs next to the packed one, block by block."""
        return bool(self.propagation or self.tuning)

    @property
    def needs_data(self) -> bool:
        return self.head_needs_data or any(self.runs(block) for block in self.blocks)

    @property
    def head_needs_data(self) -> bool:
        """Whether the samples have to run through all blocks, to get the language head's inputs."""
        return any(table.needs_data for table in self.tables)

    def runs(self, block: BlockPlan) -> bool:
        """Whether the calibration samples have to run up to a block: its quantizers need data, or it is
        fitted to the block's outputs on the samples.
        """
        return block.needs_data or bool(block.quantized and self.runs_beside)


def make_plan(source: SourceModel, recipe: Recipe, parts: Collection[PartName]) -> Plan:
    """Match every linear of the model with the recipe.

    Raises InputError if a rule matches no linear of the chosen parts, if no linear is left to quantize, if
    the family declares no place for a linear, or if no parameter would stay in full precision.
    """
    match = _Match(source, recipe, parts)
    blocks: list[BlockPlan] = []
    for index, stack in enumerate(source.family.stacks):
        for path in stack.block_paths(source.model):
            linears = tuple(
                match.plan(name, stack.part, linear) for name, linear in _linears_below(source.model, path)
            )
            blocks.append(BlockPlan(path, index, linears))
    match.check()
    _check_experts(source.model, recipe.calibration_top_k)
    tables = () if recipe.embeddings is None else _plan_tables(source, recipe.embeddings, recipe.needs_data)
    _check_rest(source.model, blocks, tables)
    return Plan(
        tuple(blocks),
        _outside(source.model, blocks, tables),
        recipe.propagation,
        recipe.tuning,
        tables,
        recipe.distillation,
        recipe.budget_from,
        source.family.reads_images and source.family.answers,
        recipe.calibration_top_k,
        EMBEDDED.get(recipe.fidelity),
        action_tokens(source.config) if recipe.fidelity == "action" else None,
    )


def _check_experts(model: nn.Module, top_k: int) -> None:
    """InputError if a router chooses more experts than there are, or if `top_k` of them cannot be chosen for
    calibration (0: it chooses as always).
    """
    said, places = f"calibration_top_k = {top_k}", expert_paths(model)
    if top_k and not places:
        raise InputError(f"{said}: {type(model).__name__} has no experts that are packed; leave it out")
    for path in places:
        experts: Any = model.get_submodule(path)
        routers, count = choosing(model, path), experts.num_experts
        own = max((router.top_k for router in routers), default=0)
        if own > count:
            raise InputError(
                f"config.json chooses {own} experts for each token, and {path} has {count}: get the model"
                " again"
            )
        if top_k > count:
            raise InputError(f"{said}: {path} has {count} experts; give at most so many")
        if top_k and not routers:
            raise InputError(
                f"{said}: how many experts {path} chooses stands in the config alone, and cannot be raised"
                " for calibration; leave it out"
            )


def _check_rest(model: nn.Module, blocks: Collection[BlockPlan], tables: Collection[TablePlan]) -> None:
    """InputError if every parameter would be packed: transformers takes a model's device from its
    parameters.
    """
    packed = {table.name for table in tables} | {one.name for block in blocks for one in block.quantized}
    if tables and all(name.removesuffix(".weight") in packed for name, _ in model.named_parameters()):
        raise InputError(
            f"with its embeddings packed, no parameter of {type(model).__name__} would be left (its norms"
            " have none), and transformers does not generate with such a model: leave embeddings out"
        )


def _outside(
    model: nn.Module, blocks: Collection[BlockPlan], tables: Collection[TablePlan]
) -> tuple[LinearPlan, ...]:
    """The linears that are in no block and no table."""
    inside = {linear.name for block in blocks for linear in block.linears}
    inside |= {name for table in tables for name in (table.name, table.head) if name is not None}
    return tuple(
        LinearPlan(name, None, (linear.out_features, linear.in_features), None, "outside the blocks")
        for name, linear in model.named_modules()
        if is_linear(linear) and name not in inside
    )


def _plan_tables(source: SourceModel, bits: float, calibrated: bool) -> tuple[TablePlan, ...]:
    """The token embedding, a second one that serves the blocks (Gemma 4's, per layer) if there is one, and
    the language head unless it shares the embedding's weight. `calibrated`: the head's inputs are known from
    data.

    Raises InputError for a model whose embedding or head is of a kind that cannot be packed.
    """
    embedding: Any = source.model.get_input_embeddings()
    head = source.model.get_output_embeddings()
    names = {id(module): name for name, module in source.model.named_modules()}
    if scale_of(embedding) is None or not is_linear(head):
        raise InputError(
            f"embeddings = {bits:g}: the embedding of {type(source.model).__name__} is a"
            f" {type(embedding).__name__} and its head a {type(head).__name__}; only a table, whose rows may"
            " be scaled, and nn.Linear can be packed: leave embeddings out"
        )
    second = _embedding_per_layer(source.model)
    others = tuple(
        TablePlan(
            names[id(one)], "embedding", tuple(one.weight.shape), table_quantizer(bits, calibrated=False)
        )
        for one in (second,)
        if one is not None and scale_of(one) is not None
    )
    name, head_name = names[id(embedding)], names[id(head)]
    shape = (embedding.num_embeddings, embedding.embedding_dim)
    if f"{head_name}.weight" in source.model.all_tied_weights_keys:
        tied = TablePlan(name, "embedding", shape, table_quantizer(bits, calibrated), head=head_name)
        return (tied, *others)
    head_shape = (head.out_features, head.in_features)
    return (
        TablePlan(name, "embedding", shape, table_quantizer(bits, calibrated=False)),
        *others,
        TablePlan(head_name, "head", head_shape, table_quantizer(bits, calibrated)),
    )


def _embedding_per_layer(model: Any) -> Any:
    """The embedding that serves the blocks; None if there is none, which transformers' own method does not
    expect.
    """
    try:
        return getattr(model, "get_per_layer_input_embeddings", lambda: None)()
    except AttributeError:
        return None


def _linears_below(model: nn.Module, path: str) -> list[tuple[str, nn.Linear]]:
    block = model.get_submodule(path)
    return [
        (f"{path}.{name}" if name else path, child)
        for name, child in block.named_modules()
        if is_linear(child)
    ]


class _Match:
    """A recipe's rules, matched with one linear after the other; `check` refuses rules that matched none."""

    def __init__(self, source: SourceModel, recipe: Recipe, parts: Collection[PartName]) -> None:
        self.family, self.recipe, self.parts = source.family, recipe, parts
        self.gates = gates(source.model)
        self.used: set[int] = set()

    def plan(self, name: str, part: PartName, linear: nn.Linear) -> LinearPlan:
        shape = (linear.out_features, linear.in_features)
        if any(fnmatchcase(name, pattern) for pattern in self.family.full_precision):
            return LinearPlan(name, part, shape, None, "kept by its family")
        if name in self.gates:
            return LinearPlan(name, part, shape, None, "chooses experts")
        if part not in self.parts:
            return LinearPlan(name, part, shape, None, "part not chosen")
        rule = self.recipe.rule_for(part, name)
        if rule is None:
            return LinearPlan(name, part, shape, None, "no rule matches")
        self.used.add(self.recipe.rules.index(rule))
        if rule.quantizer == KEEP:
            return LinearPlan(name, part, shape, None, "kept by the recipe")
        return LinearPlan(name, part, shape, build_quantizer(rule))

    def check(self) -> None:
        """InputError for a recipe that quantizes nothing, or has a rule that matches nothing."""
        recipe = self.recipe
        if not self.used:
            raise InputError(
                f"recipe {recipe.name} matches no linear of the chosen parts"
                f" ({', '.join(sorted(self.parts))}): nothing would be quantized"
            )
        for number, rule in enumerate(recipe.rules):
            wanted = rule.part is None or rule.part in self.parts
            if number not in self.used and wanted and not _shadowed(recipe, number):
                raise InputError(
                    f"recipe {recipe.name}: rule {number + 1} (part {rule.part or 'any'}, linears"
                    f" {rule.linears!r}) matches no linear; correct or remove it"
                )


def _shadowed(recipe: Recipe, number: int) -> bool:
    """Whether a rule is a general one after others. If only the parts of the earlier rules are chosen, such a
    rule may match nothing, and this is no mistake.
    """
    rule = recipe.rules[number]
    return rule.part is None and rule.linears == "*" and number > 0
