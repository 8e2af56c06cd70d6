"""The declaration of a family, checked on a small member: the stacks, the linears that stay in full
precision, the outputs that the model reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bivlm.calibration.paused import hidden_of
from bivlm.calibration.streams import replayed_logits
from bivlm.contracts.member import Member
from bivlm.contracts.samples import picture, tiny_samples
from bivlm.families.linears import is_linear


class DeclarationContract:
    """The declaration fits the model."""

    members: ClassVar[Sequence[Member]]

    def test_every_linear_is_in_a_stack_or_stays_in_full_precision(self, member: Member) -> None:
        for name, module in member.model.named_modules():
            if is_linear(module):
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

    def test_blocks_run_once_each_in_the_order_of_their_stack(self, member: Member) -> None:
        runs: list[tuple[int, int]] = []
        with ExitStack() as hooks:
            for number, stack in enumerate(member.family.stacks):
                for index, block in enumerate(member.blocks(stack)):
                    hooks.enter_context(
                        watched(block, lambda _entered, _left, place=(number, index): runs.append(place))
                    )
            member.logits(member.ask(1))
        assert len(set(runs)) == len(runs)
        for number, stack in enumerate(member.family.stacks):
            own = [index for place, index in runs if place == number]
            assert own == list(range(len(member.blocks(stack))))

    def test_a_forward_pass_that_is_paused_at_every_block_computes_the_same(self, member: Member) -> None:
        """Bit for bit, though every block runs twice, as it does while it is observed."""
        inputs = member.ask(1)
        assert torch.equal(replayed_logits(member.model, inputs, member.paths), member.logits(inputs))

    def test_the_model_reads_the_declared_outputs_of_the_tower_and_no_others(self, member: Member) -> None:
        """A tower that replays the declared outputs, and returns the input unchanged in the other blocks,
        gives the same logits; with one output fewer the logits differ. Projectors that run between the
        tower's blocks are replayed.
        """
        if member.family.patch_tokens is None:
            return  # patches are not pruned in its tower, and nothing else asks which outputs are read
        inputs, tower = member.ask(1), member.last_stack("vision")
        projectors = [b for s in member.family.stacks if s.part == "projector" for b in member.blocks(s)]
        runs: dict[nn.Module, Tensor] = {}
        with ExitStack() as hooks:
            for block in (*tower, *projectors):
                hooks.enter_context(watched(block, lambda _, left, block=block: runs.update({block: left})))
            logits = member.logits(inputs)
        ran = list(runs)
        between = {block: runs[block] for block in projectors if ran.index(block) < ran.index(tower[-1])}
        declared = member.family.tower_outputs(member.config, len(tower))
        for left_out in (None, *declared):
            outputs = {tower[index]: runs[tower[index]] for index in declared if index != left_out}
            played = _play(member, inputs, tower, between | outputs)
            assert torch.equal(played, logits) == (left_out is None)

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
                    if is_linear(linear):
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
        note(hidden_of((args, kwargs)), hidden_of(output))

    handle = block.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _play(
    member: Member, inputs: dict[str, Tensor], tower: list[nn.Module], outputs: dict[nn.Module, Tensor]
) -> Tensor:
    """The logits, where modules return these outputs, and other blocks of the tower what they received."""
    with ExitStack() as patches:
        for block in {*tower, *outputs}:
            block.forward = lambda *args, block=block, **kwargs: (
                outputs[block] if block in outputs else hidden_of((args, kwargs))
            )
            patches.callback(block.__dict__.pop, "forward")
        return member.logits(inputs)
