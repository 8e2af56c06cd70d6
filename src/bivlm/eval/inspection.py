"""The inspection of a packed folder: true bits per weight by part and by layer from the bytes in its files,
the paper's own count, and sizes.

    config.json records the parts, and is as it was packed ─► counted at once, without torch
    it does not                                            ─► transformers reads it; its family is looked up
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bivlm.checkpoint.companions import AUTO_MAP
from bivlm.checkpoint.groups import layer_of_experts, members
from bivlm.checkpoint.guards import check_files, check_holds_model, folder_blamed
from bivlm.checkpoint.hub import resolve_model
from bivlm.checkpoint.modules import experts_are_split, read_modules
from bivlm.checkpoint.parts import Places, part_of, recorded_places
from bivlm.checkpoint.place import REPORT_NAME, packed_config
from bivlm.checkpoint.shards import read_entries, read_json
from bivlm.checkpoint.verify import verify_folder
from bivlm.checkpoint.weight_files import check_no_adapter, weight_files
from bivlm.errors import InputError
from bivlm.notebook import html_table
from bivlm.types import EMBEDDINGS


@dataclass(frozen=True)
class InspectRow:
    """Some packed linears together: number of weights, bytes before and after, true bits, and the paper's
    count if the method has one.
    """

    name: str
    linears: int
    weights: int
    bytes_before: int
    bytes_after: int
    bits_per_weight: float
    paper_bits: float | None


@dataclass(frozen=True)
class ExpertNumbers:
    """One packed expert: true bits, error of its linears' outputs (of their weights if no data was used), and
    how many calibration tokens reached it (None if no data was used).
    """

    number: int
    bits: float
    error: float
    tokens: int | None


@dataclass(frozen=True)
class ExpertsRow:
    """The packed experts of one layer: how many, their linears and weights, true bits of all together and of
    the linears with the fewest and the most; how many calibration tokens reached an expert, the fewest, the
    median and the most (None if no data was used); and `each` expert by itself.
    """

    name: str
    experts: int
    linears: int
    weights: int
    bits_per_weight: float
    fewest_bits: float
    most_bits: float
    fewest_tokens: int | None
    median_tokens: float | None
    most_tokens: int | None
    each: tuple[ExpertNumbers, ...] = ()


@dataclass(frozen=True)
class Inspection:
    """A packed folder: rows by part, by layer and by layer of experts, the total, the sizes of the whole
    folder, and the share of the source's bytes that stayed in full precision (None in folders that do not
    say). `blocks` says how many of the linears in `trellis` have a rotation in so many blocks: in so many
    parts their inputs can be split.
    """

    recipe: str
    parts: tuple[InspectRow, ...]
    layers: tuple[InspectRow, ...]
    total: InspectRow
    folder_bytes_before: int
    folder_bytes_after: int
    kept_share: float | None = None
    blocks: Mapping[int, int] = field(default_factory=dict)
    experts: tuple[ExpertsRow, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def _repr_html_(self) -> str:
        """For notebooks: the parts and the total."""

        def cells(row: InspectRow) -> tuple[str, ...]:
            paper = "" if row.paper_bits is None else f"{row.paper_bits:.3f}"
            sizes = (f"{row.bytes_before / 1e6:.2f}", f"{row.bytes_after / 1e6:.2f}")
            return row.name, str(row.linears), f"{row.weights:,}", *sizes, f"{row.bits_per_weight:.3f}", paper

        heads = (self.recipe, "linears", "weights", "MB before", "MB now", "true bits", "paper bits")
        return html_table(heads, map(cells, (*self.parts, self.total)))


@dataclass(frozen=True)
class _Linear:
    name: str
    part: str
    weights: int
    bytes_before: int
    bytes_after: int
    paper_bits: float | None
    error: float
    tokens: int | None = None


def inspect(model: str | Path, trust_remote_code: bool = False) -> Inspection:
    """Count the bytes of a packed model folder, after checking every checksum. InputError if it is not
    packed, or damaged, or needs code of its own and is not trusted with it.
    """
    folder = resolve_model(model, trust_remote_code)
    places = _recorded(folder) or _looked_up(folder, trust_remote_code)
    verify_folder(folder)
    with folder_blamed(folder):
        return _count(folder, places, read_json(folder / "config.json")["quantization_config"])


def _recorded(folder: Path) -> Places | None:
    """The places of the parts as config.json records them; None if it cannot be believed, or if the model
    needs code of its own, for which the user has to be asked.
    """
    check_holds_model(folder)
    check_files(folder)
    config = read_json(folder / "config.json")
    with folder_blamed(folder):
        places = None if AUTO_MAP in config else recorded_places(config)
    if places is None:
        return None
    check_no_adapter(folder)
    modules = read_modules(config["quantization_config"])
    linears = [name for name, spec in modules.items() if spec.kind == "linear"]
    return places if all(part_of(name, places) for name in linears) else None


def _looked_up(folder: Path, trust_remote_code: bool) -> Places:
    """The places of the parts of the model's family."""
    from bivlm.checkpoint.complete import check_model_folder  # needs transformers, which takes seconds

    family = check_model_folder(folder, trust_remote_code=trust_remote_code)
    if packed_config(folder) is None:
        raise InputError(
            f"{folder} is not quantized by bivlm; `bivlm quantize {folder} OUT` makes a packed folder to"
            " inspect"
        )
    return tuple((stack.part, stack.path) for stack in family.stacks)


