"""The requirements for every quantizer: exact bytes, valid bounds, unchanged arguments, and the right
behaviour for unusual weights and inputs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from bivlm.contracts.parameters import parametrize
from bivlm.errors import InputError
from bivlm.formats import FORMATS, QuantizedWeight
from bivlm.quantizers import Quantizer
from bivlm.types import LinearStats

SHAPES = [(64, 256), (256, 64), (64, 130), (512, 8), (8, 200), (300, 3), (200, 1), (1, 200), (2, 2)]
SLACK = 0.1  # bits per weight that a bound may promise above what a large Gaussian weight takes


@dataclass(frozen=True)
class Example:
    """A quantizer and its particular properties.

    unused_bits       bits per weight that its bound counts and its search may leave unused
    least_paper_bits  the fewest bits that its paper can count; None if the paper counts as many as are
                      stored, or more
    inverts_moment    it needs a positive definite second moment, and reports one that is not; False for
                      methods that use the diagonal alone
    """

    quantizer: Quantizer
    unused_bits: float = 0.0
    least_paper_bits: float | None = 1.0
    inverts_moment: bool = True

    def quantize(self, w: Tensor, stats: LinearStats | None = None) -> QuantizedWeight:
        """The quantized weight, with `stats` or those of `stats_of`, completed if it takes more."""
        if stats is None and self.quantizer.needs_data:
            stats = stats_of(w.shape[1])
        return self.quantizer.quantize(w, None if stats is None else self.completed(w, stats))

    def completed(self, w: Tensor, stats: LinearStats) -> LinearStats:
        """`stats`, and made-up gradients and inputs if the quantizer looks at them."""
        if self.quantizer.needs_gradients and stats.visual_share is None:
            stats = replace(stats, visual_share=0.3)
        if self.quantizer.needs_fisher and stats.fisher is None:
            stats = replace(stats, fisher=fisher_of(w, stats))
        if self.quantizer.needs_inputs and stats.inputs is None:
            inputs, visual = inputs_of(stats)
            stats = replace(stats, inputs=inputs, inputs_visual=visual)
        return stats

    def __str__(self) -> str:
        fields = dataclasses.fields(self.quantizer)  # pyright: ignore[reportArgumentType]
        values = {field.name: (getattr(self.quantizer, field.name), field.default) for field in fields}
        given = [f"{name}={value}" for name, (value, default) in values.items() if value != default]
        return " ".join([self.quantizer.name, *given])


class QuantizerContract:
    """Subclass it, and set `examples`: quantizers (or `Example`s) of one method whose settings together take
    every branch of it, the defaults first.
    """

    examples: ClassVar[Sequence[Quantizer | Example]] = ()

    @classmethod
    def all_examples(cls) -> list[Example]:
        return [one if isinstance(one, Example) else Example(one) for one in cls.examples]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """`example`: all of them; `fed`: those that look at data; `inverting`: those that need an inverse."""
        examples = self.all_examples()
        if not examples:
            raise pytest.UsageError(
                f"{type(self).__name__} has no examples; set `examples`, the defaults first"
            )
        fed = [one for one in examples if one.quantizer.needs_data]
        inverting = [one for one in fed if one.inverts_moment]
        parametrize(metafunc, {"example": examples, "fed": fed, "inverting": inverting})

    def test_the_examples_are_of_one_method_its_defaults_first(self) -> None:
        examples = self.all_examples()
        assert {type(one.quantizer) for one in examples} == {type(examples[0].quantizer)}
        assert examples[0].quantizer == type(examples[0].quantizer)()

    def test_settings_are_frozen_and_come_back_from_a_dict(self, example: Example) -> None:
        quantizer: Any = example.quantizer
        assert type(quantizer)(**dataclasses.asdict(quantizer)) == quantizer
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(quantizer, dataclasses.fields(quantizer)[0].name, 1)
        with pytest.raises(ValueError, match="strange_setting"):
            type(quantizer)(strange_setting=1)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
    def test_shape_and_finite_for_every_dtype(self, example: Example, dtype: torch.dtype) -> None:
        q = example.quantize(weight_of((40, 130)).to(dtype))
        back = q.dequantize()
        assert (q.shape, tuple(back.shape), back.dtype) == ((40, 130), (40, 130), torch.float32)
        assert bool(back.isfinite().all())

    def test_inputs_are_left_alone(self, example: Example) -> None:
        w = weight_of((40, 130))
        stats = example.completed(w, stats_of(130))
        before = [tensor.clone() for tensor in (w, *_tensors_of(stats))]
        example.quantizer.quantize(w, stats)
        assert all(map(torch.equal, before, (w, *_tensors_of(stats))))

    def test_same_input_same_bytes(self, example: Example) -> None:
        one, two = (example.quantize(weight_of((40, 130))).encode() for _ in range(2))
        assert one.settings == two.settings
        assert one.tensors.keys() == two.tensors.keys()
        for name, tensor in one.tensors.items():
            assert tensor.numpy().tobytes() == two.tensors[name].numpy().tobytes()

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_the_file_gives_the_same_weight_back(self, example: Example, shape: tuple[int, int]) -> None:
        q = example.quantize(weight_of(shape))
        again = FORMATS[q.format].decode(q.encode())
        assert again == q
        assert torch.equal(again.dequantize(), q.dequantize())

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_bits_stay_within_the_bound_on_gaussian_weights(
        self, example: Example, shape: tuple[int, int]
    ) -> None:
        for seed in range(2):
            packed = example.quantize(weight_of(shape, seed)).encode()
            assert packed.bits_per_weight() <= example.quantizer.bits_bound(shape)

    def test_bound_is_not_far_from_the_truth(self, example: Example) -> None:
        true = example.quantize(weight_of((256, 512))).encode().bits_per_weight()
        bound = example.quantizer.bits_bound((256, 512))
        assert bound - example.unused_bits - SLACK < true <= bound

    def test_paper_bits_are_fewer_than_the_true_ones(self, example: Example) -> None:
        q = example.quantize(weight_of((256, 512)))
        paper, true = example.quantizer.paper_bits(q), q.encode().bits_per_weight()
        if example.least_paper_bits is None:
            assert paper is None or paper >= true
        else:
            assert paper is None or example.least_paper_bits <= paper < true

    def test_bits_can_be_chosen_or_that_is_refused(self, example: Example) -> None:
        """With more bits the same method stores more; a method that does not work at any number of bits
        refuses.
        """
        try:
            fewer, more = example.quantizer.with_bits(2.0), example.quantizer.with_bits(3.0)
        except InputError as error:
            refusal = str(error)
        else:
            assert type(fewer) is type(more) is type(example.quantizer)
            assert fewer.with_bits(3.0) == more
            assert fewer.bits_bound((256, 512)) < more.bits_bound((256, 512))
            return
        assert example.quantizer.name in refusal

    def test_needs_data_means_what_it_says(self, example: Example) -> None:
        w, quantizer = weight_of((40, 130)), example.quantizer
        if quantizer.needs_data:
            with pytest.raises(ValueError, match="needs calibration statistics"):
                quantizer.quantize(w, None)
            assert example.quantize(w, stats_of(130)) != example.quantize(w, stats_of(130, seed=9))
        else:
            assert quantizer.quantize(w, None) == quantizer.quantize(w, stats_of(130))

    def test_modalities_count_as_the_modality_weight_says(self, fed: Example) -> None:
        w = weight_of((40, 130))
        stats = fed.completed(w, stats_of(130))
        moment = stats.second_moment(fed.quantizer.modality_weight)
        joined = replace(stats, second_moments={"text": moment}, tokens={"text": 1})
        assert fed.quantizer.quantize(w, stats) == fed.quantizer.quantize(w, joined)

    @pytest.mark.parametrize("seed", range(3))
    def test_data_lowers_the_error_of_the_layer(self, fed: Example, seed: int) -> None:
        """Compared with the same method on statistics in which all inputs are equal."""
        w, stats = weight_of((64, 128), seed), stats_of(128, seed)
        without = fed.quantize(w, LinearStats({"text": torch.eye(128)}, {"text": 1}))
        error = trace_error(w, fed.quantize(w, stats), stats.hessian)
        assert error <= trace_error(w, without, stats.hessian)

    def test_awkward_weights_and_inputs(self, example: Example) -> None:
        w, stats, quantizer = awkward_weight(), awkward_stats(), example.quantizer
        q = example.quantize(w, stats)
        assert bool(q.dequantize().isfinite().all())
        assert FORMATS[q.format].decode(q.encode()) == q
        if quantizer.needs_data:
            of_zeros = example.quantize(torch.zeros_like(w), stats)
            assert trace_error(w, q, stats.hessian) < trace_error(2 * w, of_zeros, stats.hessian)

    def test_a_moment_that_is_no_moment_is_refused_or_repaired_with_a_word(
        self, inverting: Example, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A moment that is far from positive definite: either the damping is raised, which is logged, or the
        weight is refused; it is never silently replaced by an identity.
        """
        w = weight_of((20, 60))
        below = 5 * getattr(inverting.quantizer, "damping", 0.01)  # ten times the damping repairs it
        slightly, far = (
            torch.eye(60) - (1 + below) * torch.full((60, 60), 1 / 60),
            torch.eye(60) - torch.full((60, 60), 0.5),
        )
        q = inverting.quantize(w, LinearStats({"text": slightly}, {"text": 9}))
        assert bool(q.dequantize().isfinite().all())
        assert "not positive definite" in caplog.text
        with pytest.raises(ValueError, match="not positive definite"):
            inverting.quantize(w, LinearStats({"text": far}, {"text": 9}))

    def test_inputs_that_are_zero_leave_the_method_without_data(
        self, example: Example, caplog: pytest.LogCaptureFixture
    ) -> None:
        w = weight_of((20, 60))
        q = example.quantize(w, LinearStats({"text": torch.zeros(60, 60)}, {"text": 9}))
        assert float((w - q.dequantize()).square().sum()) < float(w.square().sum())
        assert ("zeros only" in caplog.text) == example.quantizer.needs_data

    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    def test_weights_that_are_not_finite_are_refused(self, example: Example, value: float) -> None:
        w = weight_of((20, 60))
        w[2, 3] = value
        with pytest.raises(ValueError, match="NaN or infinity"):
            example.quantize(w, stats_of(60))


