"""torch's default dtype and device belong to the caller: whatever they are, the same bytes and numbers."""

from contextlib import contextmanager

import pytest
import torch

import bivlm
from bivlm.calibration.inputs import calibration_inputs
from bivlm.checkpoint.source import SourceModel
from bivlm.contracts.quantizer import Example, stats_of, weight_of
from bivlm.eval.answer import inference
from bivlm.formats import format_named
from bivlm.formats.encoding import rotation, trellis_checks, trellis_code
from bivlm.job.request import make_request
from bivlm.job.run import prepare, run
from bivlm.kernels.table import kernel_for
from bivlm.native import library as native
from bivlm.quantizers import (
    ARB,
    AWQ,
    DBF,
    GPTQ,
    MBQ,
    PBLLM,
    RTN,
    BiLLM,
    BiVLM,
    LeanQuant,
    Sign,
    SqueezeLLM,
    Trellis,
)
from bivlm.quantizers.steps.viterbi import search_columns, search_reference
from reliability.corpus import corpus
from reliability.jobs import content
from tiny import tiny_checkpoint, tiny_samples

DEFAULTS = {
    "bfloat16": (torch.bfloat16, None),
    "float16": (torch.float16, None),
    "float64": (torch.float64, None),
    "meta": (torch.float32, "meta"),
}
QUANTIZERS = [
    Sign(mean=True, compensate=True),
    RTN(),
    AWQ(),
    MBQ(),
    GPTQ(),
    LeanQuant(),
    SqueezeLLM(),
    SqueezeLLM(feedback=True),
    PBLLM(),
    BiLLM(refit=True),
    ARB(),
    ARB(variant="x", refit=True),
    DBF(),
    BiVLM(compensate=True),
    Trellis(),
    Trellis(window=12, feedback=False),
]


@contextmanager
def torch_defaults(dtype, device):
    torch.set_default_dtype(dtype)
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


@pytest.fixture(params=DEFAULTS.values(), ids=DEFAULTS)
def defaults(request):
    return request.param


@pytest.fixture
def nothing_kept():
    """Tables that are computed once must not come from an earlier test."""
    kept = (trellis_code.standard_tables, rotation.hartley, rotation._mixers)
    for table in kept:
        table.cache_clear()
    yield
    for table in kept:
        table.cache_clear()


def encoded_bytes(packed):
    return packed.settings, {
        name: tensor.flatten().view(torch.uint8).numpy().tobytes() for name, tensor in packed.tensors.items()
    }


def results(packed, inputs):
    """The weight, some rows and products, for few and for many tokens, and the weight written again."""
    decoded = format_named(packed.format).decode(packed)
    product = kernel_for(packed.format, "cpu")(packed)
    found = [decoded.dequantize(), format_named(packed.format).unpack_rows(packed, inputs["rows"])]
    for x in (inputs["few"], inputs["many"], inputs["few"].bfloat16()):
        found += [product(x, None), product(x, inputs["bias"], True)]
    return found, encoded_bytes(decoded.encode())


@pytest.mark.usefixtures("nothing_kept")
def test_readers_and_kernels(defaults):
    names = [name for place, name in enumerate(corpus()) if place % 3 == 0 or name.startswith("trellis")]
    for name in names:
        packed = corpus()[name]
        rows, columns = packed.shape
        inputs = {
            "few": torch.randn(2, columns),
            "many": torch.randn(1030 if "70 x 50" in name else 130, columns),
            "bias": torch.randn(rows),
            "rows": torch.tensor([0, rows - 1]),
        }
        with torch_defaults(*defaults):
            found, written = results(packed, inputs)
        expected, as_before = results(packed, inputs)
        assert written == as_before, name
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == other.dtype, name
            assert torch.equal(one, other), name


@pytest.mark.usefixtures("nothing_kept")
@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
def test_quantizers(quantizer, defaults):
    weight = weight_of((40, 130))
    stats = Example(quantizer).completed(weight, stats_of(130))
    with torch_defaults(*defaults):
        found = encoded_bytes(quantizer.quantize(weight, stats).encode())
    assert found == encoded_bytes(quantizer.quantize(weight, stats).encode())


@pytest.mark.parametrize("search", [search_columns, search_reference])
def test_the_search(search, defaults):
    w, table = 30 * torch.randn(16, 70), trellis_code.standard_tables(8)[1]
    u, state = torch.eye(16) + torch.rand(16, 16).triu(1) / 16, torch.zeros(2, dtype=torch.int32)
    with torch_defaults(*defaults):
        found = search(w, u, 8, 2, table, state)
    for one, other in zip(found, search(w, u, 8, 2, table, state), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.mark.usefixtures("nothing_kept")
def test_computed_tables(defaults):
    def tables():
        return [
            rotation.signs_of(5, 97),
            rotation.hartley(7),
            rotation.rotate(x, signs),
            *map(trellis_code.standard_tables, trellis_checks.WINDOWS),
        ]

    x, signs = torch.randn(3, 84), rotation.signs_of(1, 84)
    with torch_defaults(*defaults):
        found = tables()
    trellis_code.standard_tables.cache_clear()
    rotation.hartley.cache_clear()
    for one, other in zip(found, tables(), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_whole_job(dtype, tmp_path):
    """Packed, loaded, asked and pruned: as in a server that sets its own default while it loads a model.

    The inputs are made before: transformers' processors follow the default by themselves.
    """
    source = tiny_checkpoint("llava", tmp_path / "source", torch.bfloat16)
    request = make_request("trellis-2:embeddings=4,propagation=0.25")
    samples = calibration_inputs(SourceModel(source), tiny_samples(4))

    def made(out):
        run(prepare(source, request), out, samples)
        model, _ = bivlm.load(out, pruning="attention:layer=1,keep=0.5")
        with inference(model):
            return content(out), model(**samples[0].tensors).logits

    files, logits = made(tmp_path / "here")
    with torch_defaults(dtype, None):
        found, theirs = made(tmp_path / "there")
    assert found == files
    assert torch.equal(theirs, logits)


@pytest.mark.skipif(native.library() is None, reason="the native library is not in use")
def test_it_is_the_native_product_that_was_compared():
    assert kernel_for("trellis", "cpu")(corpus()["trellis, fitted"]).kernel == "native"
