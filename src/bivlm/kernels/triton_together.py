# pyright: reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
# (Triton's functions are not what pyright takes them for)
"""The products of several weights in one launch of Triton: those of a layer's chosen experts for few tokens.

A program has a tile of rows of one weight, and one row of x. Where the weight lies is read from a table of
addresses, so that nothing is gathered; what is then done is what the kernels of `trellis` and `levels` do for
one token. Weights of one launch have the same format and shape, and may have unlike bits (`trellis`).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from bivlm.formats.trellis import STRIP
from bivlm.kernels import triton_levels, triton_trellis
from bivlm.kernels.base import check_width
from bivlm.kernels.triton_levels import LevelsProduct
from bivlm.kernels.triton_shared import OPTIONS, TritonProduct
from bivlm.kernels.triton_trellis import COLUMNS, TrellisProduct
from bivlm.kernels.triton_words import ROWS_OF_ONE, WORDS_OF_ONE

MOST_ROWS = 4  # of one weight: more share the decoding in the weight's own product


def key_of(product: TritonProduct, rows: int) -> Hashable:
    """What products must have in common for one launch; None for one that goes alone, with its `rows` of
    x.
    """
    if rows > MOST_ROWS:
        return None
    if isinstance(product, TrellisProduct):
        settings = product.packed.settings
        turned = product.rotation and tuple(settings.get(name) for name in ("seed", "blocks", "first_column"))
        return "trellis", product.packed.shape, product.window, turned
    if isinstance(product, LevelsProduct) and product.tail is None:
        kernel = product.kernel_of_codes
        return "levels", product.packed.shape, kernel.words, tuple(kernel.constants.items())
    return None


def multiply(
    products: Sequence[Any], biases: Sequence[Tensor | None], rows: Sequence[int], x: Tensor, y: Tensor
) -> None:
    """x (t, in) into y (t, out), both contiguous: `rows` of them for every product, in their order. The
    products have the same `key_of`; all have a bias, or none.
    """
    first = products[0]
    check_width(x, first.columns)
    biases = [bias if bias is None else bias.to(x.dtype).contiguous() for bias in biases]
    launch = _trellis if isinstance(first, TrellisProduct) else _levels
    own = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(rows))
    with torch.cuda.device_of(x):
        launch(products, biases, own.to(torch.int32).to(x.device), x, y)


def _table(device: torch.device, rows: Sequence[Sequence[Any]]) -> Tensor:
    """Addresses of tensors, and numbers, (products, fields) int64; 0 for None."""
    numbers = [
        [0 if one is None else one.data_ptr() if isinstance(one, Tensor) else one for one in row]
        for row in rows
    ]
    return torch.tensor(numbers, dtype=torch.int64).to(device)


def _trellis(
    products: Sequence[TrellisProduct], biases: Sequence[Tensor | None], own: Tensor, x: Tensor, y: Tensor
) -> None:
    first = products[0]
    if first.rotation:
        x = first.rotation.rotate(x, torch.float32)
    table = _table(
        x.device,
        [
            (
                p.halves,
                p.bits,
                p.before,
                p.table,
                p.factor,
                bias,
                p.strip_bytes // 2,
                p.last_height,
                len(p.halves),
            )
            for p, bias in zip(products, biases, strict=True)
        ],
    )
    _trellis_rows[(triton.cdiv(first.rows, STRIP), 1, len(x))](
        x,
        table,
        own,
        y,
        len(x),
        first.rows,
        first.columns,
        FIELDS=table.shape[1],
        WINDOW=first.window,
        NEIGHBOURS=min(p.neighbours for p in products),
        BK=COLUMNS[1],
        BIAS=biases[0] is not None,
        **OPTIONS,
    )


def _levels(
    products: Sequence[LevelsProduct], biases: Sequence[Tensor | None], own: Tensor, x: Tensor, y: Tensor
) -> None:
    kernels = [product.kernel_of_codes for product in products]
    (rows, columns), words = kernels[0].shape, kernels[0].words
    table = _table(
        x.device,
        [
            (k.codes, p.levels, k.factor, bias, k.stride, p.group_size, p.groups)
            for p, k, bias in zip(products, kernels, biases, strict=True)
        ],
    )
    _levels_rows[(triton.cdiv(rows, ROWS_OF_ONE), 1, len(x))](
        x,
        table,
        own,
        y,
        rows,
        columns,
        -(-columns // words.per),
        FIELDS=table.shape[1],
        BN=ROWS_OF_ONE,
        BW=WORDS_OF_ONE,
        BIAS=biases[0] is not None,
        **words.constants(),
        **kernels[0].constants,
        **OPTIONS,
    )


@triton.jit(do_not_specialize=["tokens"])
def _trellis_rows(
    x, table, own, out, tokens, rows, columns,
    FIELDS: tl.constexpr, WINDOW: tl.constexpr, NEIGHBOURS: tl.constexpr, BK: tl.constexpr,
    BIAS: tl.constexpr,
):  # fmt: skip
    """A strip of the weight that one row of x, which is rotated, belongs to."""
    fields = table + tl.load(own + tl.program_id(2)) * FIELDS
    halves = tl.load(fields).to(tl.pointer_type(tl.int16))
    bits = tl.load(fields + 1).to(tl.pointer_type(tl.uint8))
    before = tl.load(fields + 2).to(tl.pointer_type(tl.int32))
    values = tl.load(fields + 3).to(tl.pointer_type(tl.int8))
    factor = tl.load(fields + 4).to(tl.pointer_type(tl.float32))
    bias = tl.load(fields + 5).to(tl.pointer_type(out.dtype.element_ty))
    strip_halves, last_height = tl.load(fields + 6), tl.load(fields + 7).to(tl.int32)
    triton_trellis._product(
        x, halves, bits, before, values, out, factor, bias, tokens, rows, columns, strip_halves,
        last_height, tl.load(fields + 8), WINDOW, NEIGHBOURS, BK, 1, True, BIAS, "ieee",
    )  # fmt: skip


@triton.jit
def _levels_rows(
    x, table, own, out, rows, columns, words, FIELDS: tl.constexpr,
    PER: tl.constexpr, LANES: tl.constexpr, WIDTH: tl.constexpr, BITS: tl.constexpr, ALPHABET: tl.constexpr,
    LOADS: tl.constexpr, SIZE: tl.constexpr, SYMMETRIC: tl.constexpr, BY_ROW: tl.constexpr,
    ONE: tl.constexpr, WHOLE: tl.constexpr, BN: tl.constexpr, BW: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """BN rows of the weight that one row of x belongs to."""
    n = tl.program_id(2).to(tl.int64)
    fields = table + tl.load(own + n) * FIELDS
    codes = tl.load(fields)
    codes = codes.to(tl.pointer_type(tl.int32)) if WIDTH == 32 else codes.to(tl.pointer_type(tl.uint8))
    levels = tl.load(fields + 1).to(tl.pointer_type(tl.float16))
    factor = tl.load(fields + 2).to(tl.pointer_type(tl.float32))
    bias = tl.load(fields + 3).to(tl.pointer_type(out.dtype.element_ty))
    triton_levels._one(
        x + n * columns, codes, out + n * rows, factor, bias, 1, rows, columns, words,
        tl.load(fields + 4), levels, tl.load(fields + 5), tl.load(fields + 6),
        PER, LANES, WIDTH, BITS, ALPHABET, LOADS, SIZE, SYMMETRIC, BY_ROW, ONE, WHOLE, BN, BW, 1, True, BIAS,
        "ieee",
    )  # fmt: skip
