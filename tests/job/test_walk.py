"""The walk together with the full-precision model: propagation and tuning of whole tiny models, with and
without interruptions.
"""

import json
from dataclasses import replace

import pytest
import torch
import transformers

import bivlm
from bivlm.calibration.inputs import calibration_inputs
from bivlm.calibration.tuning import tune_block
from bivlm.checkpoint.shards import read_entries, read_tensors
from bivlm.checkpoint.weight_files import weight_files
from bivlm.data.images import open_image
from bivlm.families import family_of
from bivlm.job import walk
from bivlm.job.request import make_request
from bivlm.job.run import prepare, quantize
from bivlm.job.unit import MemoryStore
from bivlm.job.walk import Walk
from bivlm.packed.linear import packed_linears, replace_linear
from folders import assert_same_files
from tiny import tiny_checkpoint, tiny_samples
from told import Told

PLAIN = "trellis-2:modality_weight=tokens,gradient_power=0"
TUNED, PROPAGATED = f"{PLAIN},tuning=2", f"{PLAIN},propagation=0.5"
SAMPLES = [replace(sample, answers=()) for sample in tiny_samples(4)]  # prompts alone
LAYERS = "model.language_model.layers"


class _Stop(Exception):
    pass


def stop_after(count):
    """Events that interrupt the run after so many units."""
    seen = []

    def on_unit(report):
        seen.append(report)
        if len(seen) == count:
            raise _Stop

    return Told(on_unit)


def packed_language(source, out, recipe, **more):
    return quantize(source, out, recipe=recipe, parts=["language"], data=SAMPLES, **more)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny_checkpoint("llava", tmp_path_factory.mktemp("beside") / "source", torch.bfloat16)


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """Folders that were quantized in one go, by recipe."""
    return {
        recipe: packed_language(source, tmp_path_factory.mktemp("whole") / "out", recipe)
        for recipe in (TUNED, PROPAGATED, PLAIN)
    }


def full_precision(source):
    return transformers.AutoModelForImageTextToText.from_pretrained(source, dtype=torch.bfloat16).eval()


def outputs(model, processor):
    """What the model says about every sample, hidden states and all."""
    for sample in SAMPLES:
        inputs = family_of(model.config).inputs(
            processor, [sample], [open_image(sample.image, sample.origin)], model.config
        )
        cast = {
            name: tensor.to(model.dtype) if tensor.is_floating_point() else tensor
            for name, tensor in inputs.items()
        }
        with torch.inference_mode():
            output = model(**cast, output_hidden_states=True)
        yield output


def logits(model, processor):
    return torch.cat([output.logits[0].float() for output in outputs(model, processor)])


def stored_tensors(folder):
    """Everything in the shards of a packed folder by its name in the model, for what lies in the language
    blocks.
    """
    modules = json.loads((folder / "config.json").read_text())["quantization_config"]["modules"]
    name, module = next(iter(modules.items()))
    prefix = module["key"].removesuffix(name.removeprefix(LAYERS) + ".")
    tensors = read_tensors(read_entries(weight_files(folder)).values())
    return {
        LAYERS + key.removeprefix(prefix): tensor
        for key, tensor in tensors.items()
        if key.startswith(prefix + ".")
    }


@pytest.mark.parametrize("recipe", [TUNED, PROPAGATED])
def test_the_packed_model_loads_and_answers(source, whole, recipe):
    loaded, processor = bivlm.load(whole[recipe])
    found, expected = logits(loaded, processor), logits(full_precision(source), processor)
    assert bool(found.isfinite().all())
    assert 0 < float((found - expected).square().mean()) < float(expected.square().mean())
    remembered = json.loads((whole[recipe] / "config.json").read_text())["quantization_config"]["recipe"]
    assert (remembered["tuning"], remembered["propagation"]) == ((2, 0.0) if recipe == TUNED else (0, 0.5))


@pytest.mark.parametrize("recipe", [TUNED, PROPAGATED])
def test_an_interrupted_run_ends_with_the_same_bytes(source, whole, recipe, tmp_path):
    """A block that is read back gives the next ones the same inputs: its tuned norms and scales are in
    them.
    """
    out = tmp_path / "out"
    for count in (
        5,
        6,
    ):  # three blocks of the vision tower, the projector, and of the language model one, then two
        with pytest.raises(_Stop):
            packed_language(source, out, recipe, events=stop_after(count))
        assert not (out / "config.json").exists()
    packed_language(source, out, recipe)
    assert_same_files(whole[recipe], out)


