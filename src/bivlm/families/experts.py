"""Fused experts as plain linears: one module with two linears for every expert of a mixture.

transformers keeps the experts of a layer as parameters of three dims, (expert, out, in), which no method
packs. `SplitExperts` takes the place of such a module. It has the same arguments and computes the same
numbers, but every projection of every expert is an `nn.Linear` of its own: it is planned, calibrated,
quantized, packed and counted like any other linear.

    experts.gate_up_proj (E, 2 I, H) ─► experts.0.gate_up_proj.weight (2 I, H), experts.1.…
    experts.down_proj    (E, H, I)   ─► experts.0.down_proj.weight (H, I), …

Which modules are fused experts is known from transformers itself: its decorator `use_experts_implementation`
marks them, and whatever it marks can be computed by transformers' own general functions, from the marks
alone (integrations/moe.py). Two classes without the mark were read one by one (`READ`). Gating, activation
and clamps stay the code of the module that is replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

MARKS = ("is_transposed", "is_concatenated", "has_bias", "has_gate", "has_post_expert_norm")
DOWN, NORM = "down_proj", "post_expert_norm"


@dataclass(frozen=True)
class Layout:
    """How a module of fused experts keeps its matrices: `first` is the parameter that the tokens meet first;
    `transposed` says that it is (expert, in, out); `sorted_rows` that the module is given one row for every
    expert and token, expert by expert, and no choice of experts.
    """

    first: str
    transposed: bool = False
    bias: bool = False
    norm: bool = False
    sorted_rows: bool = False

    @property
    def projections(self) -> tuple[str, str]:
        """The names of both projections."""
        return self.first, DOWN

    @property
    def parameters(self) -> dict[str, tuple[str, str]]:
        """The fused parameters, each with the projection and the parameter of a linear that it becomes."""
        found = {name: (name, "weight") for name in self.projections}
        if self.bias:
            found |= {f"{name}_bias": (name, "bias") for name in self.projections}
        return found


READ = {
    "Llama4TextExperts": Layout("gate_up_proj", transposed=True, sorted_rows=True),
    "Step3p7Experts": Layout("gate_up_proj"),
}


def layout_of(module: nn.Module) -> Layout | None:
    """The layout of a module of fused experts; None for every other module, and for experts that hold
    anything else.
    """
    layout = READ.get(type(module).__name__)
    if layout is None:
        if not all(isinstance(getattr(module, mark, None), bool) for mark in MARKS):
            return None
        marks: Any = module
        first = "gate_up_proj" if marks.has_gate else "up_proj"
        layout = Layout(first, marks.is_transposed, marks.has_bias, marks.has_post_expert_norm)
    own = dict(module.named_parameters(recurse=False))
    if own.keys() != layout.parameters.keys() or any(
        own[name].ndim != (3 if part == "weight" else 2) for name, (_, part) in layout.parameters.items()
    ):
        return None
    stateful = [name for name, child in module.named_children() if child.state_dict()]
    return layout if stateful == ([NORM] if layout.norm else []) else None


class Expert(nn.Module):
    """One expert: two projections, children with the names that its layer's layout has."""

    def forward(self, rows: Tensor, tokens: Tensor, first: str, gated: Callable[[Tensor], Tensor]) -> Tensor:
        """What it makes of `rows` (t, in), those of the tokens with the numbers `tokens` (t,): the projection
        `first`, the activation, the other projection.
        """
        inner = gated(self.get_submodule(first)(rows))
        return self.get_submodule(DOWN)(inner)


