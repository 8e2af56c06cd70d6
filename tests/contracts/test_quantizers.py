"""Every quantizer of the table keeps these promises. One that is listed without settings, or that lies in a
file but not in the table, fails.
"""

import dataclasses
import importlib
import pkgutil

import pytest
import torch

import bivlm.quantizers
from bivlm.formats import FORMATS
from bivlm.quantizers import (
    ARB,
    AWQ,
    DBF,
    GPTQ,
    PBLLM,
    QUANTIZERS,
    RTN,
    BiLLM,
    BiVLM,
    Quantizer,
    Sign,
    Trellis,
)
from bivlm.types import LinearStats

# Per quantizer: settings that together take every branch of it. The defaults come first, by themselves.
SETTINGS = {
    "bivlm": [
        BiVLM(),
        BiVLM(bands=5, salient_max=0.05, salient_levels="paper"),
        BiVLM(bands=1, salient_max=0.0),
        BiVLM(bands=1, salient_max=0.05),
        BiVLM(bands=8, salient_max=0.5),
        BiVLM(granularity="row"),
        BiVLM(granularity="row", bands=3, salient_max=0.0),
        BiVLM(granularity="group", group_size=64),
        BiVLM(granularity="group", group_size=128, salient_max=0.05, salient_levels="paper"),
        BiVLM(compensate=True),
        BiVLM(compensate=True, granularity="row", block_size=32),
        BiVLM(compensate=True, granularity="group", group_size=64, bands=1),
        BiVLM(compensate=True, salient_max=0.05, salient_levels="paper", bands=3, modality_weight=0.2),
    ],
    "sign": [
        Sign(),
        Sign(group_size=64, mean=True, scale_bits=8),
        Sign(group_size=1000, compensate=True, refit=False, act_order=False),
        Sign(compensate=True, mean=True, scale_bits=8, modality_weight="balanced"),
    ],
    "rtn": [
        RTN(),
        RTN(bits=8, clip=False, zero_point="code"),
        RTN(bits=1, group_size=64, zero_point="middle", scale_bits=8),
        RTN(alphabet=3, group_size=1000, scale_bits=32),
    ],
    "awq": [
        AWQ(),
        AWQ(bits=3, zero_point="code", clip=False, group_size=64, modality_weight=0.6),
        AWQ(alphabet=3, zero_point="middle", scale_bits=8),
    ],
    "gptq": [
        GPTQ(),
        GPTQ(bits=4, act_order=False, refit=False, group_size=32, zero_point="code", block_size=48),
        GPTQ(alphabet=3, zero_point="middle", scale_bits=8, modality_weight="balanced"),
        GPTQ(bits=3, group_size=1000, clip=False),
        GPTQ(act_order=False, group_size=64, scale_bits=8),
        GPTQ(grid="lloyd"),
        GPTQ(grid="lloyd", alphabet=5, group_size=1000, refit=False),
    ],
    "pbllm": [
        PBLLM(),
        PBLLM(saliency="magnitude", compensate=False, mean=True),
        PBLLM(act_order=False, refit=False, scale_bits=8, group_size=64, salient=0.2),
        PBLLM(salient=0.0, group_size=1000, modality_weight="balanced"),
    ],
    "billm": [
        BiLLM(),
        BiLLM(salience="hessian", error_rule="diagonal", scale_bits=32),
        BiLLM(compensate=False, most_salient=5),
        BiLLM(refit=True, scale_bits=8, block_size=64, modality_weight="balanced"),
    ],
    "arb": [
        ARB(),
        ARB(variant="plain", column_groups=False, salience="hessian", error_rule="diagonal"),
        ARB(variant="x", refit=True, scale_bits=8, rounds=3),
        ARB(variant="rc", column_groups=False, compensate=False, block_size=64),
    ],
    "trellis": [
        Trellis(),
        Trellis(bits=1.0, window=12, modality_weight="balanced", seed=7),
        Trellis(bits=2.6, rotation=False, allocation=False),
        Trellis(bits=0.5, feedback=False, refit=False, spread=0.9),
        Trellis(bits=4.0, block_size=32),
    ],
    "dbf": [
        DBF(),
        DBF(bits=3.5, weighting="none", rounds=5, inner=2, penalty=2.0),
        DBF(bits=1.4, rounds=8, ridge=0.03, modality_weight=0.3, seed=5),
    ],
}
QUANTIZED = [quantizer for several in SETTINGS.values() for quantizer in several]
SHAPES = [(64, 256), (256, 64), (64, 130), (512, 8), (8, 200), (300, 3), (200, 1), (1, 200), (2, 2)]


