"""Every quantizer of the table keeps the contract (bivlm.contracts). One that is not tested here, or that
lies in a file but not in the table, fails.

A bound may count what a search leaves unused: in Bi-VLM ten bits for every weight that might have been
salient, in ARB a bit for every column of a block that might have been.
"""

import importlib
import pkgutil

import bivlm.quantizers
from bivlm.contracts import Example, QuantizerContract
from bivlm.quantizers import (
    ARB,
    AWQ,
    DBF,
    GPTQ,
    MBQ,
    PBLLM,
    QSVD,
    QUANTIZERS,
    QVLA,
    RTN,
    BiLLM,
    BiVLM,
    LeanQuant,
    Quantizer,
    Sign,
    SqueezeLLM,
    Trellis,
)
from bivlm.quantizers.base import GroupQuantizer

UNUSED_COLUMNS = ARB().most_salient / ARB().block_size


class TestBiVLM(QuantizerContract):
    examples = [
        Example(BiVLM(), unused_bits=0.1),
        Example(BiVLM(bands=5, salient_max=0.05, salient_levels="paper"), unused_bits=0.5),
        Example(BiVLM(bands=1, salient_max=0.0), least_paper_bits=None),
        Example(BiVLM(bands=1, salient_max=0.05), unused_bits=0.5),
        Example(BiVLM(bands=8, salient_max=0.5), unused_bits=5.0),
        Example(BiVLM(granularity="row"), unused_bits=0.1),
        BiVLM(granularity="row", bands=3, salient_max=0.0),
        Example(BiVLM(granularity="group", group_size=64), unused_bits=0.1),
        Example(
            BiVLM(granularity="group", group_size=128, salient_max=0.05, salient_levels="paper"),
            unused_bits=0.5,
        ),
        Example(BiVLM(compensate=True), unused_bits=0.1),
        Example(BiVLM(compensate=True, granularity="row", block_size=32), unused_bits=0.1),
        Example(BiVLM(compensate=True, granularity="group", group_size=64, bands=1), unused_bits=0.1),
        Example(
            BiVLM(compensate=True, salient_max=0.05, salient_levels="paper", bands=3, modality_weight=0.2),
            unused_bits=0.5,
        ),
    ]


class TestSign(QuantizerContract):
    examples = [
        Sign(),
        Sign(group_size=64, mean=True, scale_bits=8),
        Sign(group_size=1000, compensate=True, refit=False, act_order=False),
        Sign(compensate=True, mean=True, scale_bits=8, modality_weight="balanced"),
    ]


class TestRTN(QuantizerContract):
    examples = [
        RTN(),
        RTN(bits=8, clip=False, zero_point="code"),
        RTN(bits=1, group_size=64, zero_point="middle", scale_bits=8),
        RTN(alphabet=3, group_size=1000, scale_bits=32),
    ]


class TestAWQ(QuantizerContract):
    examples = [
        Example(AWQ(), inverts_moment=False),
        Example(
            AWQ(bits=3, zero_point="code", clip=False, group_size=64, modality_weight=0.6),
            inverts_moment=False,
        ),
        Example(AWQ(alphabet=3, zero_point="middle", scale_bits=8), inverts_moment=False),
    ]


class TestMBQ(QuantizerContract):
    examples = [
        Example(MBQ(), inverts_moment=False),
        Example(
            MBQ(bits=2, loss="mse", zero_point="free", clip=True, group_size=64, steps=7),
            inverts_moment=False,
        ),
        Example(MBQ(bits=4, zero_point="middle", scale_bits=8, group_size=1000), inverts_moment=False),
    ]


class TestGPTQ(QuantizerContract):
    examples = [
        GPTQ(),
        GPTQ(bits=4, act_order=False, refit=False, group_size=32, zero_point="code", block_size=48),
        GPTQ(alphabet=3, zero_point="middle", scale_bits=8, modality_weight="balanced"),
        GPTQ(bits=3, group_size=1000, clip=False),
        GPTQ(act_order=False, group_size=64, scale_bits=8),
        GPTQ(grid="lloyd"),
        GPTQ(grid="lloyd", alphabet=5, group_size=1000, refit=False),
        GPTQ(grid="lloyd", grid_weight="loss", loss_exponent=3.0),
        GPTQ(act_order=False, group_size=64, grid_weight="loss"),
    ]


