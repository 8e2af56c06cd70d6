"""From the tensors of a packed weight in `planes` to the fields of a `PlanesWeight`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bivlm.formats.encoding import bits, streams
from bivlm.formats.encoding.arrays import own_float16
from bivlm.formats.encoding.checks import blaming, require
from bivlm.formats.encoding.numbers import Numbers
from bivlm.formats.encoding.plane_checks import columns_of_scales, is_plain
from bivlm.formats.encoding.positions import unpack_positions

KEPT_SETTINGS = ("parts", "salient_parts", "group_size", "exponent")  # that are fields of the same name


def read_numbers(
    tensors: Mapping[str, Tensor], shape: tuple[int, int], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """All fields, with everything that is one bit per weight absent: those planes take no memory, and the
    tail's codes are zeros.

    Raises ValueError for streams that no writer makes, also those of the planes.
    """
    kept = {name: settings[name] for name in KEPT_SETTINGS}
    if is_plain(settings, shape[1]):
        return _absent(shape, tensors["blocks"].device) | kept | {"scales": _block_scales(tensors["blocks"])}
    fields = _absent(shape, tensors["signs"].device) | kept
    fields |= {"scales": _numbers("scale", tensors), "means": _numbers("mean", tensors)}
    if settings["salient_columns"]:
        fields["salient"] = _salient(tensors["salient"], shape[1], settings["salient_columns"])
    for name, count in _plane_columns(fields["salient"], settings).items():
        with blaming(f"'{name}'"):
            streams.check_stream(tensors[name], 1, count)
    if settings["column_scales"]:
        used = columns_of_scales(fields["salient"], settings["parts"], settings["salient_parts"])
        fields["column_scales"] = torch.zeros(used.shape, dtype=torch.float16, device=used.device)
        fields["column_scales"][used] = tensors["column_scales"]
    if count := settings["tail"]:
        positions = unpack_positions(
            tensors["tail_low"], tensors["tail_high"], count, settings["tail_rice"], shape[0] * shape[1]
        )
        with blaming("'tail_bits'"):
            streams.check_stream(tensors["tail_bits"][None], 7, count)
        fields |= {
            "tail_positions": positions,
            "tail_codes": torch.zeros(count, dtype=torch.uint8, device=positions.device),
            "tail_scale": tensors["tail_scale"],
            "tail_zero": tensors["tail_zero"],
        }
    return fields


def read_planes(
    tensors: Mapping[str, Tensor], shape: tuple[int, int], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """All fields."""
    fields = read_numbers(tensors, shape, settings)
    if is_plain(settings, shape[1]):
        signs = tensors["blocks"][..., 2:].reshape(shape[0], -1)
        return fields | {"signs": _unpack_plane(signs, shape[1])}
    fields["signs"] = _unpack_plane(tensors["signs"], shape[1])
    if "second_signs" in tensors:
        fields["second_signs"] = _spread(tensors["second_signs"], fields["salient"], shape)
    if "partition" in tensors:
        parted = parted_columns(fields["salient"], settings["parts"], settings["salient_parts"])
        fields["partition"] = _spread(tensors["partition"], parted, shape)
    if count := settings["tail"]:
        fields["tail_codes"] = _take_tail_codes(
            fields["signs"], fields["tail_positions"], tensors["tail_bits"], count
        )
    return fields


def parted_columns(salient: Tensor, parts: int, salient_parts: int) -> Tensor:
    """(in,) bool: the columns that have two parts."""
    return torch.where(salient, salient_parts == 2, parts == 2)


def _plane_columns(salient: Tensor, settings: Mapping[str, Any]) -> dict[str, int]:
    """The planes that are stored, and how many columns each has."""
    parted = int(parted_columns(salient, settings["parts"], settings["salient_parts"]).sum())
    columns = {"signs": len(salient), "partition": parted, "second_signs": settings["salient_columns"]}
    return {name: count for name, count in columns.items() if count}


def _absent(shape: tuple[int, int], device: torch.device) -> dict[str, Any]:
    """The fields of a weight that has nothing but scales; absent fields take no memory."""
    none, flag = (
        torch.zeros(0, dtype=torch.float16, device=device),
        torch.zeros((), dtype=torch.bool, device=device),
    )
    return {
        "signs": flag.expand(shape),
        "partition": flag.expand(shape),
        "salient": flag.expand(shape[1]),
        "second_signs": flag.expand(shape),
        "means": None,
        "column_scales": none.view(0, 0),
        "tail_positions": none.long(),
        "tail_codes": none.to(torch.uint8),
        "tail_scale": none,
        "tail_zero": none,
    }


def _block_scales(blocks: Tensor) -> Numbers:
    with blaming("'blocks'"):
        nothing = torch.zeros(0, dtype=torch.float16, device=blocks.device)
        return Numbers(own_float16(blocks[..., :2]), nothing)


def _numbers(name: str, tensors: Mapping[str, Tensor]) -> Numbers | None:
    if f"{name}s" not in tensors:
        return None
    stored = tensors[f"{name}s"]
    nothing = torch.zeros(0, dtype=torch.float16, device=stored.device)
    with blaming(f"'{name}s'"):
        return Numbers(stored, tensors.get(f"{name}_unit", nothing))


def _salient(stream: Tensor, columns: int, count: int) -> Tensor:
    with blaming("'salient'"):
        salient = _unpack_plane(stream[None], columns)[0]
    require(
        int(salient.sum()) == count,
        f"'salient' names {int(salient.sum())} columns where 'salient_columns' is {count}",
    )
    return salient


def _unpack_plane(stream: Tensor, columns: int) -> Tensor:
    return bits.unpack_symbols(stream, 2, columns).view(torch.bool)


def _spread(stream: Tensor, columns: Tensor, shape: tuple[int, int]) -> Tensor:
    """A plane that the file stores for some columns only: (out, in) bool, False in the others."""
    plane = torch.zeros(shape, dtype=torch.bool, device=columns.device)
    plane[:, columns] = _unpack_plane(stream, int(columns.sum()))
    return plane


def _take_tail_codes(signs: Tensor, positions: Tensor, tail_bits: Tensor, count: int) -> Tensor:
    """The tail's codes, with their low bits taken out of `signs` (freshly unpacked, changed in place: False
    is left there).
    """
    upper, flat = bits.unpack_fields(tail_bits[None], 7, count)[0], signs.view(-1)
    codes = upper << 1 | flat[positions].to(torch.uint8)
    flat[positions] = False
    return codes
