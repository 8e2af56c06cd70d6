"""The search against exhaustive search, a plain window loop and a plain feedback loop; the native search
against the reference, bit for bit.
"""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bivlm.formats.encoding.trellis_code import standard_tables
from bivlm.native import library as native
from bivlm.quantizers.steps.viterbi import FARTHEST, FINENESS, best_path, search_columns, search_reference

needs_library = pytest.mark.skipif(native.library() is None, reason="the native library is not in use")


def problem(columns: int, rows: int, window: int, *, seed: int = 0, scale: float = 32.0):
    random = torch.Generator().manual_seed(seed)
    u = torch.eye(columns) + 0.3 * torch.randn(columns, columns, generator=random).triu(1)
    state = torch.randint(0, 1 << window, (-(-rows // 64),), generator=random, dtype=torch.int32)
    return scale * torch.randn(columns, rows, generator=random), u, state


def windows_of(symbols, state, window: int, k: int) -> list[int]:
    found, now = [], int(state)
    for symbol in symbols.tolist():
        now = now >> k | symbol << (window - k)
        found.append(now)
    return found


@pytest.mark.parametrize(("k", "steps"), [(1, 10), (2, 5), (3, 3), (4, 3)])
def test_the_path_is_the_best_of_all(k, steps):
    random = torch.Generator().manual_seed(k)
    levels = torch.randint(-127, 128, (256,), generator=random, dtype=torch.int32) * FINENESS[k]
    targets = torch.randint(-150, 151, (4, steps), generator=random, dtype=torch.int32)
    state = torch.tensor([0, 255, 77, 128])
    windows = best_path(targets, 8, k, levels, state)
    for strip in range(4):
        costs = []
        for symbols in itertools.product(range(1 << k), repeat=steps):
            path = windows_of(torch.tensor(symbols), state[strip], 8, k)
            costs.append(
                sum(
                    min(FARTHEST, abs(int(targets[strip, i]) - int(levels[w]))) ** 2
                    for i, w in enumerate(path)
                )
            )
        mine = sum(
            min(FARTHEST, abs(int(targets[strip, i] - levels[w]))) ** 2
            for i, w in enumerate(windows[strip].tolist())
        )
        assert mine == min(costs)
        assert windows[strip].tolist() == windows_of(windows[strip] >> (8 - k), state[strip], 8, k)


@pytest.mark.parametrize("search", [search_reference, pytest.param(search_columns, marks=needs_library)])
@pytest.mark.parametrize(
    ("window", "k", "rows", "columns"), [(8, 2, 130, 3), (8, 1, 1, 2), (8, 4, 17, 2), (12, 3, 64, 2)]
)
def test_values_symbols_and_states_belong_together(search, window, k, rows, columns):
    w, u, state = problem(columns, rows, window)
    before = w.clone(), u.clone(), state.clone()
    table = standard_tables(window)[k - 1]
    values, symbols, after = search(w, u, window, k, table, state)
    assert all(torch.equal(one, other) for one, other in zip((w, u, state), before, strict=True))
    held = -(-rows // 16) * 16
    assert (tuple(values.shape), tuple(symbols.shape), int(symbols.max()) < 1 << k) == (
        (columns, rows),
        (columns, held),
        True,
    )
    for strip in range(len(state)):
        mine = slice(64 * strip, min(64 * strip + 64, held))
        path = windows_of(symbols[:, mine].reshape(-1), state[strip], window, k)
        assert path[-1] == int(after[strip])
        decoded = table.float()[torch.tensor(path)].view(columns, -1)
        assert torch.equal(
            decoded[:, : min(64, rows - 64 * strip)], values[:, 64 * strip : min(64 * strip + 64, rows)]
        )


@pytest.mark.parametrize("search", [search_reference, pytest.param(search_columns, marks=needs_library)])
def test_errors_are_fed_on(search):
    """The second column is the search of its own target less what the first one lost."""
    w, u, state = problem(2, 64, 8)
    table = standard_tables(8)[1]
    values, _, _ = search(w, u, 8, 2, table, state)
    _, symbols, between = search(w, u, 8, 2, table, state)
    windows = windows_of(symbols[0], state[0], 8, 2)
    target = w[1] - u[0, 1] * ((w[0] - values[0]) / u[0, 0])
    alone, _, _ = search(target[None], u[1:, 1:], 8, 2, table, torch.tensor([windows[-1]], dtype=torch.int32))
    assert torch.equal(alone[0], values[1])
    assert between.shape == state.shape


@pytest.mark.parametrize("search", [search_reference, pytest.param(search_columns, marks=needs_library)])
def test_the_error_on_normal_weights(search):
    """What the issue of all this is: the distortion of a normal source, columns that follow each other,
    against scalar quantization at its best.
    """
    best_scalar = {1: 0.3634, 2: 0.1175, 3: 0.03454, 4: 0.009497}  # Max, IRE Trans. IT 6, 7 (1960)
    for k, scalar in best_scalar.items():
        w, _, _ = problem(8, 1024, 8, seed=k)
        values, _, _ = search(
            w, torch.eye(8), 8, k, standard_tables(8)[k - 1], torch.zeros(16, dtype=torch.int32)
        )
        assert float((w - values).square().mean()) / 1024 < 0.84 * scalar


@needs_library
@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 140),
    columns=st.integers(1, 4),
    window=st.sampled_from([8, 12]),
    k=st.integers(1, 4),
    scale=st.sampled_from([1.0, 32.0, 40.0]),
    seed=st.integers(0, 1000),
)
def test_native_takes_the_paths_of_the_reference(rows, columns, window, k, scale, seed):
    w, u, state = problem(columns, rows, window, seed=seed, scale=scale)
    table = standard_tables(window)[k - 1]
    for one, other in zip(
        search_columns(w, u, window, k, table, state),
        search_reference(w, u, window, k, table, state),
        strict=True,
    ):
        assert torch.equal(one, other)


@needs_library
@pytest.mark.parametrize("scale", [0.0, 1e4, 1e30])
def test_outliers_and_zeros(scale):
    w, _, state = problem(3, 70, 8, scale=scale)
    values, _, _ = search_columns(w, torch.eye(3), 8, 2, standard_tables(8)[1], state)
    assert bool(values.isfinite().all())
    if scale > 1e20:  # the outermost levels that the windows allow, of the target's sign almost everywhere
        assert float((values.sign() == w.sign()).float().mean()) > 0.95


@needs_library
def test_a_factor_that_cannot_be_divided_by_is_refused():
    w, u, state = problem(2, 16, 8)
    with pytest.raises(ValueError, match="error -2"):
        search_columns(w, torch.zeros_like(u), 8, 2, standard_tables(8)[1], state)


@needs_library
def test_the_number_of_threads_changes_nothing():
    w, u, state = problem(4, 300, 8)
    table, before, found = standard_tables(8)[1], torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(threads)
            found.append(search_columns(w, u, 8, 2, table, state))
    finally:
        torch.set_num_threads(before)
    assert all(
        torch.equal(one, other)
        for other_run in found[1:]
        for one, other in zip(found[0], other_run, strict=True)
    )
