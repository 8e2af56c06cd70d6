"""Split experts compute what transformers' own modules compute, from the same numbers, and go back to
them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from bivlm.families.experts import (
    SplitExperts,
    expert_paths,
    fuse_experts,
    gates,
    layout_of,
    routes,
    split_experts,
)

COUNT, WIDTH, INNER = 4, 8, 6
MODELS = Path(transformers.__file__).parent / "models"
# with plain weights; clamps; no gate; a norm after each expert; transposed, with biases and rows of gate and
# up in turn; transposed, with a forward of its own
USUAL = ("mixtral", "step3p7", "nemotron_h", "muse_spark", "gpt_oss", "llama4")


class AnyConfig:
    """Whatever a module of experts asks of its config."""

    _experts_implementation = "eager"
    moe_latent_size = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        values = {"act": "silu", "limit": 1.5, "alpha": 1.7, "eps": 1e-6, "softcap": 2.0}
        found = next((value for part, value in values.items() if part in name), None)
        sizes = {"expert": COUNT, "intermediate": INNER, "ffn": INNER, "hidden": WIDTH}
        return found or next(value for part, value in sizes.items() if part in name)


def classes(models: Iterator[str] | tuple[str, ...]) -> Iterator[type[nn.Module]]:
    for model in models:
        module = import_module(f"transformers.models.{model}.modeling_{model}")
        for name, found in vars(module).items():
            own = inspect.isclass(found) and found.__module__ == module.__name__
            if own and name.endswith("Experts") and issubclass(found, nn.Module):
                yield found


def seeded(kind: type[nn.Module]) -> nn.Module:
    asked = (
        list(inspect.signature(kind.__init__.__wrapped__).parameters.values())
        if hasattr(kind.__init__, "__wrapped__")
        else []
    )
    more = [1 for one in asked[2:] if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD]
    module = kind(AnyConfig(), *more)
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module.requires_grad_(False)


def arguments(module: nn.Module) -> tuple[torch.Tensor, ...]:
    layout = layout_of(module)
    assert layout is not None
    if layout.sorted_rows:
        chosen = torch.rand(COUNT, 10, 1) > 0.5
        return ((torch.randn(COUNT, 10, WIDTH) * chosen).reshape(-1, WIDTH),)
    index = torch.stack([torch.randperm(COUNT)[:2] for _ in range(10)])
    index[3, 1] = COUNT  # chosen by nobody, as where experts are on other machines
    return torch.randn(10, WIDTH), index, torch.rand(10, 2)


def check(kind: type[nn.Module]) -> None:
    module = seeded(kind)
    given = arguments(module)
    if kind.__name__ in ("GptOssExperts", "NemotronHExperts", "OpenAIPrivacyFilterExperts"):
        given[1].clamp_(max=COUNT - 1)  # these know no number for nobody
    expected, stored = module(*given), {name: one.clone() for name, one in module.named_parameters()}
    transposed = layout_of(module).transposed
    root = nn.ModuleDict({"experts": module})
    assert split_experts(root) == expert_paths(root) == ["experts"]
    found = root.experts(*given)
    if transposed:  # a product with the transpose rounds otherwise
        torch.testing.assert_close(found, expected)
    else:
        assert torch.equal(found, expected), kind
    fuse_experts(root)
    again = dict(root.experts.named_parameters())
    assert again.keys() == stored.keys()
    assert all(torch.equal(again[name], one) for name, one in stored.items())
    assert torch.equal(root.experts(*given), expected)


@pytest.mark.parametrize("model", USUAL)
def test_they_compute_the_same_numbers(model):
    [kind] = [kind for kind in classes((model,)) if layout_of(seeded(kind)) is not None]
    check(kind)


@pytest.mark.slow
def test_all_that_transformers_marks_compute_the_same_numbers():
    marked = sorted(
        path.parent.name
        for path in MODELS.glob("*/modeling_*.py")
        if "@use_experts_implementation" in path.read_text()
        and path.name == f"modeling_{path.parent.name}.py"
    )
    left_out = []
    for kind in classes(tuple(marked)):
        if layout_of(seeded(kind)) is None:
            left_out.append(kind.__name__)
        else:
            check(kind)
    assert len(marked) > 50
    assert left_out == ["InklingSharedExperts"]  # every token meets all of them


def test_the_experts_that_are_chosen_come_in_order_with_their_tokens():
    index = torch.tensor([[2, 0], [0, 3], [4, 2]])  # 4 stands for none
    found = {expert: (tokens.tolist(), places.tolist()) for expert, tokens, places in routes(index, 4)}
    assert found == {0: ([1, 0], [0, 1]), 2: ([0, 2], [0, 1]), 3: ([1], [1])}
    with pytest.raises(IndexError, match="the expert 5 is chosen; there are 4"):
        list(routes(torch.tensor([[5]]), 4))
    assert list(routes(torch.empty(0, 2, dtype=torch.int64), 4)) == []


def test_one_expert_and_more_places_than_experts():
    module = SplitExperts(one := seeded(next(classes(("mixtral",)))), layout_of(one))
    hidden, everywhere = torch.randn(3, WIDTH), torch.tensor([[0] * 6] * 3)
    expected = module.run(0, hidden, torch.arange(3))
    torch.testing.assert_close(module(hidden, everywhere, torch.full((3, 6), 1 / 6)), expected)


def test_what_holds_anything_else_is_left_alone():
    module = seeded(next(classes(("mixtral",))))
    module.register_parameter("more", nn.Parameter(torch.zeros(3)))
    assert layout_of(module) is None
    assert layout_of(nn.Linear(3, 3)) is None


def test_linears_that_choose_experts_are_found():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = seeded(next(classes(("mixtral",))))
            self.router, self.shared_expert_gate = nn.Linear(WIDTH, COUNT), nn.Linear(WIDTH, 1)
            self.gate_proj, self.k_proj = nn.Linear(WIDTH, INNER), nn.Linear(WIDTH, COUNT)

    model = nn.ModuleDict({"mlp": Block(), "router": nn.Linear(WIDTH, COUNT)})
    assert gates(model) == set()
    split_experts(model)
    assert gates(model) == {"mlp.router", "mlp.shared_expert_gate"}
