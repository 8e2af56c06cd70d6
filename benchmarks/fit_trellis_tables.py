"""The tables of `trellis` for a window of 8 bits, and how far every table's values are from normal weights.

    python benchmarks/fit_trellis_tables.py [--starts 600] [--kept 10] [--steps 150] [--json tables.json]

What it prints is FITTED in formats/encoding/trellis_code.py and DISTORTION in quantizers/trellis.py; it takes
three minutes on one core with AVX-512. The native library searches; without it the program stops.

A table is fitted as a vector quantizer is: weights of a normal source choose their windows by the search,
each level moves to the mean of the weights that chose it, over and over (generalised Lloyd: Linde, Buzo,
Gray, IEEE Trans. Commun. 28, 84 (1980)). That ends in the nearest of very many minima. So it begins at many
places, stratified codes with odd multipliers drawn from a seed, and the best of them are shaken, less and
less, between the rounds (stochastic relaxation: Zeger, Vaisey, Gersho, IEEE Trans. Signal Process. 40, 310
(1992)). A source that took no part decides.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from bivlm.formats.encoding.trellis_checks import MOST_BITS, WINDOWS
from bivlm.formats.encoding.trellis_code import LARGEST, SPREAD, UNIT, standard_tables
from bivlm.formats.trellis import STRIP
from bivlm.native import library as native
from bivlm.quantizers.steps.viterbi import search_columns

WINDOW = 8
COLUMNS = 64  # of a source: their strips go on from one to the next, and paths look ahead
SHAKE = 0.25  # the noise of the first step, in root mean squared errors
HELD_OUT = {8: 512, 12: 64, 16: 6}  # strips, by window: of 4096 weights each
HELD_OUT_SEED = 1 << 20


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--starts", type=int, default=600, help="first tables that are looked at")
    options.add_argument("--kept", type=int, default=10, help="of these how many are fitted")
    options.add_argument("--steps", type=int, default=150, help="times that each of them is shaken")
    options.add_argument("--json", type=Path, help="write tables and distortions here too")
    asked = options.parse_args()
    if native.library() is None:
        raise SystemExit(f"the fit needs the native library: {native.status().why}")
    console = Console(soft_wrap=True, highlight=False)
    torch.set_num_threads(1)
    began, tables = time.perf_counter(), []
    for k in range(1, MOST_BITS + 1):
        tables.append(rounded(fit(k, asked.starts, asked.kept, asked.steps)))
        console.print(
            f"K = {k}: {distortion(tables[-1], WINDOW, k):.5f} after {time.perf_counter() - began:.0f} s",
            style="dim",
        )
    written = [table.numpy().tobytes().hex() for table in tables]
    found = {
        window: distortions(tables if window == WINDOW else list(standard_tables(window)), window)
        for window in WINDOWS
    }
    for k, digits in enumerate(written, 1):
        pieces = [f'    "{digits[at : at + 128]}"' for at in range(0, len(digits), 128)]
        console.print("\n".join(pieces) + f",  # K = {k}", markup=False)
    for window, numbers in found.items():
        console.print(f"    {window}: (1.0, {', '.join(map(str, numbers))}),")
    if asked.json:
        asked.json.write_text(
            json.dumps({"tables": written, "distortion": found}, indent=1) + "\n", encoding="utf-8"
        )


def fit(k: int, starts: int, kept: int, steps: int) -> Tensor:
    """The best levels (256,) float64 for K = k."""
    draw, noise = random.Random(k), torch.Generator().manual_seed(k)
    first = sorted(
        (first_levels(k, draw) for _ in range(starts)),
        key=lambda levels: distortion(levels, WINDOW, k, strips=4),
    )
    moved = [lloyd(levels, k, noise, rounds=12, strips=4, memory=0.5) for levels in first[: 4 * kept]]
    chosen = sorted(moved, key=lambda levels: distortion(levels, WINDOW, k, strips=16))[:kept]
    fitted = [
        lloyd(shaken(levels, k, noise, steps), k, noise, rounds=40, strips=64, memory=0.9)
        for levels in chosen
    ]
    return min(fitted, key=lambda levels: distortion(levels, WINDOW, k))


def first_levels(k: int, draw: random.Random) -> Tensor:
    """A stratified code (trellis_code.py) with drawn multipliers: (256,) float64."""
    turn, mix, shift, again = (draw.getrandbits(32) | 1 for _ in range(4))
    low, number = WINDOW - k, torch.arange(1 << WINDOW)
    past, mask, half = number & ((1 << low) - 1), (1 << low) - 1, (low + 1) // 2
    part = ((number >> low) + ((past * turn & 0xFFFFFFFF) >> (32 - k))) & ((1 << k) - 1)
    place = (past * mix + (part + 1) * shift) & mask
    place = (place ^ (place >> half)) * again & mask
    place = place ^ (place >> half)
    return UNIT * SPREAD[k] * torch.special.ndtri(((part << low) + place + 0.5).double() / (1 << WINDOW))


def shaken(levels: Tensor, k: int, noise: torch.Generator, steps: int) -> Tensor:
    """The levels after `steps` times noise and a few rounds of Lloyd; the noise falls to nothing."""
    for step in range(steps):
        size = SHAKE * (1 - step / steps) * UNIT * distortion(levels, WINDOW, k, strips=2) ** 0.5
        levels = levels + size * torch.randn(len(levels), generator=noise)
        levels = lloyd(levels, k, noise, rounds=8, strips=8, memory=0.7)
    return levels


def lloyd(
    levels: Tensor, k: int, noise: torch.Generator, *, rounds: int, strips: int, memory: float
) -> Tensor:
    """The levels moved to the means of what chose them; what came before counts `memory` times as much with
    every round.
    """
    count, total = torch.zeros_like(levels), torch.zeros_like(levels)
    for _ in range(rounds):
        source = normal(strips, noise)
        symbols = searched(rounded(levels), WINDOW, k, source)[1]
        chosen = windows_of(symbols, WINDOW, k).flatten()
        count = memory * count + torch.bincount(chosen, minlength=len(levels))
        total = memory * total + torch.bincount(
            chosen, weights=source.double().flatten(), minlength=len(levels)
        )
        levels = torch.where(count > 0, total / count.clamp(min=1e-9), levels)
    return levels


def distortions(tables: list[Tensor], window: int) -> list[float]:
    """The mean squared errors of K = 1 … 4."""
    return [round(distortion(table, window, k), 5) for k, table in enumerate(tables, 1)]


def distortion(levels: Tensor, window: int, k: int, strips: int = 0) -> float:
    """The mean squared error of normal weights of variance 1 that take no part in the fit."""
    source = normal(strips or HELD_OUT[window], torch.Generator().manual_seed(HELD_OUT_SEED))
    return (
        float((searched(rounded(levels), window, k, source)[0] - source).double().square().mean()) / UNIT**2
    )


def searched(table: Tensor, window: int, k: int, source: Tensor) -> tuple[Tensor, Tensor]:
    """Values and symbols of the columns of a source, without feedback."""
    state = torch.zeros(source.shape[1] // STRIP, dtype=torch.int32)
    return search_columns(source, torch.eye(len(source)), window, k, table, state)[:2]


def windows_of(symbols: Tensor, window: int, k: int) -> Tensor:
    """The window (columns, out) int64 of every weight, for streams that follow zeros."""
    stream = symbols.view(len(symbols), -1, STRIP).transpose(0, 1).flatten(1).long()
    back = -(-window // k)  # symbols that reach into a window
    padded, windows = torch.nn.functional.pad(stream, (back, 0)), torch.zeros_like(stream)
    for age in range(back):
        place, past = window - k * (age + 1), padded[:, back - age : padded.shape[1] - age]
        windows |= past << place if place >= 0 else past >> -place
    return windows.view(-1, len(symbols), STRIP).transpose(0, 1).flatten(1)


def normal(strips: int, noise: torch.Generator) -> Tensor:
    """Weights (columns, out) in units of the tables."""
    return UNIT * torch.randn(COLUMNS, STRIP * strips, generator=noise)


def rounded(levels: Tensor) -> Tensor:
    return levels.round().clamp(-LARGEST, LARGEST).to(torch.int8)


if __name__ == "__main__":
    main()