def test_a_walk_needs_no_folder(source, whole):
    """In memory it makes the units that the folder holds, and a second walk takes them from there."""
    prepared = prepare(source, make_request(TUNED, parts=["language"]))
    inputs, store, told = calibration_inputs(prepared.source, SAMPLES), MemoryStore(), Told()
    Walk(prepared.source, prepared.plan, store, inputs).run()
    loaded, _ = bivlm.load(whole[TUNED])
    packed = {name: weight for unit, _, _ in store.units.values() for name, weight in unit.items()}
    linears = packed_linears(loaded)
    assert packed.keys() == linears.keys()
    for name, linear in linears.items():
        assert packed[name].settings == linear.packed.settings
        assert packed[name].tensors.keys() == linear.packed.tensors.keys()
        for part, tensor in linear.packed.tensors.items():
            assert torch.equal(packed[name].tensors[part], tensor), (name, part)
    vectors = {name: vector for _, moved, _ in store.units.values() for name, vector in moved.items()}
    assert vectors
    assert all(torch.equal(loaded.get_parameter(name), vector) for name, vector in vectors.items())
    Walk(prepared.source, prepared.plan, store, inputs, told).run()
    assert all(report.resumed for report, _, _ in told.units)


def test_tuned_norms_are_stored_and_loaded(source, whole):
    loaded, processor = bivlm.load(whole[TUNED])
    expected, stored = full_precision(source), stored_tensors(whole[TUNED])
    norms = [
        f"{LAYERS}.{index}.{norm}.weight"
        for index in range(3)
        for norm in ("input_layernorm", "post_attention_layernorm")
    ]
    for name in norms:
        assert stored[name].dtype == torch.bfloat16
        assert torch.equal(loaded.get_parameter(name), stored[name])
    assert any(not torch.equal(stored[name], expected.get_parameter(name)) for name in norms)

    for name, linear in packed_linears(loaded).items():
        replace_linear(expected, name, linear.packed)
    untuned = logits(expected, processor)
    with torch.no_grad():
        for name in norms:
            expected.get_parameter(name).copy_(stored[name])
    assert torch.equal(logits(loaded, processor), logits(expected, processor))
    assert not torch.equal(logits(loaded, processor), untuned)


def test_tuning_moves_scales_and_norms_and_nothing_else(whole):
    plain, tuned = stored_tensors(whole[PLAIN]), stored_tensors(whole[TUNED])
    assert plain.keys() == tuned.keys()
    first = {
        name.rpartition(".")[2]
        for name in tuned
        if name.startswith(f"{LAYERS}.0.") and not torch.equal(tuned[name], plain[name])
    }
    assert first <= {"row_scale", "weight"}
    assert "row_scale" in first
    assert all(
        tuned[name].shape == plain[name].shape and tuned[name].dtype == plain[name].dtype for name in tuned
    )


def test_propagation_leaves_the_first_block_and_changes_the_next(whole):
    """Nothing is lost before the first packed block: its inputs have no residual."""
    plain, propagated = stored_tensors(whole[PLAIN]), stored_tensors(whole[PROPAGATED])
    changed = {name.split(".")[3] for name in plain if not torch.equal(plain[name], propagated[name])}
    assert changed == {"1", "2"}
    assert all(torch.equal(plain[name], propagated[name]) for name in plain if "norm" in name)


def test_every_block_is_fitted_to_the_full_precision_model(source, tmp_path, monkeypatch):
    """Also where the tower before it is packed: its targets are what the whole model computes, its inputs
    what the packed and tuned one does.
    """
    seen = {}

    def spy(block, path, packed, calls, targets, epochs, weights=None):
        seen[path] = [call.hidden for call in calls], targets
        assert epochs == 2
        return tune_block(block, path, packed, calls, targets, epochs)

    monkeypatch.setattr(walk, "tune_block", spy)
    out = quantize(source, tmp_path / "out", recipe=TUNED, data=SAMPLES)
    loaded, processor = bivlm.load(out, expand=True)  # as the walk multiplies
    assert len(seen) == 3 + 1 + 3
    for number, (full, packed) in enumerate(
        zip(outputs(full_precision(source), processor), outputs(loaded, processor), strict=True)
    ):
        for index in range(3):
            inputs, targets = seen[f"{LAYERS}.{index}"]
            assert torch.equal(inputs[number], packed.hidden_states[index])
            assert not torch.allclose(inputs[number], full.hidden_states[index], rtol=0.02, atol=0.02)
            if index < 2:  # behind the last block transformers shows the states after the final norm
                assert torch.equal(targets[number], full.hidden_states[index + 1])


