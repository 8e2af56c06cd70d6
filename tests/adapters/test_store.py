"""An adapter's folder: read back as written, by peft too, and refused whenever something does not fit."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import bivlm
from bivlm.adapters.lora import Factors, attach, loras
from bivlm.adapters.rounding import rounded
from bivlm.adapters.store import read_record
from bivlm.checkpoint.adapter import ADAPTER_WEIGHTS, PACKED_RECORD
from bivlm.errors import InputError

CONFIG, EIGHT = "adapter_config.json", "adapter_bivlm.safetensors"
IDS = torch.arange(3, 15)[None]


def logits(folder, **options):
    model, _ = bivlm.load(folder, expand=True, **options)
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_read_back_as_written(bits, make, base, factors):
    model, _ = bivlm.load(base, adapter=make(bits))
    found = loras(model)
    assert set(found) == set(factors)
    for name, given in factors.items():
        expected = rounded(given, bits)
        assert torch.equal(found[name].a, expected.a)
        assert torch.equal(found[name].b, expected.b)
        assert found[name].scale == given.scale


def test_a_fresh_process_gives_the_same_logits(make, base, tmp_path):
    folder = make(8)
    script = (
        "import bivlm, torch; from safetensors.torch import save_file\n"
        f"model, _ = bivlm.load({str(base)!r}, expand=True, adapter={str(folder)!r})\n"
        "with torch.no_grad(): y = model(input_ids=torch.arange(3, 15)[None]).logits\n"
        f"save_file({{'y': y}}, {str(tmp_path / 'y.safetensors')!r})"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    found = load_file(tmp_path / "y.safetensors")["y"]
    assert torch.equal(found, logits(base, adapter=folder))
    assert not torch.equal(found, logits(base))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("bits", [16, 32])
def test_peft_reads_the_folder(bits, make, base):
    """On the decoded weights, ranks that differ included."""
    peft = pytest.importorskip("peft")
    folder = make(bits)
    plain, _ = bivlm.load(base)
    theirs = peft.PeftModel.from_pretrained(plain.dequantize(), folder)
    with torch.no_grad():
        expected = theirs(input_ids=IDS).logits
    torch.testing.assert_close(logits(base, adapter=folder), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_peft_refuses_eight_bits(make, base):
    peft = pytest.importorskip("peft")
    plain, _ = bivlm.load(base)
    with pytest.raises(ValueError, match=r"Repo id|Can't find weights"):
        peft.PeftModel.from_pretrained(plain.dequantize(), make(8))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_an_adapter_that_peft_made_is_used_and_the_log_says_so(full, base, tmp_path, caplog):
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj"], init_lora_weights=False)
    theirs = peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(full), settings)
    theirs.save_pretrained(tmp_path / "peft")
    model, _ = bivlm.load(base, adapter=tmp_path / "peft")
    [(name, lora)] = loras(model).items()
    assert name.endswith("q_proj")
    assert lora.scale == 3
    assert "was not trained on a packed model" in caplog.text


def test_an_adapter_of_another_base_is_refused_by_name(make, other_base):
    with pytest.raises(
        InputError, match=r"was trained for full packed with rtn-2 .*is full packed with rtn-3"
    ):
        bivlm.load(other_base, adapter=make(8))


def test_a_base_that_is_not_packed_is_refused(make, full):
    with pytest.raises(InputError, match="is not packed by bivlm, and adapters are trained on packed models"):
        bivlm.load(full, adapter=make(8))


def test_a_base_that_transformers_saved_again_is_the_same_base(make, base, tmp_path):
    folder, (model, processor) = make(8), bivlm.load(base)
    expected = logits(base, adapter=folder)
    model.save_pretrained(tmp_path / "again")
    processor.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(tmp_path / "again", adapter=folder), expected)


def together(folder, adapter, out):
    """The files of a model and of an adapter in one folder."""
    out.mkdir()
    for path in (*folder.iterdir(), *adapter.iterdir()):
        (out / path.name).write_bytes(path.read_bytes())
    return out


def test_it_is_not_merged_into_full_precision_weights(make, full, tmp_path):
    for bits in (8, 16):
        folder = together(full, make(bits), tmp_path / f"merged-{bits}")
        with pytest.raises(InputError, match="cannot be merged; give it to them with --adapter"):
            bivlm.quantize(folder, tmp_path / "out", recipe="rtn-2", merge_adapter=True)


def test_it_is_not_merged_by_lying_next_to_packed_weights(make, base, tmp_path):
    folder = together(base, make(8), tmp_path / "merged")
    with pytest.raises(InputError, match="next to packed weights, into which none can be merged"):
        bivlm.load(folder)


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def without(key):
    def change(path):
        tensors = load_file(path)
        del tensors[next(name for name in tensors if name.endswith(key))]
        save_file(tensors, path)

    return change


BROKEN = {
    "no settings": (CONFIG, lambda path: path.unlink(), "has no adapter_config.json"),
    "no weights": (EIGHT, lambda path: path.unlink(), f"lacks {EIGHT}"),
    "a flipped bit": (EIGHT, flip, "have changed since they were written"),
    "cut short": (EIGHT, lambda path: path.write_bytes(path.read_bytes()[:100]), "damaged or cut short"),
    "a tensor is missing": (EIGHT, without("lora_B.scales"), "disagree about the tensor"),
    "settings changed": (CONFIG, lambda path: path.write_text(path.read_text() + " "), "has changed"),
    "settings are no JSON": (CONFIG, lambda path: path.write_text("{"), "has changed"),
    "the record is no JSON": (PACKED_RECORD, lambda path: path.write_text("{"), "no valid JSON"),
}


@pytest.mark.parametrize(("name", "change", "says"), BROKEN.values(), ids=BROKEN)
def test_damage_is_named(name, change, says, make, base):
    folder = make(8)
    change(folder / name)
    with pytest.raises(InputError, match=says):
        bivlm.load(base, adapter=folder)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"format_version": 2}, "format version 2, and this bivlm reads up to 1"),
        ({"format_version": "1"}, "does not describe an adapter"),
        ({"bits": 4}, "does not describe an adapter"),
        ({"crc32": ["x"]}, "does not describe an adapter"),
        ({"base": {"name": 1}}, "its base is not described"),
        ({"job": None}, "does not describe an adapter"),
    ],
)
def test_a_record_of_a_wrong_form_is_refused(fields, says, make, edit, base):
    folder = make(8)
    edit(folder / PACKED_RECORD, **fields)
    with pytest.raises(InputError, match=says):
        bivlm.load(base, adapter=folder)


def foreign(folder):
    """The same adapter as one that was trained elsewhere: no record, no checksums."""
    (folder / PACKED_RECORD).unlink()
    return folder


def test_values_that_are_not_finite_are_refused(make, base):
    folder = foreign(make(16))
    tensors = load_file(folder / ADAPTER_WEIGHTS)
    next(iter(tensors.values()))[0, 0] = torch.nan
    save_file(tensors, folder / ADAPTER_WEIGHTS)
    with pytest.raises(InputError, match="NaN or infinite"):
        bivlm.load(base, adapter=folder)


def test_values_that_are_not_finite_are_not_written(make, factors):
    name, given = next(iter(factors.items()))
    with pytest.raises(InputError, match="is not finite in 16 bits"):
        make(16, {name: Factors(given.a * 1e6, given.b, 1.0)})


def test_a_pickle_is_refused(make, base):
    folder = foreign(make(16))
    (folder / ADAPTER_WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(InputError, match=r"as a pickle \(adapter_model.bin\), which can run code"):
        bivlm.load(base, adapter=folder)


def test_another_shape_is_refused(make, base, factors):
    name, given = next(iter(factors.items()))
    for bits in (8, 16):
        wrong = {name: Factors(given.a[:, :-1].contiguous(), given.b, 1.0)}
        with pytest.raises(
            InputError, match=r"and the weight is \[64, 64\]; the adapter is of another model"
        ):
            bivlm.load(base, adapter=make(bits, wrong))


def test_a_linear_that_is_not_there_is_refused(make, base, factors):
    given = next(iter(factors.values()))
    with pytest.raises(
        InputError, match=r"the model has 0 weights model\.layers\.7\.x; the adapter is of another"
    ):
        bivlm.load(base, adapter=make(8, {"model.layers.7.x": given}))


def test_places_that_are_no_adapter(base, tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        bivlm.load(base, adapter=tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file; give the adapter's folder"):
        bivlm.load(base, adapter=tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="is empty; give the folder of an adapter"):
        bivlm.load(base, adapter=tmp_path / "empty")
    (tmp_path / "begun" / ".bivlm-job").mkdir(parents=True)
    with pytest.raises(InputError, match="unfinished work; run its `bivlm adapt` command again"):
        bivlm.load(base, adapter=tmp_path / "begun")


def test_the_record_says_what_it_was_made_for(make, base):
    record = read_record(make(8))
    config = json.loads((base / "config.json").read_text())["quantization_config"]
    assert (record.base.name, record.base.recipe, record.base.job) == ("full", "rtn-2", config["job"])


def test_attached_by_hand(make, base, factors):
    model, _ = bivlm.load(base, expand=True)
    attach(model, {name: rounded(one, 8) for name, one in factors.items()})
    with torch.no_grad():
        assert torch.equal(model(input_ids=IDS).logits, logits(base, adapter=make(8)))
