"""What every family must keep, tried on a tiny seeded member of each: the declaration fits the model, and the
inputs fit the declaration.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import bivlm.families
from bivlm.families import FAMILIES, Family, Stack, family_of
from tiny import KINDS, TIED, tiny_checkpoint, tiny_model, tiny_processor, tiny_samples

NOT_FAMILIES = {"__init__", "base", "inputs", "processors"}
each_kind = pytest.mark.parametrize("kind", KINDS)

# how each tiny member asks "Is it red?" about the first image; a run of n image tokens is written as token×n
PROMPTS = {
    "llava": "<s>USER: <image>×16\nIs it red? ASSISTANT:",
    "llava_siglip": "USER: <image>×16\nIs it red? ASSISTANT:",
    "llava_next": "<s>[INST] <image>×72\nIs it red? [/INST]",
    "llava_onevision": "<|im_start|>user <image>×72\nIs it red?<|im_end|><|im_start|>assistant\n",
    "qwen2_vl": (
        "<|im_start|>user\n<|vision_start|><|image_pad|>×6<|vision_end|>Is it"
        " red?<|im_end|>\n<|im_start|>assistant\n"
    ),
    "qwen2_5_vl": (
        "<|im_start|>user\n<|vision_start|><|image_pad|>×6<|vision_end|>Is it"
        " red?<|im_end|>\n<|im_start|>assistant\n"
    ),
    "mllama": (
        "<s><|start_header_id|>user<|end_header_id|>\n\n<|image|>×1Is it"
        " red?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "idefics3": (
        "<s>User:<fake_token_around_image><row_1_col_1><image>×4<fake_token_around_image><row_1_col_2><image>×4\n<fake_token_around_image><row_2_col_1><image>×4<fake_token_around_image><row_2_col_2><image>×4\n\n<fake_token_around_image><global-img><image>×4<fake_token_around_image>Is"
        " it red?<end_of_utterance>\nAssistant:"
    ),
}
PROMPTS["smolvlm"] = PROMPTS["idefics3"]


@dataclass(frozen=True)
class Member:
    """A tiny model with what belongs to it. The tests leave it as it is."""

    model: Any
    processor: Any
    family: Family

    @property
    def config(self) -> transformers.PretrainedConfig:
        return self.model.config

    def ask(self, *numbers: int) -> dict[str, Tensor]:
        """The inputs of some of the three tiny samples, as one batch."""
        samples = [tiny_samples(3)[number] for number in numbers]
        return self.family.inputs(self.processor, samples, [sample.image for sample in samples], self.config)

    def blocks(self, stack: Stack) -> list[nn.Module]:
        module = self.model.get_submodule(stack.path)
        return list(module) if isinstance(module, nn.ModuleList) else [module]

    @torch.inference_mode()
    def logits(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.model(**inputs, use_cache=False).logits


@cache
def member(kind: str) -> Member:
    model = tiny_model(kind)
    return Member(model, tiny_processor(kind), family_of(model.config))


def test_the_table_is_complete_and_every_family_has_a_tiny_member():
    files = {path.stem for path in Path(bivlm.families.__file__).parent.glob("*.py")} - NOT_FAMILIES
    assert files == set(FAMILIES)
    assert {member(kind).family.model_type for kind in KINDS} == set(FAMILIES)
    assert all(family.model_type == name for name, family in FAMILIES.items())


# ---- the declaration fits the model


@each_kind
def test_every_linear_is_in_a_stack_or_kept(kind: str):
    subject = member(kind)
    for name, module in subject.model.named_modules():
        if isinstance(module, nn.Linear):
            owners = [
                stack.path for stack in subject.family.stacks if f"{name}.".startswith(f"{stack.path}.")
            ]
            kept = any(fnmatchcase(name, pattern) for pattern in subject.family.full_precision)
            assert len(owners) == 1 or (not owners and kept), f"{name} belongs to {owners}, kept: {kept}"


@pytest.mark.parametrize(
    ("name", "pattern"),
    [(name, pattern) for name, family in FAMILIES.items() for pattern in family.full_precision],
)
def test_every_keep_pattern_matches_something(name: str, pattern: str):
    """In a tiny member of the family, or in one of a family with the same list: a pooling head that one tower
    lacks, another has.
    """
    models = [
        member(kind).model
        for kind in KINDS
        if member(kind).family.full_precision == FAMILIES[name].full_precision
    ]
    assert any(fnmatchcase(module, pattern) for model in models for module, _ in model.named_modules())


@each_kind
def test_blocks_run_once_each_on_the_output_of_the_one_before(kind: str):
    subject, runs = member(kind), []
    with ExitStack() as hooks:
        for number, stack in enumerate(subject.family.stacks):
            for index, block in enumerate(subject.blocks(stack)):
                hooks.enter_context(
                    _watched(
                        block,
                        lambda entered, left, place=(number, index): runs.append((place, entered, left)),
                    )
                )
        subject.logits(subject.ask(1))
    expected = [
        (number, index)
        for number, stack in enumerate(subject.family.stacks)
        for index in range(len(subject.blocks(stack)))
    ]
    assert [place for place, _, _ in runs] == expected
    for (before, _, left), (after, entered, _) in pairwise(runs):
        assert entered is left or before[0] != after[0]


@contextmanager
def _watched(block: nn.Module, note: Callable[[Tensor, Tensor], None]) -> Iterator[None]:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        note(args[0] if args else kwargs["hidden_states"], output[0] if isinstance(output, tuple) else output)

    handle = block.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@each_kind
def test_the_model_reads_the_declared_outputs_and_no_others(kind: str):
    """A stack that plays back the declared outputs, and hands on what enters in the other blocks, gives the
    same logits; with one fewer, others.
    """
    subject = member(kind)
    inputs = subject.ask(1)
    for stack in subject.family.stacks:
        blocks, runs = subject.blocks(stack), []
        with ExitStack() as hooks:
            for block in blocks:
                hooks.enter_context(_watched(block, lambda _, left, runs=runs: runs.append(left)))
            logits = subject.logits(inputs)
        declared = {index: runs[index] for index in stack.outputs(subject.config, len(blocks))}
        assert torch.equal(_play(subject, inputs, blocks, declared), logits)
        if stack.part == "projector":
            continue  # what enters a projector has another width than what leaves it
        for index in declared:
            others = {other: output for other, output in declared.items() if other != index}
            assert not torch.equal(_play(subject, inputs, blocks, others), logits)


def _play(
    subject: Member, inputs: dict[str, Tensor], blocks: list[nn.Module], outputs: dict[int, Tensor]
) -> Tensor:
    with ExitStack() as patches:
        for index, block in enumerate(blocks):
            block.forward = lambda *args, index=index, **kwargs: (
                outputs[index] if index in outputs else args[0] if args else kwargs["hidden_states"]
            )
            patches.callback(block.__dict__.pop, "forward")
        return subject.logits(inputs)


@each_kind
def test_visual_linears_see_the_image_and_nothing_else(kind: str):
    """With another question about the same image their input stays the same; every other linear of the
    language blocks gets another one.
    """
    subject = member(kind)
    stack = subject.family.stacks[-1]
    seen = []
    for number in (0, 1):
        sample, image = tiny_samples(3)[number], tiny_samples(1)[0].image
        inputs = subject.family.inputs(subject.processor, [sample], [image], subject.config)
        received: dict[str, Tensor] = {}
        with ExitStack() as hooks:
            for name, linear in subject.model.get_submodule(stack.path).named_modules():
                if isinstance(linear, nn.Linear):
                    hooks.enter_context(
                        _watched(
                            linear,
                            lambda entered, _, name=name, received=received: received.update({name: entered}),
                        )
                    )
            subject.logits(inputs)
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


@each_kind
def test_what_calibration_leaves_out_is_the_untied_head(kind: str):
    subject = member(kind)
    tied = subject.model.get_output_embeddings().weight is subject.model.get_input_embeddings().weight
    assert tied == (kind in TIED)
    assert subject.family.untied_head(subject.model) == (
        frozenset() if tied else frozenset({"lm_head.weight"})
    )


# ---- the inputs fit the model


@each_kind
def test_prompt_is_the_golden_text(kind: str):
    subject = member(kind)
    text = subject.processor.tokenizer.decode(subject.ask(0)["input_ids"][0])
    token = re.escape(subject.processor.image_token)
    assert (
        re.sub(
            f"({token})+",
            lambda run: f"{subject.processor.image_token}×{len(re.findall(token, run[0]))}",
            text,
        )
        == PROMPTS[kind]
    )


@each_kind
def test_a_sample_gives_the_same_logits_alone_and_in_a_padded_batch(kind: str):
    subject = member(kind)
    batch = subject.ask(0, 1, 2)
    assert len({int(count) for count in batch["attention_mask"].sum(1)}) > 1
    together = subject.logits(batch)
    for number in range(3):
        inputs = subject.ask(number)
        alone, length = subject.logits(inputs)[0], inputs["input_ids"].shape[1]
        assert inputs["attention_mask"].all()
        assert alone.isfinite().all()
        assert not batch["attention_mask"][number, :-length].any()
        torch.testing.assert_close(together[number, -length:], alone, rtol=0, atol=1e-4)


@each_kind
def test_inputs_are_what_forward_takes_and_generate_accepts(kind: str):
    subject = member(kind)
    inputs = subject.ask(0, 1, 2)
    answers, logits = _generate(subject, inputs)
    assert answers.shape == (3, 4)
    torch.testing.assert_close(subject.logits(inputs)[:, -1], logits[:, 0], rtol=0, atol=1e-4)


@each_kind
def test_visual_mask_marks_the_places_that_the_image_fills(kind: str):
    """What enters the first language block differs between two images exactly there."""
    subject = member(kind)
    sample, entered = tiny_samples(2)[1], []
    image = sample.image
    for picture in (image, image.rotate(180)):
        inputs = subject.family.inputs(subject.processor, [sample], [picture], subject.config)
        with _watched(subject.blocks(subject.family.stacks[-1])[0], lambda states, _: entered.append(states)):
            subject.logits(inputs)
    differs = (entered[0] != entered[1]).any(-1)
    row_ends = kind in (
        "llava_next",
        "llava_onevision",
    )  # visual tokens that are the same for every image: the learned end of a row
    mask = subject.family.visual_mask(subject.config, inputs["input_ids"])
    assert mask.dtype == torch.bool
    assert not (differs & ~mask).any()
    assert row_ends or torch.equal(mask, differs)
    assert bool(mask.any()) == (kind != "mllama")


@each_kind
def test_inputs_leave_the_processor_as_it_was(kind: str):
    subject = member(kind)
    processor, sample = subject.processor, tiny_samples(1)[0]

    def state() -> tuple[Any, ...]:
        tokenizer = processor.tokenizer
        text = processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a"}]}]
        )
        batch = processor(
            text=[text, text + "longer"],
            images=[[sample.image], [sample.image]],
            padding=True,
            return_tensors="pt",
        )
        return (
            processor.to_json_string(),
            tokenizer.padding_side,
            tokenizer.truncation_side,
            len(tokenizer),
            batch["input_ids"].tolist(),
        )

    before = state()
    subject.ask(0, 1, 2)
    assert state() == before


# ---- prompt and answer


@torch.inference_mode()
def _generate(subject: Member, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Four greedy answer tokens (n, 4) and the logits (n, 4, vocabulary) that chose them, by transformers'
    own cached decoding.
    """
    image = subject.family.image_token_id(subject.config)
    output = subject.model.generate(
        **inputs,
        max_new_tokens=4,
        min_new_tokens=4,
        do_sample=False,
        suppress_tokens=None if image is None else [image],
        output_logits=True,
        return_dict_in_generate=True,
    )
    return output.sequences[:, inputs["input_ids"].shape[1] :], torch.stack(output.logits, dim=1)


