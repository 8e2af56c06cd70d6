"""From packed tensors to the pointers that the native library takes.

The library reads the packed tensors in place. Tensors that it cannot read directly are converted once, in
addition: codes of an alphabet whose radix words hold several symbols become fields of whole bits, the tail's
positions become lists by row, zero points that are stored as codes become bytes. `added_bytes` counts all
converted tensors. Packed tensors are never changed, and live as long as the pointers to them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bivlm.formats import format_named, levels
from bivlm.formats.base import PackedTensor
from bivlm.formats.encoding import bits, streams
from bivlm.formats.encoding.checks import require
from bivlm.native.build import Build, NativeWeight
from bivlm.native.planes import planes
from bivlm.native.structs import KIND_LEVELS, KIND_PLANE, KIND_UNIFORM, ZEROS

NARROW_COLUMNS = 1 << 14  # a column and a tail code fit 16 bits
_BLOCK = 1 << 20  # symbols that are converted at a time


def prepare(packed: PackedTensor) -> NativeWeight:
    """A weight in `levels`, `uniform` or `planes`. ValueError for what the format's
    `check_packed` refuses.
    """
    check_on_cpu(packed)
    format_named(packed.format).check_packed(packed)
    return {"levels": _levels, "uniform": _uniform, "planes": planes}[packed.format](packed)


def prepare_factors(packed: PackedTensor) -> tuple[NativeWeight, NativeWeight]:
    """The two factors of a weight in `factors`: diag(row_scale · 2^exponent) A, then diag(middle_scale) B.
    The caller applies the column scales. ValueError for what the format's `check_packed` refuses.
    """
    check_on_cpu(packed)
    format_named(packed.format).check_packed(packed)
    (rows, columns), rank, tensors = packed.shape, int(packed.settings["rank"]), packed.tensors
    scale = 2.0 ** int(packed.settings["exponent"])
    left = Build(KIND_PLANE, 1, (rows, rank), rank, tensors["left_signs"], scale)
    left.struct.scales = left.numbers("scale", tensors["row_scale"])
    right = Build(KIND_PLANE, 1, (rank, columns), columns, tensors["right_signs"])
    right.struct.scales = right.numbers("scale", tensors["middle_scale"])
    return left.done(packed), right.done(packed)


def check_on_cpu(packed: PackedTensor) -> None:
    """ValueError for a weight with a tensor that is not in the CPU's memory."""
    for tensor in packed.tensors.values():
        require(
            not isinstance(tensor, Tensor) or tensor.is_cpu,
            f"a packed tensor is on {getattr(tensor, 'device', '')}, and the input on the CPU; move the model"
            " there",
        )


def _levels(packed: PackedTensor) -> NativeWeight:
    settings: dict[str, Any] = dict(packed.settings)
    tensors, alphabet, width = packed.tensors, settings["alphabet"], (settings["alphabet"] - 1).bit_length()
    codes = _fields(tensors["codes"], alphabet, packed.shape[1])
    build = Build(KIND_LEVELS, width, packed.shape, settings["group_size"], codes, float(tensors["scale"]))
    table = tensors["levels"]
    build.struct.table_rows, build.struct.alphabet, build.struct.symmetric = (
        len(table),
        alphabet,
        settings["symmetric"],
    )
    length = alphabet // 2 if settings["symmetric"] else alphabet
    build.point("levels", table, torch.float16, len(table) * build.struct.groups * length)
    if settings["tail"]:
        start, entries = _tail(codes, width, packed)
        build.point("tail_start", start, torch.int64, packed.shape[0] + 1)
        build.point("tail_entries", entries, entries.dtype, settings["tail"])
        build.struct.tail_wide = entries.dtype == torch.uint32
        if "tail_values" in tensors:
            build.point("tail_values", tensors["tail_values"], torch.float16, settings["tail"])
        else:
            build.point("tail_levels", tensors["tail_levels"].float(), torch.float32, 4)
            build.point("tail_scale", tensors["tail_scale"], torch.float16, packed.shape[0])
    return build.done(packed)


def _uniform(packed: PackedTensor) -> NativeWeight:
    settings: dict[str, Any] = dict(packed.settings)
    tensors, alphabet, (rows, columns) = packed.tensors, settings["alphabet"], packed.shape
    codes, width = _fields(tensors["codes"], alphabet, columns), (alphabet - 1).bit_length()
    scale = 2.0 ** settings["exponent"]
    build = Build(KIND_UNIFORM, width, packed.shape, settings["group_size"], codes, scale)
    build.struct.alphabet, build.struct.zero_kind = alphabet, ZEROS[settings["zero_point"]]
    build.struct.scales = build.numbers("scale", tensors["scales"], tensors.get("scale_unit"))
    groups = build.struct.groups
    if settings["zero_point"] == "code":
        points = bits.unpack_symbols(tensors["zero_points"], alphabet, groups)
        build.point("zeros", points, torch.uint8, rows * groups)
    elif settings["zero_point"] == "free":
        build.point("zeros", tensors["zero_points"], torch.float16, rows * groups)
    if settings["column_scale"]:
        build.point("column_scale", tensors["column_scale"], torch.float16, columns)
    return build.done(packed)


def _fields(codes: Tensor, alphabet: int, columns: int) -> Tensor:
    """Radix words as fields of whole bits: unchanged if a word holds one symbol, else converted, some rows at
    a time.
    """
    if streams.RADIX[alphabet][0] == 1:
        return codes
    width = (alphabet - 1).bit_length()
    fields = torch.empty(len(codes), streams.stream_bytes(columns, width), dtype=torch.uint8, device="cpu")
    step = max(1, _BLOCK // columns)
    for start in range(0, len(codes), step):
        fields[start : start + step] = bits.pack_fields(
            bits.unpack_symbols(codes[start : start + step], alphabet, columns), width
        )
    return fields


def _tail(codes: Tensor, width: int, packed: PackedTensor) -> tuple[Tensor, Tensor]:
    """Where each row's entries begin, (out + 1,) int64, and the entries, column << 2 | code, uint16 or
    uint32; from the codes as fields of `width` bits, which are 0 under entries with values.
    """
    (rows, columns), tensors = packed.shape, packed.tensors
    positions = levels.tail_positions(packed)
    row, column = positions // columns, positions % columns
    code = streams.symbols_at(codes, 1 << width, row, column)
    if "tail_bits" in tensors:
        code = code << 1 | bits.unpack_fields(tensors["tail_bits"][None], 1, len(positions))[0]
    start = torch.zeros(rows + 1, dtype=torch.int64, device="cpu")
    torch.cumsum(torch.bincount(row, minlength=rows), 0, out=start[1:])
    return start, (column << 2 | code).to(torch.uint16 if columns <= NARROW_COLUMNS else torch.uint32)