class TestLeanQuant(QuantizerContract):
    examples = [
        LeanQuant(),
        LeanQuant(bits=3, start="search", refit=True, loss_exponent=2.0, damping=0.01),
        LeanQuant(bits=1, group_size=64, act_order=False, block_size=48, modality_weight="balanced"),
        LeanQuant(bits=4, group_size=100, loss_exponent=0.0),
    ]


class TestSqueezeLLM(QuantizerContract):
    examples = [
        Example(SqueezeLLM(), least_paper_bits=None, inverts_moment=False),
        Example(SqueezeLLM(bits=2, sensitive=0.0, outliers=0.0), inverts_moment=False),
        Example(
            SqueezeLLM(bits=4, sensitive=0.01, outlier_range=1.5, outliers=0.02),
            unused_bits=0.5,
            least_paper_bits=None,
            inverts_moment=False,
        ),
        Example(SqueezeLLM(bits=1, feedback=True, modality_weight=0.3), least_paper_bits=None),
        SqueezeLLM(bits=2, outliers=0.0, sensitive=0.0, feedback=True, act_order=False, block_size=48),
    ]


class TestPBLLM(QuantizerContract):
    examples = [
        PBLLM(),
        PBLLM(saliency="magnitude", compensate=False, mean=True),
        PBLLM(act_order=False, refit=False, scale_bits=8, group_size=64, salient=0.2),
        PBLLM(salient=0.0, group_size=1000, modality_weight="balanced"),
    ]


class TestBiLLM(QuantizerContract):
    examples = [
        BiLLM(),
        BiLLM(salience="hessian", error_rule="diagonal", scale_bits=32),
        BiLLM(compensate=False, most_salient=5),
        BiLLM(refit=True, scale_bits=8, block_size=64, modality_weight="balanced"),
    ]


class TestARB(QuantizerContract):
    examples = [
        Example(ARB(), unused_bits=UNUSED_COLUMNS),
        ARB(variant="plain", column_groups=False, salience="hessian", error_rule="diagonal"),
        Example(ARB(variant="x", refit=True, scale_bits=8, rounds=3), unused_bits=UNUSED_COLUMNS),
        ARB(variant="rc", column_groups=False, compensate=False, block_size=64),
    ]


class TestTrellis(QuantizerContract):
    examples = [
        Trellis(),
        Trellis(bits=1.0, window=12, modality_weight="balanced", seed=7),
        Trellis(bits=2.6, rotation=False, allocation=False),
        Example(Trellis(bits=0.5, feedback=False, refit=False, spread=0.9), least_paper_bits=0.5),
        Trellis(bits=4.0, block_size=32),
        Trellis(blocks=4, window=12),
        Trellis(bits=1.0, spread="fitted"),
    ]


class TestDBF(QuantizerContract):
    examples = [
        DBF(),
        DBF(bits=3.5, weighting="none", rounds=5, inner=2, penalty=2.0),
        DBF(bits=1.4, rounds=8, ridge=0.03, modality_weight=0.3, seed=5),
    ]


def test_table_has_every_quantizer_under_its_name():
    for module in pkgutil.iter_modules(bivlm.quantizers.__path__):
        importlib.import_module(f"bivlm.quantizers.{module.name}")
    kinds = [*Quantizer.__subclasses__(), *GroupQuantizer.__subclasses__()]
    own = {kind for kind in kinds if kind.__module__.startswith("bivlm.quantizers.")} - {GroupQuantizer}
    assert set(QUANTIZERS.values()) == own
    assert all(quantizer.name == name for name, quantizer in QUANTIZERS.items())


def test_every_quantizer_of_the_table_is_tested_here():
    tested = [
        kind for kind in globals().values() if isinstance(kind, type) and issubclass(kind, QuantizerContract)
    ]
    examples = [example.quantizer.name for contract in tested for example in contract.all_examples()]
    assert set(examples) == set(QUANTIZERS)


class TestQVLA(QuantizerContract):
    examples = [
        QVLA(),
        Example(
            QVLA(bits=2.6, counted="widths", score="cost", cost="pivots", modality_weight=0.3),
            unused_bits=0.7,
            least_paper_bits=None,
        ),
        QVLA(bits=1.8, feedback=True, group_size=64, widths=(0, 1, 2), row_weight="fisher"),
    ]


class TestQSVD(QuantizerContract):
    examples = [
        Example(QSVD(), least_paper_bits=None, unused_bits=0.1),
        Example(QSVD(bits=6.0, factors="raw", whitening="diagonal"), least_paper_bits=None, unused_bits=0.2),
    ]
