"""The embedded model's sister with experts: what it is made from, and what its training computes."""

from __future__ import annotations

import pytest
import torch
import transformers
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from bivlm.data.builtin import easy_vqa
from bivlm.eval.inspection import inspect
from bivlm.job.run import quantize
from bivlm.loading import load
from bivlm.zoo import embedded_model, train_experts
from bivlm.zoo.train_experts import CHOSEN, EXPERTS, IGNORED, KEPT_BLOCKS, NEURONS, padded, run_experts


def test_its_experts_compute_what_those_of_transformers_compute():
    torch.manual_seed(0)
    config = transformers.MixtralConfig(hidden_size=12, intermediate_size=5, num_local_experts=EXPERTS)
    config._experts_implementation = "eager"
    module = MixtralExperts(config)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    hidden, index = torch.randn(70, 12), torch.randint(1, EXPERTS, (70, CHOSEN))  # none goes to the first
    weights = torch.rand(70, CHOSEN)
    torch.testing.assert_close(run_experts(module, hidden, index, weights), module(hidden, index, weights))


def test_what_is_added_to_a_batch_is_seen_by_nothing_and_predicts_nothing():
    ids = torch.arange(6).reshape(2, 3)
    batch = {"input_ids": ids, "position_ids": ids, "labels": ids, "pixel_values": torch.ones(2)}
    wide = padded({**batch, "attention_mask": torch.zeros(2, 1, 3, 3)}, pad=7)
    assert torch.equal(wide["input_ids"][:, :3], ids)
    assert (wide["input_ids"][:, 3:] == 7).all()
    assert (wide["labels"][:, 3:] == IGNORED).all()
    assert (wide["attention_mask"][..., :3, :3] == 0).all()
    assert (wide["attention_mask"][..., 3:] == -1e9).all()
    assert wide["input_ids"].shape[1] == wide["attention_mask"].shape[-1] == train_experts.STEP


@pytest.mark.slow
def test_a_few_steps_leave_a_folder_that_can_be_packed(tmp_path, monkeypatch):
    monkeypatch.setattr(train_experts, "easy_vqa", lambda split: easy_vqa(split)[:40])
    small, _ = load(embedded_model(), dtype=torch.float32)
    torch.manual_seed(0)
    before = train_experts.build_model(small)
    dense = small.model.language_model.layers[KEPT_BLOCKS[1]].mlp
    drawn = before.model.language_model.layers[1].mlp.experts.gate_up_proj[3, :NEURONS]
    assert (drawn[:, None] == dense.gate_proj.weight).all(-1).any(1).all()  # neurons of the block's own
    train_experts.train(tmp_path / "out", steps=2, batch_size=2, questions=2, peak=1e-3, seed=0)
    after, _ = load(tmp_path / "out", dtype=torch.float32)
    for name, tensor in small.model.vision_tower.state_dict().items():
        assert torch.equal(tensor, after.model.vision_tower.state_dict()[name]), name
    assert not torch.equal(after.model.language_model.layers[1].mlp.gate.weight,
                           before.model.language_model.layers[1].mlp.gate.weight.bfloat16())  # fmt: skip
    out = quantize(tmp_path / "out", tmp_path / "packed", recipe="rtn-3", parts=("language",))
    assert [row.experts for row in inspect(out).experts] == [EXPERTS] * len(KEPT_BLOCKS)
