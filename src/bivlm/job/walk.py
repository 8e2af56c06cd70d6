"""The walk, block by block, in the order in which the model runs them; each block is quantized on the
outputs of the packed blocks before it.

    the model's own forward pass, paused at a block (calibration/streams.py)
      ─► weights from the source ─► observe ─► finish the unit ─► run it packed ─► the next block …
    the tables last, if the recipe packs them: the head with statistics of its inputs

If the recipe asks for error propagation or tuning, the full-precision model runs next to the packed one,
block by block. Its inputs give the error before each linear (calibration/propagation.py), and its outputs are
the targets of the packed blocks (calibration/tuning.py). If no linear needs data, nothing is run at all.
Blocks that an earlier run finished are read back from the store and not quantized again. They compute the
same numbers, so a walk that was interrupted ends with the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from bivlm.calibration.experts import widened
from bivlm.calibration.gradients import Gradients
from bivlm.calibration.head import head_stats
from bivlm.calibration.inputs import CalibrationInput
from bivlm.calibration.observing import FORWARD, observe
from bivlm.calibration.paused import BlockCall, hidden_of
from bivlm.calibration.placed import CPU, bring, placed
from bivlm.calibration.stats import StatsCollector
from bivlm.calibration.streams import Streams, unreached
from bivlm.calibration.tuning import Tuned, tune_block
from bivlm.checkpoint.source import SourceModel
from bivlm.crew import ALONE, Crew
from bivlm.errors import InputError
from bivlm.events import SILENT, Events
from bivlm.job.plan import BlockPlan, Plan, TablePlan
from bivlm.job.sharing import owners_of
from bivlm.job.unit import Packed, UnitMaker, UnitStore
from bivlm.job.weighing import block_collector
from bivlm.machine import return_free_memory
from bivlm.packed.linear import replace_linear
from bivlm.packed.module import expand_weights
from bivlm.profile import part
from bivlm.types import LinearStats


class Walk:
    """Quantizes every unit of a plan into a store.

    `samples` are used only if a quantizer needs data or the full-precision model runs as well; `gradients`
    are theirs, if a quantizer needs them. The ranks of a `crew` walk together: every sample runs on one of
    them, every weight is quantized on one. Blocks run on `device`, and what has data is quantized there.
    """

    def __init__(
        self,
        source: SourceModel,
        plan: Plan,
        store: UnitStore,
        samples: Sequence[CalibrationInput] = (),
        events: Events = SILENT,
        gradients: Gradients | None = None,
        crew: Crew = ALONE,
        device: torch.device = CPU,
    ) -> None:
        self.source, self.plan, self.store, self.samples = source, plan, store, samples
        self.gradients, self.crew, self.device = gradients, crew, device
        self.maker = UnitMaker(source, plan, store, events, crew)
        self.blocks = {block.path: block for block in plan.blocks}

    def run(self) -> None:
        """All units. Raises InputError if samples are needed and there are none, or none reaches a block that
        needs them.
        """
        if self.plan.needs_data and not self.samples:
            raise InputError(
                "the recipe's quantizer needs calibration samples and there are none; give --data, or choose"
                " a preset that needs no data"
            )
        left, head = dict(self.blocks), None
        if self.plan.needs_data:
            head = self._run_samples(left)
        for block in left.values():
            if self.plan.runs(block) and not self.store.is_done(block.path):
                raise unreached(block.path)
            self.maker.finish(block, owners=owners_of(block.quantized, self.crew))
        for table in self.plan.tables:
            self._finish_table(table, head)

    def _run_samples(self, left: dict[str, BlockPlan]) -> LinearStats | None:
        """Run the samples through the blocks until none that is `left` uses them; blocks that have run are
        finished, and leave it. Returns statistics of the language head's inputs if they are needed.
        """
        heads = [table.head or table.path for table in self.plan.tables if table.needs_data]
        model, stops, beside = self.source.model, [*self.blocks, *heads], self.plan.runs_beside
        keep = None if heads else [1] * len(self.samples)  # what follows the last block has no use
        with (
            self.source.surroundings(list(self.blocks)),
            Streams(model, self.samples, stops, keep=keep, crew=self.crew) as packed,
            Streams(model, self.samples, stops, keep=keep, crew=self.crew)
            if beside
            else nullcontext() as exact,
        ):
            for streams in filter(None, (packed, exact)):
                streams.start()
            while self.plan.head_needs_data or any(self.plan.runs(block) for block in left.values()):
                path = packed.next_block()
                if path is None:
                    return None
                if path in left:
                    self._run_block(left.pop(path), packed, exact)
                elif path in self.blocks:
                    self._run_again(path, packed, exact)
                else:
                    return self._observe_head(path, packed, exact)
        return None

    def _run_block(self, block: BlockPlan, packed: Streams, exact: Streams | None) -> None:
        """Observe one block, finish it, and run it: `packed` on the packed weights, `exact` on its own."""
        calls, beside = packed.calls(block.path), None if exact is None else exact.calls(block.path)
        whole: dict[int, Any] = {}
        with self.source.present(block.path) as module, placed(module, self.device):
            numbers = packed.waiting(block.path)
            collector = self._observe(block, module, numbers, calls, beside)
            key_of = None if collector is None else collector.key_of
            owners = owners_of(block.quantized, self.crew, key_of)
            if collector is not None:
                collector.bring(owners)
            if beside is not None:
                whole = _run(module, beside)
            self.source.drop_embedding_rows()
            if not self.plan.tuning:  # each weight is read from the file again when its turn comes
                self.source.release([f"{linear.name}.weight" for linear in block.quantized])
            tune = self._tuner(block, module, numbers, calls, whole) if self.plan.tuning else None
            stats, forget = (None, None) if collector is None else (collector.stats, collector.forget)
            weights, vectors = self.maker.finish(block, stats, tune, owners, forget)
            outputs = _run(self._packed(block.path, weights, vectors), calls)
        packed.go_on(outputs)
        if exact is not None:
            exact.go_on(whole)

    def _run_again(self, path: str, packed: Streams, exact: Streams | None) -> None:
        """Run a block that is finished: some models run a projector for one image after the other. Only the
        first run is observed.
        """
        weights, vectors, _ = self.store.read_unit(path)
        with self.source.present(path) as module, placed(module, self.device):
            whole = {} if exact is None else _run(module, exact.calls(path))
            outputs = _run(self._packed(path, weights, vectors), packed.calls(path))
        packed.go_on(outputs)
        if exact is not None:
            exact.go_on(whole)

    def _packed(self, path: str, weights: Packed, vectors: Mapping[str, Tensor]) -> nn.Module:
        """The block at `path`, now with its packed linears."""
        for name, weight in weights.items():
            return_free_memory()
            # decoded and multiplied by torch: the kernels' sums depend on the machine's instruction set, and
            # the bytes of the blocks that follow must not
            with part("decoding"):
                linear = replace_linear(self.source.model, name, weight)
                bring(linear, self.device)
                expand_weights(linear)
        set_vectors(self.source.model, vectors)
        return self.source.model.get_submodule(path)

    def _tuner(
        self,
        block: BlockPlan,
        module: nn.Module,
        numbers: Sequence[int],
        calls: Mapping[int, BlockCall],
        whole: Mapping[int, Any],
    ) -> Callable[[Packed], Tuned]:
        """Tuning of a block, here with its full-precision weights, to the outputs of the full-precision
        model; on the first rank, for which the samples with these `numbers` are brought together.
        """
        made: list[BlockCall] = []
        targets: list[Tensor] = []
        if not self.store.is_done(block.path):
            self.crew.agree()
            for number in numbers:
                own = (calls[number], hidden_of(whole[number])) if self.crew.owns(number) else None
                moved = self.crew.move(own, self.crew.owner(number), 0)
                if moved is not None:
                    made.append(moved[0])
                    targets.append(moved[1])
        weights = self._output_weights(block)
        chosen = None if weights is None else [weights[number] for number in numbers]

        def tune(packed: Packed) -> Tuned:
            return tune_block(module, block.path, packed, made, targets, self.plan.tuning, chosen)

        return tune

    def _output_weights(self, block: BlockPlan) -> list[Tensor] | None:
        """How much the error of every token of a block's output counts, (t,) for each sample: by its
        gradient, if the block's quantizers weigh tokens so; None if all count alike.
        """
        power = max(
            (linear.quantizer.gradient_power for linear in block.quantized if linear.quantizer), default=0.0
        )
        if self.gradients is None or not power:
            return None
        return self.gradients.weights(block.path, power)

    @torch.inference_mode()
    def _observe(
        self,
        block: BlockPlan,
        module: nn.Module,
        numbers: Sequence[int],
        calls: Mapping[int, BlockCall],
        exact: Mapping[int, BlockCall] | None,
    ) -> StatsCollector | None:
        """Statistics of the inputs of the block's linears on the samples with these `numbers`, with the
        residual to the full-precision model; None if nothing uses them.
        """
        wanted = block.needs_data or bool(block.quantized and self.plan.propagation)
        if not wanted or self.store.is_done(block.path):
            return None
        stack = self.source.family.stacks[block.stack]
        collector = block_collector(self.source, block, self.samples, self.gradients, crew=self.crew)
        with widened(module, self.plan.calibration_top_k):
            observe(
                [collector],
                numbers,
                lambda number: self.samples[number].visual if stack.part == "language" else None,
                lambda number: calls[number].try_run(module),
                None if exact is None else lambda number: exact[number].try_run(module),
                self.crew,
            )
        return collector

    def _observe_head(self, path: str, packed: Streams, exact: Streams | None) -> LinearStats | None:
        """Statistics of the inputs of the language head at `path` from the packed blocks, if its weight is
        still to be packed.
        """
        wanted = [
            table for table in self.plan.tables if table.needs_data and not self.store.is_done(table.path)
        ]
        if not wanted:
            return None
        beside = None if exact is None else exact.calls(path)
        numbers, width = packed.waiting(path), wanted[0].shape[1]
        return head_stats(width, self.samples, packed.calls(path), beside, numbers, self.crew)

    def _finish_table(self, table: TablePlan, head: LinearStats | None) -> None:
        """Pack the embedding or the head; `head` has the statistics of the head's inputs."""

        def stats(name: str) -> LinearStats:
            assert head is not None, name
            return head

        self.maker.finish(table, stats if table.needs_data else None)


@torch.inference_mode()
def _run(module: nn.Module, calls: Mapping[int, BlockCall]) -> dict[int, Any]:
    """What a block returns for every sample."""
    with part(FORWARD):
        return {number: call.run(module) for number, call in calls.items()}


def set_vectors(model: nn.Module, vectors: Mapping[str, Tensor]) -> None:
    """Give some parameters (by name) new values, in their present dtype."""
    with torch.no_grad():
        for name, value in vectors.items():
            model.get_parameter(name).copy_(value)