def test_tuning_brings_every_block_nearer(source, tmp_path, monkeypatch):
    found = []

    def spy(*args):
        found.append(tune_block(*args))
        return found[-1]

    monkeypatch.setattr(walk, "tune_block", spy)
    packed_language(source, tmp_path / "out", f"{PLAIN},tuning=6")
    assert len(found) == 3
    assert all(tuned.after <= tuned.before for tuned in found)
    assert sum(tuned.after for tuned in found) < 0.96 * sum(tuned.before for tuned in found)


def test_a_block_that_is_a_lone_linear_is_tuned_and_corrected(tmp_path):
    """The projector of mllama; its cross-attention receives the output of the packed tower."""
    folder = tiny_checkpoint("mllama", tmp_path / "source", torch.bfloat16)
    reports = []
    out = quantize(
        folder,
        tmp_path / "out",
        recipe=f"{PLAIN},tuning=1,propagation=0.5",
        data=SAMPLES,
        events=Told(reports.append),
    )
    assert "model.multi_modal_projector" in [report.path for report in reports]
    loaded, processor = bivlm.load(out)
    assert bool(logits(loaded, processor).isfinite().all())


def test_methods_without_data_are_tuned_and_corrected_too(source, tmp_path):
    """Their weights are decided without data; what comes before and after is not."""
    plain, tuned, both = (
        packed_language(source, tmp_path / recipe, recipe)
        for recipe in ("rtn-3", "rtn-3:tuning=2", "rtn-3:propagation=0.5")
    )
    plain, tuned, both = map(stored_tensors, (plain, tuned, both))
    assert {name for name in plain if not torch.equal(plain[name], tuned[name])} <= {
        name for name in plain if name.endswith("norm.weight")
    }
    assert any(not torch.equal(plain[name], tuned[name]) for name in plain if "norm" in name)
    assert {name.split(".")[3] for name in plain if not torch.equal(plain[name], both[name])} == {"1", "2"}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_norms_that_are_stored_in_another_dtype_than_the_model_computes_in(source, dtype, tmp_path):
    """They are rounded to what is stored before the next block runs, as they are when they are read back."""
    folder = tmp_path / "source"
    full_precision(source).save_pretrained(folder)
    for path in source.iterdir():
        if not (folder / path.name).exists():
            (folder / path.name).write_bytes(path.read_bytes())
    config = (folder / "config.json").read_text()
    assert '"dtype": "bfloat16"' in config
    (folder / "config.json").write_text(config.replace('"dtype": "bfloat16"', f'"dtype": "{dtype}"'))

    one = packed_language(folder, tmp_path / "one", TUNED)
    assert stored_tensors(one)[f"{LAYERS}.0.input_layernorm.weight"].dtype == torch.bfloat16
    with pytest.raises(_Stop):
        packed_language(folder, tmp_path / "other", TUNED, events=stop_after(5))
    packed_language(folder, tmp_path / "other", TUNED)
    assert_same_files(one, tmp_path / "other")


def test_blocks_that_run_once_for_every_image_are_observed_in_their_first_run(source, tmp_path, monkeypatch):
    """As if the model encoded its image twice: the same bytes, though tower and projector run twice."""
    recipe = "trellis-2:propagation=0.25,modality_weight=gradient"
    once = quantize(source, tmp_path / "once", recipe=recipe, data=SAMPLES)
    model_class = transformers.models.llava.modeling_llava.LlavaModel
    encode = model_class.get_image_features

    def twice(self, *args, **kwargs):
        encode(self, *args, **kwargs)
        return encode(self, *args, **kwargs)

    monkeypatch.setattr(model_class, "get_image_features", twice)
    again = quantize(source, tmp_path / "again", recipe=recipe, data=SAMPLES)
    assert len(stored(once)) == 8
    assert stored(once) == stored(again)


def stored(folder):
    """The bytes of all weight files."""
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