class SplitExperts(nn.Module):
    """The experts of a layer as modules "0", "1", …, each with two linears.

    It replaces the module `fused`, whose activation it calls and whose weights it takes; `fuse` goes the
    other way. A packed model has the same module, with packed linears. `together`, if set, is asked for what
    `mix` returns, which goes expert by expert where the answer is None (packed/experts.py).
    """

    together: Callable[[SplitExperts, Tensor, Tensor, Tensor], Tensor | None] | None = None

    def __init__(self, fused: nn.Module, layout: Layout) -> None:
        super().__init__()
        self.layout, self.num_experts = layout, len(fused.get_parameter(DOWN))
        for number in range(self.num_experts):
            expert = Expert()
            for name in layout.projections:
                weight = fused.get_parameter(name).detach()[number]
                bias = fused.get_parameter(f"{name}_bias").detach()[number] if layout.bias else None
                expert.add_module(name, _linear(weight.T.contiguous() if layout.transposed else weight, bias))
            self.add_module(str(number), expert)
        if layout.norm:
            self.add_module(NORM, fused.get_submodule(NORM))
        for name in layout.parameters:
            delattr(fused, name)
        self._fused = (fused,)  # in a tuple, so that it does not become a submodule of this module
        self.train(fused.training)

    def linear(self, expert: int, projection: str) -> Any:
        """A projection of an expert: an `nn.Linear`, or what has replaced it."""
        return self.get_submodule(f"{expert}.{projection}")

    def forward(
        self, hidden_states: Tensor, top_k_index: Tensor | None = None, top_k_weights: Tensor | None = None,
        **named: Tensor,
    ) -> Tensor:  # fmt: skip
        """The weighted sum of the chosen experts: `hidden_states` (t, in), `top_k_index` and `top_k_weights`
        (t, k), the result (t, in). Some models call them `router_indices` and `routing_weights`.
        """
        if self.layout.sorted_rows:
            return self._sorted(hidden_states)
        index = named.get("router_indices", top_k_index)
        weights = named.get("routing_weights", top_k_weights)
        assert index is not None
        assert weights is not None
        return self.mix(hidden_states, index, weights)

    def mix(self, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        """The weighted sum in float32 at least, expert by expert unless `together` computes it."""
        if self.together is not None:
            found = self.together(self, hidden, index, weights)
            if found is not None:
                return found
        exact = torch.promote_types(hidden.dtype, torch.float32)
        total = torch.zeros_like(hidden, dtype=exact)
        for expert, tokens, places in routes(index, self.num_experts):
            found = self.run(expert, hidden[tokens], tokens) * weights[tokens, places, None]
            total.index_add_(0, tokens, found.to(exact))
        return total.to(hidden.dtype)

    def _sorted(self, hidden: Tensor) -> Tensor:
        """Every expert on its own rows. A row of zeros is of a token that did not choose it: it gives zeros,
        since there is no bias.
        """
        rows = hidden.reshape(self.num_experts, -1, hidden.shape[-1])
        outputs = torch.zeros_like(rows)
        for expert, own in enumerate(rows):
            chosen = (own != 0).any(-1).nonzero()[:, 0]
            if len(chosen):
                outputs[expert, chosen] = self.run(expert, own[chosen], chosen)
        return outputs.reshape(hidden.shape)

    def run(self, expert: int, rows: Tensor, tokens: Tensor) -> Tensor:
        """What one expert makes of rows (t, in), those of some of the tokens."""
        output = self.get_submodule(str(expert))(rows, tokens, self.layout.first, self.gated)
        return self.get_submodule(NORM)(output) if self.layout.norm else output

    def gated(self, outputs: Tensor) -> Tensor:
        """The activation, with the gate: by the code of the module that was replaced."""
        fused: Any = self._fused[0]
        if hasattr(fused, "_apply_gate") and self.layout.first == "gate_up_proj":
            return fused._apply_gate(outputs)
        if self.layout.first != "gate_up_proj":
            return fused.act_fn(outputs)
        gate, up = outputs.chunk(2, dim=-1)
        return fused.act_fn(gate) * up

    def fuse(self) -> nn.Module:
        """The module that was replaced, with the weights of this one, whose linears are all plain."""
        fused = self._fused[0]
        for name, (projection, part) in self.layout.parameters.items():
            each = [getattr(self.linear(expert, projection), part) for expert in range(self.num_experts)]
            stack = torch.stack([one.detach() for one in each])
            if part == "weight" and self.layout.transposed:
                stack = stack.transpose(1, 2).contiguous()
            setattr(fused, name, nn.Parameter(stack, requires_grad=False))
        if self.layout.norm:
            fused.add_module(NORM, self.get_submodule(NORM))
        return fused

    def extra_repr(self) -> str:
        return f"{self.num_experts} experts of {type(self._fused[0]).__name__}"


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear with these numbers. `nn.Linear` itself would draw others first, which takes a second for a
    thousand of them even without memory.
    """
    linear = nn.Linear.__new__(nn.Linear)
    nn.Module.__init__(linear)
    linear.out_features, linear.in_features = weight.shape
    linear.weight = nn.Parameter(weight, requires_grad=False)
    linear.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))
    return linear


def routes(index: Tensor, experts: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Every expert that is chosen, ascending, with the tokens that chose it and the places at which they did:
    `index` (t, k), where the number `experts` stands for none. IndexError for a number beyond.
    """
    order, counts = sorted_choices(index, experts)
    for expert, part in enumerate(order.split(counts)):
        if expert < experts and len(part):
            yield expert, part % len(index), part // len(index)


def sorted_choices(index: Tensor, experts: int) -> tuple[Tensor, list[int]]:
    """The choices in `index` (t, k) by their experts, ascending: the numbers place · t + token (t k,), and
    how many choose each expert, with none, the number `experts`, at the end. IndexError for a number beyond.
    """
    with torch.no_grad():
        flat = index.T.reshape(-1)  # in the order in which transformers takes them
        order = flat.argsort(stable=True)
        counts = flat.bincount(minlength=experts + 1).tolist()
    if len(counts) > experts + 1:
        raise IndexError(f"the expert {len(counts) - 1} is chosen; there are {experts}")
    return order, counts


def split_experts(model: nn.Module, wanted: Callable[[str], bool] = lambda path: True) -> list[str]:
    """Replace the modules of fused experts whose paths are `wanted`; returns these paths."""
    found = [
        (path, module, layout)
        for path, module in model.named_modules()
        if (layout := layout_of(module)) is not None and wanted(path)
    ]
    for path, module, layout in found:
        model.set_submodule(path, SplitExperts(module, layout))
        # some models initialize the experts' parameters, which are gone, from the module around them
        around: Any = model.get_submodule(path.rpartition(".")[0])
        around._is_hf_initialized = True
    return [path for path, _, _ in found]


def fuse_experts(model: nn.Module) -> None:
    """Undo `split_experts`: the experts' linears, all plain, become parameters of three dims again."""
    for path, module in list(model.named_modules()):
        if isinstance(module, SplitExperts):
            model.set_submodule(path, module.fuse())


def gates(model: nn.Module) -> set[str]:
    """The linears that decide between experts, or weigh a shared one: they have one output for each of a
    layer's experts, or one, and are called a gate or a router. They stay in full precision, because a small
    error of theirs sends a token elsewhere.
    """
    found: set[str] = set()
    for path in expert_paths(model):
        parent, _, _ = path.rpartition(".")
        experts: Any = model.get_submodule(path)
        for name, module in model.get_submodule(parent).named_modules():
            chooses = any(word.endswith(("gate", "router")) for word in name.split("."))
            if chooses and isinstance(module, nn.Linear) and module.out_features in (1, experts.num_experts):
                found.add(f"{parent}.{name}")
    return found


def choosing(model: nn.Module, path: str) -> list[Any]:
    """The modules that hold how many experts a token gets, `top_k`, for the experts at a path: the router,
    the module around them, or both. None where the router reads it from the config.
    """
    around = model.get_submodule(path.rpartition(".")[0])
    experts = {id(module) for module in model.get_submodule(path).modules()}
    return [
        module
        for module in around.modules()
        if id(module) not in experts and type(getattr(module, "top_k", None)) is int
    ]


def expert_paths(model: nn.Module) -> list[str]:
    """The paths of the modules whose experts are split."""
    return [path for path, module in model.named_modules() if isinstance(module, SplitExperts)]