def _tensors_of(stats: LinearStats) -> list[Tensor]:
    own = [value for value in vars(stats).values() if isinstance(value, Tensor)]
    return [*stats.second_moments.values(), *own]


def weight_of(shape: tuple[int, int], seed: int = 0) -> Tensor:
    """A Gaussian weight (out, in) of deviation 0.02."""
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
    return LinearStats(
        second_moments={"text": text.T @ text / len(text), "visual": visual.T @ visual / len(visual)},
        tokens={"text": len(text), "visual": len(visual)},
    )


def fisher_of(w: Tensor, stats: LinearStats) -> Tensor:
    """Squared gradients (out, in) of a weight: rows of unequal weight times the strength of the inputs."""
    rows = torch.rand(len(w), generator=torch.Generator().manual_seed(len(w)))
    return torch.outer(rows.square(), stats.hessian.diagonal().clamp_min(0.0))


def inputs_of(stats: LinearStats, tokens: int = 64) -> tuple[Tensor, Tensor]:
    """Some inputs with the second moments of `stats`, `tokens` of each modality: (t, in); and which are
    visual (t,).
    """
    parts, marks = [], []
    for modality, moment in stats.second_moments.items():
        values, vectors = torch.linalg.eigh(moment.double())
        root = (vectors * values.clamp_min(0.0).sqrt()) @ vectors.T
        drawn = torch.randn(tokens, len(moment), generator=torch.Generator().manual_seed(len(modality)))
        parts.append((drawn.double() @ root).float())
        marks.append(torch.full((tokens,), modality == "visual"))
    return torch.cat(parts), torch.cat(marks)


def trace_error(w: Tensor, q: QuantizedWeight, hessian: Tensor) -> float:
    """tr((W-Q) H (W-Q)ᵀ), in float64."""
    difference = (w - q.dequantize()).double()
    return float(((difference @ hessian.double()) * difference).sum())


def awkward_weight() -> Tensor:
    """(24, 150): a constant row, a row and a column of zeros, a row of one weight, and one huge weight."""
    w = weight_of((24, 150))
    w[3], w[5], w[:, 7] = 0.05, 0.0, 0.0
    w[8], w[8, 20] = 0.0, 0.3
    w[10, 11] = 4.0
    return w


def awkward_stats(tokens: int = 20) -> LinearStats:
    """Fewer tokens than columns, a column that no token excites, and a column that is excited a
    hundredfold.
    """
    x = torch.randn(tokens, 150, generator=torch.Generator().manual_seed(3))
    x[:, 40], x[:, 41] = 0.0, 100 * x[:, 41]
    return LinearStats({"visual": x.T @ x / tokens}, {"visual": tokens})