def settings_of(quantizer: Quantizer) -> str:
    given = [
        f"{field.name}={getattr(quantizer, field.name)}"
        for field in dataclasses.fields(quantizer)
        if getattr(quantizer, field.name) != field.default
    ]
    return " ".join([quantizer.name, *given])


every_quantizer = pytest.mark.parametrize("quantizer", QUANTIZED, ids=settings_of)


def weight_of(shape: tuple[int, int], seed: int = 0) -> torch.Tensor:
    return 0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stats_of(columns: int, seed: int = 1) -> LinearStats:
    """Correlated inputs of unequal size, as two modalities."""
    generator = torch.Generator().manual_seed(seed)
    mix = (
        torch.eye(columns) + torch.randn(columns, columns, generator=generator) / columns**0.5
    ) * torch.logspace(-0.5, 0.5, columns)
    text, visual = (
        torch.randn(tokens, columns, generator=generator) @ mix
        for tokens in (2 * columns + 10, 4 * columns + 10)
    )
    moments = {"text": text.T @ text / len(text), "visual": visual.T @ visual / len(visual)}
    return LinearStats(second_moments=moments, tokens={"text": len(text), "visual": len(visual)})


def quantize(quantizer: Quantizer, w: torch.Tensor):
    return quantizer.quantize(w, stats_of(w.shape[1]) if quantizer.needs_data else None)


def trace_error(w: torch.Tensor, q, hessian: torch.Tensor) -> float:
    difference = (w - q.dequantize()).double()
    return float(((difference @ hessian.double()) * difference).sum())


def test_table_has_every_quantizer_under_its_name():
    for module in pkgutil.iter_modules(bivlm.quantizers.__path__):
        importlib.import_module(f"bivlm.quantizers.{module.name}")
    assert set(QUANTIZERS.values()) == set(Quantizer.__subclasses__())
    assert all(quantizer.name == name for name, quantizer in QUANTIZERS.items())


def test_every_quantizer_has_settings_here_and_its_defaults_work():
    assert SETTINGS.keys() == QUANTIZERS.keys()
    for name, several in SETTINGS.items():
        assert several[0] == QUANTIZERS[name]()


