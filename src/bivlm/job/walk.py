"""The walk: stack by stack, block by block; each block is quantized on the outputs of the packed blocks
before it.

    for each stack:   enter it          (finished stacks replay their outputs)
      for each block: weights from the source ─► observe ─► finish the unit ─► packed in place ─► next block
    the tables last, if the recipe packs them: the head with statistics of its inputs

If the recipe asks for error propagation or tuning, the full-precision model runs next to the packed one,
block by block. Its inputs give the error before each linear (calibration/propagation.py), and its outputs are
the targets of the packed blocks (calibration/tuning.py). If no linear needs data, nothing is run at all.
Blocks that an earlier run finished are read back from the store and not quantized again. They compute the
same numbers, so a walk that was interrupted ends with the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

from bivlm.calibration.gradients import Gradients
from bivlm.calibration.head import head_stats
from bivlm.calibration.inputs import CalibrationInput
from bivlm.calibration.stats import StatsCollector
from bivlm.calibration.stream import Entrance, FinishedStack, Stream
from bivlm.calibration.tuning import Tuned, tune_block
from bivlm.checkpoint.source import SourceModel
from bivlm.errors import InputError
from bivlm.events import SILENT, Events
from bivlm.job.plan import BlockPlan, Plan, TablePlan
from bivlm.job.unit import Packed, UnitMaker, UnitStore
from bivlm.job.weighing import block_collector
from bivlm.packed.linear import replace_linear
from bivlm.packed.module import expand_weights
from bivlm.types import LinearStats


class Walk:
    """Quantizes every unit of a plan into a store; each method is one step.

    `samples` are used only if a quantizer needs data or the full-precision model runs as well; `gradients`
    are theirs, if a quantizer needs them.
    """

    def __init__(
        self,
        source: SourceModel,
        plan: Plan,
        store: UnitStore,
        samples: Sequence[CalibrationInput] = (),
        events: Events = SILENT,
        gradients: Gradients | None = None,
    ) -> None:
        self.source, self.plan, self.store, self.samples = source, plan, store, samples
        self.gradients = gradients
        self.maker = UnitMaker(source, plan, store, events)
        self.entrance = Entrance(source.model, samples)
        self.paths = [block.path for block in plan.blocks]
        self.finished: list[FinishedStack] = []

    def run(self) -> None:
        """All units, in their order. Raises InputError if samples are needed and there are none."""
        if self.plan.needs_data and not self.samples:
            raise InputError(
                "the recipe's quantizer needs calibration samples and there are none; give --data, or choose"
                " a preset that needs no data"
            )
        count = self._blocks_with_data()
        head = self._run_blocks(self.plan.blocks[:count]) if count else None
        for block in self.plan.blocks[count:]:
            self.maker.finish(block)
        for table in self.plan.tables:
            self._finish_table(table, head)

    def _blocks_with_data(self) -> int:
        """How many blocks the samples run through: up to the last block that uses them."""
        if self.plan.head_needs_data:
            return len(self.plan.blocks)
        return 1 + max(
            (index for index, block in enumerate(self.plan.blocks) if self.plan.runs(block)), default=-1
        )

    def _run_blocks(self, blocks: Sequence[BlockPlan]) -> LinearStats | None:
        """Finish some blocks on the samples; returns statistics of the language head's inputs if needed."""
        for _, stack in groupby(blocks, key=lambda block: block.stack):
            self._run_stack(tuple(stack))
        with self.source.surroundings(self.paths):
            return self._observe_head()

    def _run_stack(self, blocks: Sequence[BlockPlan]) -> None:
        """Finish the blocks of one stack, and keep the outputs that the model reads later."""
        modules = [self.source.model.get_submodule(block.path) for block in blocks]
        with self.source.surroundings(self.paths):
            exact = self.entrance.enter(modules, self.finished, exact=True) if self.plan.runs_beside else None
            packed = self.entrance.enter(modules, self.finished)
        stack = FinishedStack(modules, len(self.samples))
        for index, block in enumerate(blocks):
            self._run_block(block, index, packed, exact)
            if block.is_output:
                stack.record(index, packed, exact)
        self.finished.append(stack)

    def _run_block(self, block: BlockPlan, index: int, packed: Stream, exact: Stream | None) -> None:
        """Observe one block, finish it, and run it: `packed` on the packed weights, `exact` on its own."""
        with self.source.present(block.path) as module:
            collector = self._observe(block, module, index, packed, exact)
            if exact is not None:
                exact.advance(index, module)

            def tune(weights: Packed) -> Tuned:
                assert exact is not None
                # the full-precision model has run through the block already: its hidden states are the
                # targets
                return tune_block(
                    module,
                    block.path,
                    weights,
                    packed.calls(index),
                    packed.hidden,
                    exact.hidden,
                    self.plan.tuning,
                    self._output_weights(block),
                )

            if not self.plan.tuning:  # each weight is read from the file again when its turn comes
                self.source.release([f"{linear.name}.weight" for linear in block.quantized])
            stats = None if collector is None else collector.stats
            weights, vectors = self.maker.finish(block, stats, tune if self.plan.tuning else None)
            for name, weight in weights.items():
                # decoded and multiplied by torch: the kernels' sums depend on the machine's instruction set,
                # and the bytes of the blocks that follow must not
                expand_weights(replace_linear(self.source.model, name, weight))
            set_vectors(self.source.model, vectors)
            packed.advance(index, self.source.model.get_submodule(block.path))

    def _output_weights(self, block: BlockPlan) -> list[Tensor] | None:
        """How much the error of every token of a block's output counts, (t,) for each sample: by its
        gradient, if the block's quantizers weigh tokens so; None if all count alike.
        """
        power = max(linear.quantizer.gradient_power for linear in block.quantized if linear.quantizer)
        if self.gradients is None or not power:
            return None
        return self.gradients.weights(block.path, power)

    @torch.inference_mode()
    def _observe(
        self, block: BlockPlan, module: nn.Module, index: int, packed: Stream, exact: Stream | None
    ) -> StatsCollector | None:
        """Statistics of the inputs of the block's linears, with the residual to the full-precision model;
        None if nothing uses them.
        """
        wanted = block.needs_data or bool(block.quantized and self.plan.propagation)
        if not wanted or self.store.is_done(block.path):
            return None
        stack = self.source.family.stacks[block.stack]
        collector = block_collector(self.source, block, self.samples, self.gradients)
        calls = packed.calls(index)
        for number, sample in enumerate(self.samples):
            received = None
            if exact is not None:
                with collector.inputs() as received:
                    exact.calls(index)[number].run(module, exact.hidden[number])
            visual = sample.visual if stack.part == "language" else None
            with collector.watching(visual, received, number):
                calls[number].run(module, packed.hidden[number])
        return collector

    def _observe_head(self) -> LinearStats | None:
        """Statistics of the language head's inputs from the packed blocks, if its weight is still to be
        packed.
        """
        wanted = any(table.needs_data and not self.store.is_done(table.path) for table in self.plan.tables)
        return head_stats(self.entrance, self.finished, bool(self.plan.propagation)) if wanted else None

    def _finish_table(self, table: TablePlan, head: LinearStats | None) -> None:
        """Pack the embedding or the head; `head` has the statistics of the head's inputs."""

        def stats(name: str) -> LinearStats:
            assert head is not None, name
            return head

        self.maker.finish(table, stats if table.needs_data else None)


def set_vectors(model: nn.Module, vectors: Mapping[str, Tensor]) -> None:
    """Give some parameters (by name) new values, in their present dtype."""
    with torch.no_grad():
        for name, value in vectors.items():
            model.get_parameter(name).copy_(value)
