"""The requirements for every pruner: it returns exactly k tokens, ascending and reproducible; and in a model
the logits are those with the dropped tokens masked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from bivlm.contracts.hiding import hidden_tokens
from bivlm.contracts.member import Member, embedded_member
from bivlm.contracts.parameters import parametrize
from bivlm.pruning import Candidates, Pruner, tokens_kept
from bivlm.pruning.apply import active_pruning, prune
from bivlm.pruning.dropping.geometry import shape_of, token_places
from bivlm.pruning.settings import Pruning

BATCHES = ((0,), (0, 1, 2))
TOLERANCE = 2e-4


class PrunerContract:
    """Subclass it, and set `examples`: pruners whose settings together take every branch, the defaults first;
    and, for other models than the embedded one, `members`.
    """

    examples: ClassVar[Sequence[Pruner]] = ()
    members: ClassVar[Sequence[Member]] = (embedded_member(),)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """`example`: all of them; `member`: those that can drop tokens; `in_tower`: pruners that work in a
        vision tower; `in_prompt`: members with visual tokens in their prompts; `with_tower`: those whose
        patches correspond to tokens.
        """
        if not self.examples:
            raise pytest.UsageError(
                f"{type(self).__name__} has no examples; set `examples`, the defaults first"
            )
        members = [member for member in self.members if member.drops]
        chosen: dict[str, list[Any]] = {
            "example": list(self.examples),
            "in_tower": [pruner for pruner in self.examples if pruner.queries != "last"],
            "member": members,
            "in_prompt": [member for member in members if not member.crosses],
            "with_tower": [member for member in members if member.family.patch_tokens is not None],
        }
        parametrize(metafunc, chosen, ids=_id_of)

    @pytest.fixture(autouse=True)
    def _unpruned(self, request: pytest.FixtureRequest) -> Iterator[None]:
        """Members are shared: a test leaves them as they were."""
        names = {"member", "in_prompt", "with_tower"} & set(request.fixturenames)
        members = [request.getfixturevalue(name) for name in names]
        yield
        for member in members:
            prune(member.model, None)

    def test_settings_are_frozen_and_come_back_from_a_dict(self, example: Pruner) -> None:
        settings = dataclasses.asdict(example)  # pyright: ignore[reportArgumentType]
        assert type(example)(**settings) == example
        for name in settings:
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(example, name, settings[name])
        with pytest.raises(ValueError, match="strange_setting"):
            type(example)(strange_setting=1)  # pyright: ignore[reportCallIssue]

    @pytest.mark.parametrize("count", [2, 3, 17, 40])
    def test_k_of_them_stay_in_order_and_the_same_ones_again(self, example: Pruner, count: int) -> None:
        for seed in range(5):
            seen = candidates(count, seed)
            before = seen.features.clone(), seen.places.clone()
            for k in sorted({1, count // 2, count - 1}):
                kept = example.select(seen, k)
                assert (kept.shape, kept.dtype) == ((k,), torch.int64)
                assert bool((kept.diff() > 0).all())
                assert 0 <= int(kept[0]) <= int(kept[-1]) < count
                assert torch.equal(kept, example.select(seen, k))
            assert torch.equal(seen.features, before[0])
            assert torch.equal(seen.places, before[1])

    def test_tokens_that_are_alike_are_no_trouble(self, example: Pruner) -> None:
        """Equal features, zeros, one place and no attention: k of them stay all the same."""
        for features in (torch.zeros(9, 6), torch.ones(9, 6)):
            scores = None if example.queries is None else torch.zeros(9)
            kept = example.select(Candidates(features, scores, torch.zeros(9, 3), 0), 4)
            assert (len(kept), len(set(kept.tolist()))) == (4, 4)

    def test_keeping_everything_changes_nothing(self, member: Member, example: Pruner) -> None:
        inputs = member.ask(0, 1)
        expected = member.logits(inputs)
        prune(member.model, Pruning(example, 1, layer=1))
        assert torch.equal(member.logits(inputs), expected)

    @pytest.mark.parametrize("keep", [0.3, 0.01])
    def test_the_share_is_kept_and_the_text_stays(self, member: Member, example: Pruner, keep: float) -> None:
        inputs = member.ask(0, 1, 2)
        prune(member.model, Pruning(example, keep, layer=1))
        member.logits(inputs)
        decision = decision_of(member)
        for stay, offered in zip(decision.chosen, decision.offered, strict=True):
            assert len(stay) == tokens_kept(offered, keep)
            assert bool((stay.diff() > 0).all())
            assert 0 <= int(stay[0]) <= int(stay[-1]) < offered
        if member.crosses:
            return  # the image is not in the prompt, from which nothing can be dropped
        assert list(decision.offered) == member.visual(inputs).sum(1).tolist()
        text = inputs["attention_mask"].bool() & ~member.visual(inputs)
        going = torch.zeros_like(text)
        real = [slice(None)] * 3 if decision.kept.real is None else decision.kept.real
        for row, index, present in zip(going, decision.kept.index, real, strict=True):
            row[index[present]] = True
        assert bool((going | ~text).all()), "a text token was dropped"

    @pytest.mark.parametrize("numbers", BATCHES)
    @pytest.mark.parametrize("layer", [0, 2])
    def test_logits_are_those_of_a_model_that_masks_what_was_dropped(
        self, in_prompt: Member, example: Pruner, layer: int, numbers: tuple[int, ...]
    ) -> None:
        member, inputs = in_prompt, in_prompt.ask(*numbers)
        prune(member.model, Pruning(example, 0.3, layer=layer))
        found = member.logits(inputs)
        hidden, kept = hidden_in_prompt(member, inputs), decision_of(member).kept
        prune(member.model, None)
        with hidden_tokens(member.model, dict.fromkeys(member.last_stack("language")[layer:], hidden)):
            expected = member.logits(inputs)
        real = torch.ones_like(kept.index, dtype=torch.bool) if kept.real is None else kept.real
        for row in range(len(numbers)):
            there = kept.index[row][real[row]]
            torch.testing.assert_close(
                found[row][real[row]], expected[row][there], rtol=TOLERANCE, atol=TOLERANCE
            )
        assert hidden.any()

    @pytest.mark.parametrize("numbers", BATCHES)
    def test_patches_that_leave_the_tower_are_seen_by_nobody(
        self, with_tower: Member, in_tower: Pruner, numbers: tuple[int, ...]
    ) -> None:
        member, inputs = with_tower, with_tower.ask(*numbers)
        prune(member.model, Pruning(in_tower, 0.4, layer=1, site="vision"))
        found = member.logits(inputs)
        hidden = hidden_in_prompt(member, inputs)
        active: Any = active_pruning(member.model)
        patches = active.encoding.patches.kept
        gone = torch.ones(len(patches.index), patches.length, dtype=torch.bool)
        gone.scatter_(1, patches.index, False)
        prune(member.model, None)
        blocks = dict.fromkeys(member.last_stack("vision")[1:], gone)
        with hidden_tokens(member.model, blocks | dict.fromkeys(member.last_stack("language"), hidden)):
            expected = member.logits(inputs)
        torch.testing.assert_close(found[:, -4:], expected[:, -4:], rtol=TOLERANCE, atol=TOLERANCE)
        assert gone.any()
        assert hidden.any()


def _id_of(one: Member | Pruner) -> str:
    return str(one) if isinstance(one, Member) else str(Pruning(one, 1)).replace(":layer=0,keep=1", "")


def candidates(count: int, seed: int) -> Candidates:
    """Random tokens of one image."""
    generator = torch.Generator().manual_seed(seed)
    features, scores = torch.randn(count, 6, generator=generator), torch.rand(count, generator=generator)
    return Candidates(features, scores, token_places([shape_of(count)]), seed)


def decision_of(member: Member) -> Any:
    """The latest decision of the pruning that works on a member."""
    active = active_pruning(member.model)
    assert active is not None
    assert active.last is not None
    return active.last


def hidden_in_prompt(member: Member, inputs: dict[str, Tensor]) -> Tensor:
    """(batch, t) bool: where the latest decision dropped a visual token, from its list of those that stay."""
    hidden = member.visual(inputs).clone()
    for row, stay in zip(hidden, decision_of(member).chosen, strict=True):
        row[row.nonzero()[:, 0][stay]] = False
    return hidden
