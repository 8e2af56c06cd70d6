"""The declaration of a family, checked on a small member: the stacks, the linears that stay in full
precision, the outputs that the model reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bivlm.contracts.member import Member
from bivlm.contracts.samples import picture, tiny_samples


class DeclarationContract:
    """The declaration fits the model."""

    members: ClassVar[Sequence[Member]]

    def test_every_linear_is_in_a_stack_or_stays_in_full_precision(self, member: Member) -> None:
        for name, module in member.model.named_modules():
            if isinstance(module, nn.Linear):
                owners = [
                    stack.path for stack in member.family.stacks if f"{name}.".startswith(f"{stack.path}.")
                ]
                kept = any(fnmatchcase(name, pattern) for pattern in member.family.full_precision)
                assert len(owners) == 1 or (not owners and kept), f"{name} belongs to {owners}, kept: {kept}"

    def test_every_pattern_of_full_precision_matches_something(self, member: Member) -> None:
        """In this member, or in one of a family with the same list: a pooling head that one tower lacks,
        another has.
        """
        patterns = set(member.family.full_precision)
        for other in (member, *self.members):
            if patterns and other.family.full_precision == member.family.full_precision:
                names = [name for name, _ in other.model.named_modules()]
                patterns -= {one for one in patterns if any(fnmatchcase(name, one) for name in names)}
        assert patterns == set()

    def test_blocks_run_once_each_on_the_output_of_the_one_before(self, member: Member) -> None:
        runs: list[Any] = []
        with ExitStack() as hooks:
            for number, stack in enumerate(member.family.stacks):
                for index, block in enumerate(member.blocks(stack)):
                    hooks.enter_context(
                        watched(
                            block,
                            lambda entered, left, place=(number, index): runs.append((place, entered, left)),
                        )
                    )
            member.logits(member.ask(1))
        expected = [
            (number, index)
            for number, stack in enumerate(member.family.stacks)
            for index in range(len(member.blocks(stack)))
        ]
        assert [place for place, _, _ in runs] == expected
        for (before, _, left), (after, entered, _) in pairwise(runs):
            assert entered is left or before[0] != after[0]

    def test_the_model_reads_the_declared_outputs_and_no_others(self, member: Member) -> None:
        """A stack that replays the declared outputs, and returns the input unchanged in the other blocks,
        gives the same logits; with one output fewer the logits differ.
        """
        inputs = member.ask(1)
        for stack in member.family.stacks:
            blocks, runs = member.blocks(stack), []
            with ExitStack() as hooks:
                for block in blocks:
                    hooks.enter_context(watched(block, lambda _, left, runs=runs: runs.append(left)))
                logits = member.logits(inputs)
            declared = {index: runs[index] for index in stack.outputs(member.config, len(blocks))}
            assert torch.equal(_play(member, inputs, blocks, declared), logits)
            if stack.part == "projector":
                continue  # input and output of a projector have different widths
            for index in declared:
                others = {other: output for other, output in declared.items() if other != index}
                assert not torch.equal(_play(member, inputs, blocks, others), logits)

    def test_visual_linears_see_the_image_and_nothing_else(self, member: Member) -> None:
        """With another question about the same image their input stays the same; the input of every other
        linear of the language blocks changes.
        """
        stack = member.family.stacks[-1]
        seen = []
        for number in (0, 1):
            sample, image = tiny_samples(3)[number], picture(tiny_samples(1)[0])
            inputs = member.family.inputs(member.processor, [sample], [image], member.config)
            received: dict[str, Tensor] = {}
            with ExitStack() as hooks:
                for name, linear in member.model.get_submodule(stack.path).named_modules():
                    if isinstance(linear, nn.Linear):
                        hooks.enter_context(
                            watched(
                                linear,
                                lambda entered, _, name=name, received=received: received.update(
                                    {name: entered}
                                ),
                            )
                        )
                member.logits(inputs)
            seen.append(received)
        same = {
            name
            for name in seen[0]
            if seen[0][name].shape == seen[1][name].shape and torch.equal(seen[0][name], seen[1][name])
        }
        declared = {
            name for name in seen[0] if any(name.endswith("." + ending) for ending in stack.visual_linears)
        }
        assert same == declared
        assert bool(declared) == bool(stack.visual_linears)

    def test_the_untied_head_is_the_head_where_it_is_untied(self, member: Member) -> None:
        model = member.model
        head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
        assert (head.weight is embedding.weight) == member.tied
        names = {name for name, parameter in model.named_parameters() if parameter is head.weight}
        assert member.family.untied_head(model) == (frozenset() if member.tied else names)
        assert len(names) == 1


@contextmanager
def watched(block: nn.Module, note: Callable[[Tensor, Tensor], None]) -> Iterator[None]:
    """Within this context `note` receives the input and the output of `block`."""

    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        note(args[0] if args else kwargs["hidden_states"], output[0] if isinstance(output, tuple) else output)

    handle = block.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _play(
    member: Member, inputs: dict[str, Tensor], blocks: list[nn.Module], outputs: dict[int, Tensor]
) -> Tensor:
    with ExitStack() as patches:
        for index, block in enumerate(blocks):
            block.forward = lambda *args, index=index, **kwargs: (
                outputs[index] if index in outputs else args[0] if args else kwargs["hidden_states"]
            )
            patches.callback(block.__dict__.pop, "forward")
        return member.logits(inputs)
