"""Language models alone: packed, saved, loaded by this package and by plain transformers, asked without an
image.
"""

import json
from dataclasses import replace
from fnmatch import fnmatchcase

import pytest
import torch
import transformers

import bivlm
from bivlm import families
from bivlm.calibration.inputs import calibration_inputs
from bivlm.calibration.streams import replayed_logits
from bivlm.checkpoint.source import SourceModel
from bivlm.data.samples import read_samples
from bivlm.errors import InputError
from bivlm.eval.inspection import inspect
from bivlm.families import family_of, load_processor
from bivlm.families.causal_lm import EXPERT_TYPES, MODEL_TYPES, causal_lm
from bivlm.families.experts import split_experts
from bivlm.job.request import make_request
from bivlm.job.run import prepare, quantize
from bivlm.packed.linear import packed_linears, replace_linear
from bivlm.types import Sample
from tiny.language import tiny_language_config, tiny_language_model

QUESTIONS = [
    Sample(None, question) for question in ("what is red", "is it a cat", "how many", "a dog on a mat")
]


# the others of the table run through the same tests with the marker slow
USUAL = ("llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3")
EACH = [
    pytest.param(name, id=name, marks=() if name in USUAL else pytest.mark.slow)
    for name in (*MODEL_TYPES, *EXPERT_TYPES)
]
# their embeddings are more than tables, or nothing would be left in full precision
WITHOUT_EMBEDDINGS = (
    "gemma", "gemma2", "gemma3_text", "gemma4_text", "minicpm3", "nanochat", "olmo", "vaultgemma",
)  # fmt: skip


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_declaration_fits_the_architecture(model_type):
    """Every linear is in a block or kept, every pattern matches, and no weight of a block is left out."""
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(tiny_language_config(model_type))
    family, modules = family_of(model_type), dict(model.named_modules())
    assert model.get_input_embeddings() is modules["model.embed_tokens"]
    assert model.get_output_embeddings() is modules["lm_head"]
    assert len(modules["model.layers"]) == 3
    patterns = family.full_precision
    assert [one for one in patterns if not any(fnmatchcase(name, one) for name in modules)] == []
    for name, module in modules.items():
        if isinstance(module, torch.nn.Linear):
            kept = any(fnmatchcase(name, pattern) for pattern in patterns)
            assert kept or name.startswith("model.layers."), name
            assert kept or type(module) is torch.nn.Linear, name
        matrices = [weight for weight in module.parameters(recurse=False) if weight.ndim > 1]
        assert not matrices or isinstance(module, torch.nn.Linear | torch.nn.Embedding | torch.nn.Conv1d), (
            name
        )


def logits(model, folder):
    family, tokenizer = family_of(model.config), load_processor(folder, reads_images=False)
    with torch.inference_mode():
        return model(**family.inputs(tokenizer, QUESTIONS, [], model.config)).logits


@pytest.mark.parametrize("model_type", USUAL)
def test_a_pass_that_is_paused_at_every_block_computes_the_same(model_type, tmp_path):
    source = SourceModel(tiny_language_model(model_type, tmp_path / "source"))
    source.materialize(list(source.entries))
    source.model.tie_weights()
    [sample, *_] = calibration_inputs(source, QUESTIONS)
    paths = [path for stack in source.family.stacks for path in stack.block_paths(source.model)]
    with torch.inference_mode():
        expected = source.model(**sample.tensors, use_cache=False).logits
    assert torch.equal(replayed_logits(source.model, sample.tensors, paths), expected)


