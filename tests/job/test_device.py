"""The device of a job: which there are, which are refused, and that it is handed down to what computes."""

import json
from dataclasses import replace

import pytest
import torch

from bivlm.calibration.inputs import calibration_inputs
from bivlm.errors import InputError
from bivlm.job import device
from bivlm.job.device import CPU, card_bytes, check_device, packing_device
from bivlm.job.identity import circumstances
from bivlm.job.request import make_request
from bivlm.job.run import prepare, quantize, run
from bivlm.job.unit import MemoryStore
from bivlm.job.walk import Walk
from bivlm.quantizers import RTN, Trellis
from tiny import tiny_checkpoint, tiny_samples

SAME = torch.device("cpu", 0)  # the CPU under another name: all is moved, and nothing changes
RECIPE = "trellis-2:modality_weight=tokens,gradient_power=0,propagation=0.5"


def cards(monkeypatch, count, why="", free=80 << 30):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, free))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Card 5000")
    monkeypatch.setattr(device.gpu, "why_reference", lambda _: why)


def test_the_devices_that_there_are(monkeypatch):
    assert packing_device("cpu") == CPU
    cards(monkeypatch, 2)
    assert packing_device("cuda") == torch.device("cuda", 0)
    assert packing_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("name", "count", "why", "message"),
    [
        ("cuda", 0, "", "no card is found"),
        ("cuda:2", 2, "", "there are 2 cards, from cuda:0 on"),
        ("cuda", 1, "Triton is not installed: pip install 'bivlm[gpu]'", "Triton is not installed"),
        ("cuda", 1, "the card has compute capability 7.5 and no bfloat16", "7.5 and no bfloat16"),
        ("mps", 0, "", "would run on the reference: leave --device out"),
        ("gpu", 0, "", "the device is 'gpu'; needs cpu, cuda, or cuda:1"),
        ("meta", 0, "", "the device is 'meta'; needs cpu"),
        ("", 0, "", "the device is ''"),
    ],
)
def test_other_devices_are_refused_in_a_line(monkeypatch, name, count, why, message):
    cards(monkeypatch, count, why)
    with pytest.raises(InputError, match=message) as caught:
        make_request(RECIPE, device=name)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny_checkpoint("llava", tmp_path_factory.mktemp("device") / "source", torch.bfloat16)


def test_a_card_that_is_too_small_says_what_fits(monkeypatch, source):
    prepared = prepare(source, make_request(RECIPE))
    needed = card_bytes(prepared.source, prepared.plan)
    assert needed > device.CONTEXT_BYTES
    cards(monkeypatch, 1, free=needed)
    check_device(torch.device("cuda", 0), prepared.source, prepared.plan)
    cards(monkeypatch, 1, free=needed - 1)
    with pytest.raises(InputError, match=r"cuda:0 has 0\.7 GB free, and this job needs about 0\.7 GB there"):
        prepare(source, make_request(RECIPE, device="cuda"))


def test_what_works_on_the_cpu_alone_is_refused(monkeypatch, source):
    cards(monkeypatch, 1)
    with pytest.raises(InputError, match="tuning each block"):
        prepare(source, make_request(f"{RECIPE},tuning=2", device="cuda"))


def test_several_processes_work_on_the_cpu(monkeypatch, source, tmp_path):
    cards(monkeypatch, 1)
    prepared = prepare(source, make_request(RECIPE, device="cuda"))

    class Crew:
        size = 2

    with pytest.raises(InputError, match="several processes work on the CPU"):
        run(prepared, tmp_path / "out", crew=Crew())


def test_the_card_is_a_circumstance_of_what_has_data(monkeypatch, source):
    cards(monkeypatch, 1)
    prepared = prepare(source, make_request(RECIPE))
    inputs = calibration_inputs(prepared.source, tiny_samples(1))
    assert "device" not in circumstances(inputs)
    assert circumstances(inputs, torch.device("cuda", 0))["device"].startswith("Card 5000, ")


@pytest.mark.parametrize("kind", ["llava", "gemma4_e2b"])
def test_a_walk_on_another_device_makes_the_same_units(kind, tmp_path):
    """Weights, arguments, statistics and packed linears are moved, also dictionaries that blocks share."""
    folder, samples = tiny_checkpoint(kind, tmp_path / "source"), tiny_samples(2)
    stores = []
    for place in (CPU, SAME):
        prepared = prepare(folder, make_request(RECIPE, parts=["language"]))
        inputs, store = calibration_inputs(prepared.source, samples), MemoryStore()
        Walk(prepared.source, prepared.plan, store, inputs, device=place).run()
        stores.append(store)
    one, other = (store.units for store in stores)
    assert list(one) == list(other)
    for path in one:
        packed, again = one[path][0], other[path][0]
        assert one[path][2] == other[path][2]
        for name in packed:
            for tensor in packed[name].tensors:
                assert torch.equal(packed[name].tensors[tensor], again[name].tensors[tensor])


def test_which_quantizers_work_on_a_card():
    assert Trellis().on_cards
    assert not RTN().on_cards


@pytest.mark.gpu
def test_on_a_card(source, tmp_path):
    """The same errors but for the rounding of sums; one block of memory."""
    errors = {}
    for name in ("cpu", "cuda"):
        out = quantize(source, tmp_path / name, recipe=RECIPE, data=tiny_samples(4), device=name)
        report = json.loads((out / "bivlm_report.json").read_text())
        errors[name] = {linear: row["layer_error"] for linear, row in report.items()}
    assert errors["cpu"].keys() == errors["cuda"].keys()
    for linear, error in errors["cpu"].items():
        assert errors["cuda"][linear] == pytest.approx(error, rel=0.1)


@pytest.mark.gpu
def test_the_trellis_on_a_card_is_as_good():
    random = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2000, 512, generator=random), torch.randn(192, 512, generator=random)
    from bivlm.types import LinearStats

    stats = LinearStats({"text": x.T @ x / 2000}, {"text": 2000})
    for method in (Trellis(), Trellis(bits=1.6, window=12, blocks=4)):
        here = method.quantize(weight, stats).dequantize()
        there = method.quantize(weight.cuda(), stats.to("cuda")).dequantize().cpu()
        lost, lost_there = ((weight - found).square().mean() for found in (here, there))
        assert float(lost_there) == pytest.approx(float(lost), rel=0.02)


def test_a_request_knows_its_device(monkeypatch):
    cards(monkeypatch, 1)
    request = make_request(RECIPE, device="cuda")
    assert request.device == torch.device("cuda", 0)
    assert replace(request, device=CPU) == make_request(RECIPE)