def _count(folder: Path, places: Places, quantization: dict[str, Any]) -> Inspection:
    linears = _linears(folder, places, quantization)
    files = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    return Inspection(
        recipe=quantization["recipe"]["name"],
        parts=_rows(linears, lambda linear: linear.part),
        layers=_rows(linears, lambda linear: layer_of(linear.name)),
        total=_row("total", linears),
        folder_bytes_before=quantization["source"]["file_bytes"],
        folder_bytes_after=files,
        kept_share=quantization.get("kept", {}).get("share"),
        blocks=_blocks(quantization["modules"]),
        experts=_experts(linears) if experts_are_split(quantization) else (),
    )


def _linears(folder: Path, places: Places, quantization: dict[str, Any]) -> list[_Linear]:
    """Every packed linear with the bytes that its tensors take in the files (config.json is not used for
    this).
    """
    entries = read_entries(weight_files(folder))
    by_base: dict[str, int] = defaultdict(int)
    for key, entry in entries.items():
        by_base[key.rpartition(".")[0]] += 0 if key.endswith(".bias") else entry.nbytes
    report = read_json(folder / REPORT_NAME)
    linears = []
    for name, spec in read_modules(quantization).items():
        part = EMBEDDINGS if spec.kind != "linear" else part_of(name, places)
        if part is None:
            raise InputError(f"the module {name[:120]} is in no part of the model")
        rows, columns = spec.shape
        before = quantization["source"]["linears"][spec.entry]
        base = spec.key.removesuffix(".")
        if base not in by_base:
            raise InputError(
                f"{folder}: the tensors {base}.* of config.json are not in the files; quantize the model"
                " again"
            )
        row = report[name]
        error = row["weight_error"] if row["layer_error"] is None else row["layer_error"]
        numbers = (rows * columns, before, by_base[base], row["paper_bits"], error, row.get("tokens"))
        linears.append(_Linear(name, part, *numbers))
    return linears


def _blocks(modules: Mapping[str, Any]) -> dict[int, int]:
    """How many of the packed linears in `trellis` have a rotation in so many blocks."""
    found = Counter[int]()
    for name, spec in modules.items():
        if spec["format"] == "trellis" and spec["settings"]["rotated"]:
            found[spec["settings"].get("blocks", 1)] += len(members(name))
    return dict(sorted(found.items()))


def layer_of(name: str) -> str:
    """The block that a linear belongs to: its name up to the first number
    ("model.language_model.layers.3").
    """
    found = re.match(r".*?\.\d+(?=\.|$)", name)
    return found.group(0) if found else name.rpartition(".")[0] or name


def _rows(linears: list[_Linear], key: Callable[[_Linear], str]) -> tuple[InspectRow, ...]:
    groups: dict[str, list[_Linear]] = defaultdict(list)
    for linear in linears:
        groups[key(linear)].append(linear)
    return tuple(_row(name, group) for name, group in groups.items())


def _experts(linears: list[_Linear]) -> tuple[ExpertsRow, ...]:
    layers: dict[str, list[_Linear]] = defaultdict(list)
    for linear in linears:
        if (layer := layer_of_experts(linear.name)) is not None:
            layers[layer].append(linear)
    return tuple(_experts_row(name, own) for name, own in layers.items())


def _experts_row(name: str, linears: list[_Linear]) -> ExpertsRow:
    bits = [8 * linear.bytes_after / linear.weights for linear in linears]
    by_expert: dict[int, list[_Linear]] = defaultdict(list)
    for linear in linears:
        by_expert[int(linear.name.split(".")[-2])].append(linear)
    each = tuple(_expert(number, own) for number, own in sorted(by_expert.items()))
    tokens = [one.tokens for one in each if one.tokens is not None]
    return ExpertsRow(
        name,
        len(each),
        len(linears),
        sum(linear.weights for linear in linears),
        8 * sum(linear.bytes_after for linear in linears) / sum(linear.weights for linear in linears),
        min(bits),
        max(bits),
        *((min(tokens), median(tokens), max(tokens)) if tokens else (None, None, None)),
        each,
    )


def _expert(number: int, linears: list[_Linear]) -> ExpertNumbers:
    weights = sum(linear.weights for linear in linears)
    bits = 8 * sum(linear.bytes_after for linear in linears) / weights
    error = sum(linear.error * linear.weights for linear in linears) / weights
    return ExpertNumbers(number, bits, error, linears[0].tokens)


def _row(name: str, linears: list[_Linear]) -> InspectRow:
    weights = sum(linear.weights for linear in linears)
    after = sum(linear.bytes_after for linear in linears)
    counted = [linear for linear in linears if linear.paper_bits is not None]
    paper = (
        sum((linear.paper_bits or 0.0) * linear.weights for linear in counted) / weights
        if len(counted) == len(linears)
        else None
    )
    return InspectRow(
        name,
        len(linears),
        weights,
        sum(linear.bytes_before for linear in linears),
        after,
        8 * after / weights,
        paper,
    )