@pytest.mark.parametrize("recipe", ["rtn-3", "trellis-2:embeddings=3,propagation=0.25,tuning=1"])
@pytest.mark.parametrize("model_type", EACH)
def test_it_is_packed_and_loads_as_what_was_packed(model_type, recipe, tmp_path):
    if model_type in WITHOUT_EMBEDDINGS:
        recipe = recipe.replace("embeddings=3,", "")
    source = tiny_language_model(model_type, tmp_path / "source")
    out = quantize(source, tmp_path / "out", recipe=recipe, data=QUESTIONS)
    loaded, tokenizer = bivlm.load(out)
    plain = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert torch.equal(logits(loaded, out), logits(plain, out))
    assert isinstance(bivlm.answer(loaded, tokenizer, None, "is it a cat", max_new_tokens=3), str)
    assert {row.name for row in inspect(out).parts} == {"language"} | (
        {"embeddings"} if "embeddings" in recipe else set()
    )
    if recipe == "rtn-3":
        expected = transformers.AutoModelForCausalLM.from_pretrained(source).eval()
        full = logits(expected, out)
        split_experts(expected)
        for name, linear in packed_linears(loaded).items():
            replace_linear(expected, name, linear.packed)
        assert torch.equal(logits(loaded, out), logits(expected, out))
        assert not torch.equal(logits(loaded, out), full)
    assert "pipeline_tag: text-generation" in (out / "README.md").read_text()


@pytest.mark.parametrize("model_type", ["olmo", pytest.param("nanochat", marks=pytest.mark.slow)])
def test_a_model_of_which_no_parameter_would_be_left_is_refused(model_type, tmp_path):
    """Their norms have no weights."""
    source = tiny_language_model(model_type, tmp_path / "source")
    with pytest.raises(InputError, match=r"no parameter of .* would be left.*leave embeddings out"):
        quantize(source, tmp_path / "out", recipe="rtn-3:embeddings=3")
    assert not (tmp_path / "out").exists()


def test_a_model_without_any_parameter_is_not_asked(tmp_path, monkeypatch):
    """A folder that was packed before such models were refused."""
    monkeypatch.setattr("bivlm.job.plan._check_rest", lambda *_: None)
    source = tiny_language_model("olmo", tmp_path / "source")
    model, tokenizer = bivlm.load(quantize(source, tmp_path / "out", recipe="rtn-3:embeddings=3"))
    assert not list(model.parameters())
    with pytest.raises(InputError, match=r"everything in the model is packed.*without embeddings"):
        bivlm.answer(model, tokenizer, None, "is it a cat")


def test_a_budget_is_dealt_out(tmp_path):
    source = tiny_language_model("llama", tmp_path / "source", torch.bfloat16)
    out = quantize(source, tmp_path / "out", bits=2.4, embeddings=3, data=QUESTIONS)
    assert 2.0 < inspect(out).total.bits_per_weight <= 2.4


def test_its_data_has_questions_and_no_images(tmp_path):
    rows = [{"question": "what is red", "answer": "a"}, {"image": "none.png", "question": "is it a cat"}]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    samples = read_samples(tmp_path / "questions.jsonl", images=False)
    assert [(sample.image, sample.question) for sample in samples] == [
        (None, "what is red"),
        (None, "is it a cat"),
    ]
    assert all(sample.image is None for sample in read_samples("easy-vqa", limit=3, images=False))
    source = tiny_language_model("llama", tmp_path / "source")
    out = quantize(source, tmp_path / "out", data=samples)
    assert json.loads((out / "config.json").read_text())["quantization_config"]["calibration_samples"] == 2


def test_an_image_is_refused_and_a_missing_one_told(tmp_path):
    source = tiny_language_model("llama", tmp_path / "source")
    model, tokenizer = bivlm.load(source)
    (tmp_path / "a.png").touch()
    with pytest.raises(InputError, match="is a language model and reads no image"):
        bivlm.answer(model, tokenizer, tmp_path / "a.png", "is it a cat")
    with pytest.raises(InputError, match="nothing would be quantized"):
        prepare(source, make_request("rtn-3", parts=["vision"]))


def test_a_family_is_declared_where_the_model_is_named_and_must_be_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(families, "USED", {})
    source = tiny_language_model("llama", tmp_path / "source")
    own, other = replace(causal_lm("llama"), prompt="{question}!"), causal_lm("mistral")
    for call in (
        lambda: bivlm.quantize(source, tmp_path / "never", recipe="rtn-3", family=other),
        lambda: bivlm.load(source, family=other),
    ):
        with pytest.raises(InputError, match="the model is a 'llama' and the family is for 'mistral'"):
            call()
    assert not (tmp_path / "never").exists()
    out = bivlm.quantize(source, tmp_path / "out", recipe="rtn-3", family=own)
    assert family_of(bivlm.load(out, family=own)[0].config) is own