@every_quantizer
def test_settings_are_frozen_and_come_back_from_a_dict(quantizer):
    assert type(quantizer)(**dataclasses.asdict(quantizer)) == quantizer
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(quantizer, dataclasses.fields(quantizer)[0].name, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@every_quantizer
def test_shape_and_finite_for_every_dtype(quantizer, dtype):
    q = quantize(quantizer, weight_of((40, 130)).to(dtype))
    back = q.dequantize()
    assert (q.shape, tuple(back.shape), back.dtype) == ((40, 130), (40, 130), torch.float32)
    assert bool(back.isfinite().all())


@every_quantizer
def test_inputs_are_left_alone(quantizer):
    w, stats = weight_of((40, 130)), stats_of(130)
    before = w.clone(), {modality: moment.clone() for modality, moment in stats.second_moments.items()}
    quantizer.quantize(w, stats)
    assert torch.equal(w, before[0])
    assert all(torch.equal(stats.second_moments[modality], moment) for modality, moment in before[1].items())


@every_quantizer
def test_same_input_same_bytes(quantizer):
    one, two = (quantize(quantizer, weight_of((40, 130))).encode() for _ in range(2))
    assert one.settings == two.settings
    assert one.tensors.keys() == two.tensors.keys()
    for name, tensor in one.tensors.items():
        assert tensor.numpy().tobytes() == two.tensors[name].numpy().tobytes()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@every_quantizer
def test_the_file_gives_the_same_weight_back(quantizer, shape):
    q = quantize(quantizer, weight_of(shape))
    again = FORMATS[q.format].decode(q.encode())
    assert again == q
    assert torch.equal(again.dequantize(), q.dequantize())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@every_quantizer
def test_bits_stay_within_the_bound_on_gaussian_weights(quantizer, shape):
    for seed in range(2):
        assert quantize(quantizer, weight_of(shape, seed)).encode().bits_per_weight() <= quantizer.bits_bound(
            shape
        )


@every_quantizer
def test_bound_is_not_far_from_the_truth(quantizer):
    """Within a tenth of a bit, and what a search may leave unused: a tenth more per cent of tail, or salient
    columns with a part more.
    """
    w = weight_of((256, 512))
    true, bound = quantize(quantizer, w).encode().bits_per_weight(), quantizer.bits_bound((256, 512))
    unused = 10 * getattr(quantizer, "salient_max", 0.0)
    if getattr(quantizer, "column_groups", False):
        unused = quantizer.most_salient / quantizer.block_size
    assert bound - unused - 0.1 < true <= bound


@every_quantizer
def test_paper_bits_are_fewer_than_the_true_ones(quantizer):
    """But for a bare sign plane, for which the paper counts row scales that are not there."""
    if quantizer == BiVLM(bands=1, salient_max=0.0):
        pytest.skip("a sign plane has neither bands nor a tail to leave out")
    q = quantize(quantizer, weight_of((256, 512)))
    paper = quantizer.paper_bits(q)
    least = min(1.0, getattr(quantizer, "bits", 1.0))
    assert paper is None or least <= paper < q.encode().bits_per_weight()


@every_quantizer
def test_needs_data_means_what_it_says(quantizer):
    w = weight_of((40, 130))
    if quantizer.needs_data:
        with pytest.raises(ValueError, match="needs calibration statistics"):
            quantizer.quantize(w, None)
        assert quantizer.quantize(w, stats_of(130)) != quantizer.quantize(w, stats_of(130, seed=9))
    else:
        assert quantizer.quantize(w, None) == quantizer.quantize(w, stats_of(130))


@pytest.mark.parametrize(
    "quantizer", [quantizer for quantizer in QUANTIZED if quantizer.needs_data], ids=settings_of
)
@pytest.mark.parametrize("seed", range(3))
def test_data_lowers_the_error_of_the_layer(quantizer, seed):
    """Against the same method told that all inputs are alike."""
    w, stats = weight_of((64, 128), seed), stats_of(128, seed)
    without = quantizer.quantize(w, LinearStats({"text": torch.eye(128)}, {"text": 1}))
    assert trace_error(w, quantizer.quantize(w, stats), stats.hessian) <= trace_error(
        w, without, stats.hessian
    )


def awkward_weight() -> torch.Tensor:
    """A constant row, a row and a column of zeros, a row of one weight, and one huge weight."""
    w = weight_of((24, 150))
    w[3], w[5], w[:, 7] = 0.05, 0.0, 0.0
    w[8], w[8, 20] = 0.0, 0.3
    w[10, 11] = 4.0
    return w


def awkward_stats(tokens: int = 20) -> LinearStats:
    """Fewer tokens than columns, a column that no token excites, and one that all excite a hundredfold."""
    x = torch.randn(tokens, 150, generator=torch.Generator().manual_seed(3))
    x[:, 40], x[:, 41] = 0.0, 100 * x[:, 41]
    return LinearStats({"visual": x.T @ x / tokens}, {"visual": tokens})


@every_quantizer
def test_awkward_weights_and_inputs(quantizer):
    w, stats = awkward_weight(), awkward_stats()
    q = quantizer.quantize(w, stats)
    assert bool(q.dequantize().isfinite().all())
    assert FORMATS[q.format].decode(q.encode()) == q
    if quantizer.needs_data:
        assert trace_error(w, q, stats.hessian) < trace_error(
            2 * w, quantizer.quantize(torch.zeros_like(w), stats), stats.hessian
        )


@every_quantizer
def test_a_moment_that_is_no_moment_is_refused_or_repaired_with_a_word(quantizer, caplog):
    """Not positive definite by far: the damping is raised and that is logged, or the weight is refused; never
    a silent identity.
    """
    if not quantizer.needs_data or quantizer.name == "awq":
        pytest.skip("looks at the diagonal alone, or at nothing")
    w = weight_of((20, 60))
    slightly, far = (
        torch.eye(60) - 1.05 * torch.full((60, 60), 1 / 60),
        torch.eye(60) - torch.full((60, 60), 0.5),
    )
    assert bool(
        quantizer.quantize(w, LinearStats({"text": slightly}, {"text": 9})).dequantize().isfinite().all()
    )
    assert "not positive definite" in caplog.text
    with pytest.raises(ValueError, match="not positive definite"):
        quantizer.quantize(w, LinearStats({"text": far}, {"text": 9}))


@every_quantizer
def test_inputs_that_are_zero_leave_the_method_without_data(quantizer, caplog):
    w = weight_of((20, 60))
    q = quantizer.quantize(w, LinearStats({"text": torch.zeros(60, 60)}, {"text": 9}))
    assert float((w - q.dequantize()).square().sum()) < float(w.square().sum())
    assert ("zeros only" in caplog.text) == quantizer.needs_data


@every_quantizer
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused(quantizer, value):
    w = weight_of((20, 60))
    w[2, 3] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        quantizer.quantize(w, stats_of(60))
