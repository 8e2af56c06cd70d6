"""The inputs that a family makes, checked on a small member: prompts, padding, masks, and prompts with
answers in one sequence.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

from bivlm.contracts.declaration import watched
from bivlm.contracts.member import Member
from bivlm.contracts.samples import mixed_samples, picture, tiny_samples
from bivlm.errors import InputError


class InputsContract:
    """The inputs fit the model."""

    def test_prompt_is_the_golden_text(self, member: Member) -> None:
        tokenizer = member.processor.tokenizer
        text = tokenizer.decode(member.ask(0)["input_ids"][0])
        visual = member.family.image_token_id(member.config)
        name = member.processor.image_token if visual is None else tokenizer.convert_ids_to_tokens(visual)
        token = re.escape(name)
        counted = re.sub(f"({token})+", lambda run: f"{name}×{len(re.findall(token, run[0]))}", text)
        assert counted == member.prompt

    def test_a_sample_gives_the_same_logits_alone_and_in_a_padded_batch(self, member: Member) -> None:
        batch = member.ask(0, 1, 2)
        assert len({int(count) for count in batch["attention_mask"].sum(1)}) > 1
        together = member.logits(batch)
        for number in range(3):
            inputs = member.ask(number)
            alone, length = member.logits(inputs)[0], inputs["input_ids"].shape[1]
            assert inputs["attention_mask"].all()
            assert alone.isfinite().all()
            assert not batch["attention_mask"][number, :-length].any()
            torch.testing.assert_close(together[number, -length:], alone, rtol=0, atol=1e-4)

    def test_every_number_of_images_gives_the_same_logits_alone_and_in_a_padded_batch(
        self, member: Member
    ) -> None:
        """None, one, two, and two in the midst of the text; where the family says that they do not mix, they
        are refused.
        """
        samples = mixed_samples()
        refused = [sample for sample in samples if not member.takes(sample)]
        for sample in refused:
            with pytest.raises(InputError, match=sample.origin):
                member.inputs([sample])
        samples = [sample for sample in samples if sample not in refused]
        if not member.family.mixed_batches:
            with pytest.raises(InputError, match="batch size of 1"):
                member.inputs(samples)
            samples = [sample for sample in samples if len(sample.images) == len(samples[0].images)]
        together = member.logits(member.inputs(samples))
        for number, sample in enumerate(samples):
            alone = member.logits(member.inputs([sample]))[0]
            assert alone.isfinite().all()
            torch.testing.assert_close(together[number, -len(alone) :], alone, rtol=0, atol=1e-4)

    def test_every_image_is_seen_in_its_place(self, member: Member) -> None:
        for sample in filter(member.takes, mixed_samples()[:2]):
            first, second = sample.images
            logits = [
                member.logits(member.inputs([replace(sample, image=images)]))[0, -1]
                for images in ((first, second), (second, first), (first, first))
            ]
            for one, other in combinations(logits, 2):
                assert (one - other).abs().max() > 1e-4

    def test_a_system_prompt_stands_before_the_question_or_is_refused(self, member: Member) -> None:
        sample = replace(tiny_samples(1)[0], system="Answer in green.")
        if member.processor.chat_template is None:
            with pytest.raises(InputError, match="no place for a system prompt"):
                member.inputs([sample])
            return
        text = member.processor.tokenizer.decode(member.inputs([sample])["input_ids"][0])
        assert 0 <= text.find(sample.system) < text.find(sample.question)

    def test_inputs_are_what_forward_takes_and_generate_accepts(self, member: Member) -> None:
        inputs = member.ask(0, 1, 2)
        answers, logits = _generate(member, inputs)
        assert answers.shape == (3, 4)
        torch.testing.assert_close(member.logits(inputs)[:, -1], logits[:, 0], rtol=0, atol=1e-4)

    def test_visual_mask_marks_the_places_that_the_image_fills(self, member: Member) -> None:
        """The inputs of the first language block differ between two images exactly at these places."""
        sample, entered = tiny_samples(2)[1], []
        image = picture(sample)
        for shown in (image, image.rotate(180)):
            inputs = member.family.inputs(member.processor, [sample], [shown], member.config)
            with watched(
                member.blocks(member.family.stacks[-1])[0], lambda states, _: entered.append(states)
            ):
                member.logits(inputs)
        differs = (entered[0] != entered[1]).any(-1)
        mask = member.family.visual_mask(member.config, inputs["input_ids"])
        assert mask.dtype == torch.bool
        assert not (differs & ~mask).any()
        assert member.fixed_tokens or torch.equal(mask, differs)
        assert bool(mask.any()) == (not member.crosses)

    def test_inputs_leave_the_processor_as_it_was(self, member: Member) -> None:
        processor, sample = member.processor, tiny_samples(1)[0]
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a"}]}

        def state() -> tuple[Any, ...]:
            tokenizer = processor.tokenizer
            text = f"{processor.image_token}a"
            if processor.chat_template is not None:
                text = processor.apply_chat_template([message])
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
        member.ask(0, 1, 2)
        assert state() == before

    @pytest.mark.parametrize("images", ["one", "several", "none"])
    def test_extended_inputs_give_the_logits_of_decoding_step_by_step(
        self, member: Member, images: str
    ) -> None:
        mixed = mixed_samples()
        samples = {"one": tiny_samples(3), "several": mixed[:2], "none": mixed[3:]}[images]
        if not all(map(member.takes, samples)):
            pytest.skip("it takes no question with this number of images")
        inputs = member.inputs(samples)
        answers, stepwise = _generate(member, inputs)
        forced = member.logits(member.family.extend(inputs, answers, torch.ones_like(answers)))
        torch.testing.assert_close(
            forced[:, inputs["input_ids"].shape[1] - 1 : -1], stepwise, rtol=0, atol=1e-4
        )

    def test_extended_rows_equal_the_concatenated_sequences_alone(self, member: Member) -> None:
        """Answers of different lengths, padded on the right, after prompts of different lengths, padded on
        the left.
        """
        answers = torch.tensor([[20, 21, 22, 23], [24, 25, 0, 0], [26, 0, 0, 0]])
        lengths = (4, 2, 1)
        mask = torch.stack([torch.arange(4) < length for length in lengths])
        inputs = member.ask(0, 1, 2)
        before = {name: tensor.clone() for name, tensor in inputs.items()}
        together = member.logits(member.family.extend(inputs, answers, mask))
        assert all(torch.equal(inputs[name], before[name]) for name in before)
        width = inputs["input_ids"].shape[1]
        for number, length in enumerate(lengths):
            one = member.ask(number)
            prompt = one["input_ids"].shape[1]
            alone = member.family.extend(
                one, answers[number : number + 1, :length], torch.ones(1, length, dtype=torch.long)
            )
            assert (
                alone["input_ids"][0].tolist()
                == one["input_ids"][0].tolist() + answers[number, :length].tolist()
            )
            torch.testing.assert_close(
                together[number, width - prompt : width + length], member.logits(alone)[0], rtol=0, atol=1e-4
            )


@torch.inference_mode()
def _generate(member: Member, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Four greedy answer tokens (n, 4) and the logits (n, 4, vocabulary) that chose them, by transformers'
    own cached decoding.
    """
    image = member.family.image_token_id(member.config)
    output = member.model.generate(
        **inputs,
        max_new_tokens=4,
        min_new_tokens=4,
        do_sample=False,
        suppress_tokens=None if image is None else [image],
        output_logits=True,
        return_dict_in_generate=True,
    )
    return output.sequences[:, inputs["input_ids"].shape[1] :], torch.stack(output.logits, dim=1)
