"""The results on a model card, as the hub reads them."""

from __future__ import annotations

import json

import pytest
from huggingface_hub import ModelCard

import bivlm
from bivlm.checkpoint.place import check_card
from bivlm.checkpoint.verify import verify_folder
from bivlm.errors import InputError
from bivlm.eval.card import RESULTS, put_results_on_card
from bivlm.eval.measure import measure
from tiny import tiny_checkpoint, tiny_samples


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("card")
    return bivlm.quantize(tiny_checkpoint("llava", folder / "model"), folder / "out", recipe="rtn-2")


def test_results_stand_once_for_each_data_set(packed):
    result = measure(packed, tiny_samples(2), reference=packed.parent / "model", max_new_tokens=2)
    text = (packed / "README.md").read_text().partition("# ")[2]
    for data in ("folder/mine.jsonl", "mme", "mme"):
        put_results_on_card(packed, result, data)
    card = ModelCard.load(packed / "README.md")
    found = {(one.dataset_name, one.metric_name): one.metric_value for one in card.data.eval_results}
    assert len(found) == len(card.data.eval_results) == 6
    assert found["mme", result.metric] == round(result.accuracy, 4)
    assert found["mine.jsonl", "KL divergence from full precision"] == pytest.approx(result.kl, rel=1e-3)
    assert card.data.to_dict()["model-index"][0]["name"] == "out"
    assert str(card).partition("# ")[2] == text, "what people read stays"
    verify_folder(packed)


def test_a_place_without_a_card(packed, tmp_path):
    with pytest.raises(InputError, match="no folder that bivlm packed"):
        check_card(packed.parent / "model", RESULTS)
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "bivlm"}}))
    with pytest.raises(InputError, match=r"has no README\.md"):
        check_card(tmp_path, RESULTS)
    (tmp_path / "README.md").write_text("---\na: [\n---\n")
    result = measure(packed, tiny_samples(1), max_new_tokens=2)
    with pytest.raises(InputError, match="cannot be read"):
        put_results_on_card(tmp_path, result, "mme")
