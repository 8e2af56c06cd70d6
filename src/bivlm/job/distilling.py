"""The last step of a job that tunes the whole model: the packed units are put together, tuned on the
predictions of the full-precision model (calibration/distillation.py), and written again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bivlm.calibration.distillation import Distilled, tune_model
from bivlm.calibration.inputs import CalibrationInput
from bivlm.calibration.scaled import ScaledLinear, rescaled
from bivlm.calibration.teacher import ask_teacher
from bivlm.checkpoint.source import SourceModel
from bivlm.events import SILENT, Events
from bivlm.families.linears import is_linear
from bivlm.formats import PackedTensor
from bivlm.job.measurements import Measurements
from bivlm.job.plan import Plan, TablePlan
from bivlm.job.unit import MadeUnit, UnitStore
from bivlm.job.weight import packed_errors, weight_of
from bivlm.packed.embedding import replace_embedding
from bivlm.packed.module import expand_weights


def distil(
    source: SourceModel,
    plan: Plan,
    store: UnitStore,
    samples: Sequence[CalibrationInput],
    folder: Path | None = None,
    measured: Measurements | None = None,
    events: Events = SILENT,
) -> Distilled:
    """Tune the packed model whose units are all in `store`, on samples that all have targets, and replace the
    units by the tuned ones. Unfinished tuning is kept in `folder`, the full-precision model's predictions
    among what is `measured`; both are taken up again.

    The embeddings, the packed weights decoded, and the vectors are in memory at the same time.
    """
    paths = [block.path for block in plan.blocks]
    kept = None if measured is None else measured.place("predictions", paths)
    teacher = ask_teacher(source, paths, samples, kept, events)
    student = SourceModel(
        source.folder,
        merge_adapter=bool(source.adapter.files),
        trust_remote_code=source.trust_remote_code,
    )
    dtype = computing_dtype(source.dtype)
    packed, vectors = put_together(student, plan, store, dtype)
    stored = {name: entry.dtype for name, entry in source.entries.items()}
    found = tune_model(
        student.model,
        samples,
        teacher,
        stored,
        passes=plan.distillation,
        dtype=dtype,
        folder=folder,
        events=events,
    )
    inside = {name for unit in plan.units for name in source.parameter_names(unit.path)}
    outside = {name: value for name, value in found.vectors.items() if name not in inside}
    store.replace_units(_tuned(source, plan, store, found, packed, vectors), outside)
    return found


def computing_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the products while tuning: bfloat16 for models that are stored in 16 bits, and wherever
    the processor multiplies it faster; float32 otherwise.
    """
    fast = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if dtype != torch.float32 or fast else torch.float32


def put_together(
    student: SourceModel, plan: Plan, store: UnitStore, dtype: torch.dtype
) -> tuple[dict[str, PackedTensor], dict[str, dict[str, Tensor]]]:
    """Give the model of `student` its packed weights from `store`, decoded, and all its other weights.

    Returns the packed weights by name, and the vectors that units have changed, by the unit's path.
    """
    packed: dict[str, PackedTensor] = {}
    vectors: dict[str, dict[str, Tensor]] = {}
    units = {unit.path: unit for unit in plan.units}
    for path in units:
        weights, changed, _ = store.read_unit(path)
        packed |= weights
        vectors[path] = dict(changed)
    left_out = {f"{name}.weight" for name in packed}
    student.materialize([name for name in student.entries if name not in left_out])
    for unit in units.values():
        if isinstance(unit, TablePlan) and unit.kind == "embedding":
            heads = [] if unit.head is None else [unit.head]
            replace_embedding(student.model, unit.name, packed[unit.name], *heads)
            continue
        for linear in unit.quantized:
            module = student.model.get_submodule(linear.name)
            assert is_linear(module), linear.name
            student.model.set_submodule(linear.name, ScaledLinear(packed[linear.name], module.bias, dtype))
    if not plan.shared:
        student.model.tie_weights()
    expand_weights(student.model)
    with torch.no_grad():
        for changed in vectors.values():
            for name, value in changed.items():
                student.model.get_parameter(name).copy_(value)
    return packed, vectors


def _tuned(
    source: SourceModel,
    plan: Plan,
    store: UnitStore,
    found: Distilled,
    packed: Mapping[str, PackedTensor],
    vectors: Mapping[str, Mapping[str, Tensor]],
) -> Iterator[MadeUnit]:
    """The units that tuning has changed."""
    for unit in plan.units:
        names = [linear.name for linear in unit.quantized if linear.name in found.shifts]
        own = {name for name in source.parameter_names(unit.path) if name in found.vectors}
        if not names and not own:
            continue
        weights, _, report = store.read_unit(unit.path)
        new = {name: rescaled(packed[name], found.shifts[name]) for name in names}
        rows = {name: _row(source, name, row, new) for name, row in report.items()}
        changed = {**vectors[unit.path], **{name: found.vectors[name] for name in own}}
        yield MadeUnit(unit.path, {**weights, **new}, rows, changed)


def _row(
    source: SourceModel, name: str, row: Mapping[str, Any], new: Mapping[str, PackedTensor]
) -> dict[str, Any]:
    """A weight's row of the report with the error of its new bytes. The layer error stays that before the
    whole model was tuned.
    """
    if name not in new:
        return dict(row)
    errors = packed_errors(weight_of(source, name), new[name], None)
    return {**row, "weight_error": errors["weight_error"]}