@each_kind
def test_extended_inputs_give_the_logits_of_decoding_step_by_step(kind: str):
    subject = member(kind)
    inputs = subject.ask(0, 1, 2)
    answers, stepwise = _generate(subject, inputs)
    forced = subject.logits(subject.family.extend(inputs, answers, torch.ones_like(answers)))
    torch.testing.assert_close(forced[:, inputs["input_ids"].shape[1] - 1 : -1], stepwise, rtol=0, atol=1e-4)


@each_kind
def test_extended_rows_equal_the_concatenated_sequences_alone(kind: str):
    """Answers of different lengths, padded on the right, behind prompts of different lengths, padded on the
    left.
    """
    subject = member(kind)
    answers = torch.tensor([[20, 21, 22, 23], [24, 25, 0, 0], [26, 0, 0, 0]])
    lengths = (4, 2, 1)
    mask = torch.stack([torch.arange(4) < length for length in lengths])
    inputs = subject.ask(0, 1, 2)
    before = {name: tensor.clone() for name, tensor in inputs.items()}
    together = subject.logits(subject.family.extend(inputs, answers, mask))
    assert all(torch.equal(inputs[name], before[name]) for name in before)
    width = inputs["input_ids"].shape[1]
    for number, length in enumerate(lengths):
        one = subject.ask(number)
        prompt = one["input_ids"].shape[1]
        alone = subject.family.extend(
            one, answers[number : number + 1, :length], torch.ones(1, length, dtype=torch.long)
        )
        assert (
            alone["input_ids"][0].tolist() == one["input_ids"][0].tolist() + answers[number, :length].tolist()
        )
        torch.testing.assert_close(
            together[number, width - prompt : width + length], subject.logits(alone)[0], rtol=0, atol=1e-4
        )


# ---- the tiny members themselves


@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_tiny_checkpoint_loads_as_the_same_model_and_processor(kind: str, dtype: torch.dtype, tmp_path):
    folder = tiny_checkpoint(kind, tmp_path / kind, dtype)
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    assert model.dtype == dtype
    again = Member(model, transformers.AutoProcessor.from_pretrained(folder), family_of(model.config))
    assert type(again.processor) is type(member(kind).processor)
    original = Member(tiny_model(kind, dtype), member(kind).processor, member(kind).family)
    logits = again.logits(again.ask(0, 1))
    assert logits.isfinite().all()
    assert torch.equal(logits, original.logits(original.ask(0, 1)))
