"""From the headers of a checkpoint to bytes and weights by part: every tensor is counted once."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable

from bivlm.recount.checkpoints import Checkpoint
from bivlm.recount.claims import claims_of
from bivlm.recount.ggml_types import FULL
from bivlm.recount.kinds import KINDS
from bivlm.recount.kinds.base import Taken
from bivlm.recount.parts import PARTS, part_of
from bivlm.recount.result import PartRow, Recount
from bivlm.recount.settings import Settings
from bivlm.recount.stored import Counted, StoredTensor

# integers that are no weights: places of tokens and patches, counters
BUFFERS = re.compile(
    r"position_ids|relative_position_index|num_batches_tracked|token_type_ids|(?:.*_)?mask|inv_freq"
)
INTEGERS = ("I", "U", "BOOL")
SEPARATE = (".bias",)  # of a packed linear, in full precision: counted alone


def count(checkpoint: Checkpoint) -> Recount:
    """Bytes and bits of one model."""
    counted, remarks = counted_tensors(checkpoint)
    rows = tuple(row for part in PARTS if (row := _row(part, counted, part)) is not None)
    tensors = checkpoint.tensors
    total = _row("all tensors", counted) or PartRow("all tensors", 0, 0, 0, 0, 0, {})
    remarks = [
        *checkpoint.remarks,
        *(said for header in checkpoint.headers for said in header.remarks),
        *remarks,
    ]
    if _shares_the_embedding(checkpoint, rows):
        remarks.append("the head is the embedding's weight, stored once")
    others = Counter(_place(one.name) for one in counted if one.part == "other")
    if others:
        told = ", ".join(f"{name} ({number})" for name, number in others.most_common(5))
        remarks.append(f"other, by name and number of tensors: {told}")
    return Recount(
        name=checkpoint.name,
        files=len(checkpoint.files),
        file_bytes=sum(checkpoint.files.values()),
        tensors=len(tensors),
        rows=rows,
        total=total,
        claims=claims_of(checkpoint.name, next(iter(checkpoint.files)), checkpoint.settings),
        remarks=tuple(remarks),
    )


def counted_tensors(checkpoint: Checkpoint) -> tuple[list[Counted], list[str]]:
    """Every tensor of a checkpoint, the tensors of a packed linear together; and what did not fit."""
    left, settings = checkpoint.tensors, checkpoint.settings
    counted: list[Counted] = []
    taken: list[Taken] = []
    for kind in KINDS.values():
        for found in kind(dict(left), settings):
            if all(tensor.name in left for tensor in found.tensors):
                taken.append(found)
                for tensor in found.tensors:
                    del left[tensor.name]
    beside = _with_its_linear(taken, left)
    for one in taken:
        weights = None if one.unpacked is None else one.unpacked.weights
        nbytes = sum(tensor.nbytes for tensor in (*one.tensors, *beside[one.name]))
        counted.append(Counted(one.name, _part(one, checkpoint), weights, nbytes, one.kind, packed=True))
    counted += _as_they_stand(left.values(), gguf=checkpoint.settings.gguf)
    told = [*_misfits(taken), *_other_bits(taken, settings), *_unknown(counted, settings)]
    more = sorted({tensor.name.rpartition(".")[2] for tensors in beside.values() for tensor in tensors})
    if more:
        told.append(f"counted with their linears, though no part of the layout: {', '.join(more[:8])}")
    return counted, told


def _with_its_linear(taken: Iterable[Taken], left: dict[str, StoredTensor]) -> dict[str, list[StoredTensor]]:
    """Tensors that a method has added to packed linears (corrections of low rank, outliers), by module: taken
    out of `left`. They are no weights of the model, but they are stored for it.
    """
    found: dict[str, list[StoredTensor]] = defaultdict(list)
    names = {one.name for one in taken}
    for key in list(left):
        module = key.rpartition(".")[0]
        if module in names and not key.endswith(SEPARATE):
            found[module].append(left.pop(key))
    return found


def _part(taken: Taken, checkpoint: Checkpoint) -> str:
    return part_of(taken.name, gguf=checkpoint.settings.gguf)


def _as_they_stand(tensors: Iterable[StoredTensor], *, gguf: bool) -> list[Counted]:
    """What no kind has taken: a weight for each element of a float. A module with integers is in a layout
    that is not known here.
    """
    modules: dict[str, list[StoredTensor]] = defaultdict(list)
    counted = []
    for tensor in tensors:
        if tensor.name.endswith(SEPARATE) or (gguf and tensor.dtype in FULL):
            counted.append(_plain(tensor, gguf=gguf))
        else:
            modules[tensor.name.rpartition(".")[0]].append(tensor)
    for name, group in modules.items():
        codes = [tensor for tensor in group if _is_code(tensor)]
        if name and codes:
            nbytes, kinds = sum(t.nbytes for t in group), "/".join(sorted({t.dtype for t in codes}))
            counted.append(Counted(name, part_of(name), None, nbytes, f"unknown ({kinds})", packed=True))
        else:
            counted += [_plain(tensor, gguf=gguf) for tensor in group]
    return counted


def _is_code(tensor: StoredTensor) -> bool:
    last = tensor.name.rpartition(".")[2]
    return tensor.dtype.startswith(INTEGERS) and BUFFERS.fullmatch(last) is None


def _plain(tensor: StoredTensor, *, gguf: bool) -> Counted:
    """A tensor alone. An integer is no weight if it is a buffer, and unknown otherwise."""
    part = part_of(tensor.name, gguf=gguf)
    if tensor.dtype.startswith(INTEGERS):
        weights = None if _is_code(tensor) else 0
        return Counted(tensor.name, part, weights, tensor.nbytes, tensor.dtype, packed=False)
    packed = 0 < 8 * tensor.nbytes < 16 * tensor.numel
    return Counted(tensor.name, part, tensor.numel, tensor.nbytes, tensor.dtype, packed)


def _row(name: str, counted: list[Counted], part: str | None = None) -> PartRow | None:
    """Some of what was counted as a row of the table; None if there is nothing."""
    chosen = [one for one in counted if part is None or one.part == part]
    if not chosen:
        return None
    packed = [one for one in chosen if one.packed]
    stored: dict[str, int] = defaultdict(int)
    for one in chosen:
        stored[one.stored_as] += one.nbytes
    return PartRow(
        name=name,
        weights=_sum(chosen),
        nbytes=sum(one.nbytes for one in chosen),
        packed=len(packed),
        packed_weights=_sum(packed),
        packed_bytes=sum(one.nbytes for one in packed),
        stored_as=dict(sorted(stored.items(), key=lambda item: -item[1])),
    )


def _sum(counted: list[Counted]) -> int | None:
    """The weights together; None if those of one are not known."""
    total = 0
    for one in counted:
        if one.weights is None:
            return None
        total += one.weights
    return total


def _shares_the_embedding(checkpoint: Checkpoint, rows: tuple[PartRow, ...]) -> bool:
    parts = {row.name for row in rows}
    return (
        "embedding" in parts
        and "head" not in parts
        and (checkpoint.settings.gguf or checkpoint.settings.tied)
    )


def _place(name: str) -> str:
    """The first steps of a name, up to a number."""
    steps = re.split(r"\.\d+(?=\.|$)", name)[0].split(".")
    return ".".join(steps[:2])


def _misfits(taken: list[Taken]) -> list[str]:
    reasons: dict[str, list[str]] = defaultdict(list)
    for one in taken:
        if one.unpacked is None:
            reasons[f"{one.kind}: {one.reason}"].append(one.name)
    return [
        f"{len(names)} linears with an unknown number of weights, {names[0]} first ({reason})"
        for reason, names in reasons.items()
    ]


def _other_bits(taken: list[Taken], settings: Settings) -> list[str]:
    """Where the shapes have other bits than the config."""
    if settings.bits is None or settings.method == "bivlm":
        return []
    found = Counter(round(one.unpacked.bits, 2) for one in taken if one.unpacked is not None)
    others = {bits: number for bits, number in found.items() if abs(bits - settings.bits) > 0.01}
    told = ", ".join(f"{number} with {bits:g}" for bits, number in sorted(others.items()))
    return (
        [f"the config says {settings.bits:g} bits; by their shapes, of {found.total()} linears: {told}"]
        if told
        else []
    )


def _unknown(counted: list[Counted], settings: Settings) -> list[str]:
    unknown = [one for one in counted if one.weights is None and one.stored_as.startswith("unknown")]
    if not unknown:
        return []
    method = f" of quant_method {settings.method[:40]}" if settings.method else ""
    return [f"{len(unknown)} linears are in a layout{method} that is not known here, {unknown[0].name} first"]
