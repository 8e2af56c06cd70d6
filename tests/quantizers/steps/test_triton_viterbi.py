"""The search in Triton takes the paths of the reference: run TRITON_INTERPRET=1, or on a card (marker
gpu).
"""

import pytest
import torch

from bivlm.formats.encoding.trellis_code import standard_tables
from bivlm.quantizers.steps.viterbi import search_reference
from on_triton import DEVICE, MARKS

pytestmark = MARKS
SLOW = pytest.mark.slow
CASES = [
    (8, 1, 20, 2, 32.0),
    (8, 2, 70, 2, 32.0),
    pytest.param(8, 3, 64, 2, 32.0, marks=SLOW),
    (8, 4, 17, 2, 32.0),
    pytest.param(8, 2, 130, 5, 40.0, marks=SLOW),
    (8, 2, 16, 2, 1e4),
    (8, 1, 16, 1, 0.0),
    (12, 3, 16, 2, 32.0),
    pytest.param(12, 2, 70, 2, 32.0, marks=SLOW),
    pytest.param(16, 4, 17, 2, 32.0, marks=SLOW),
    pytest.param(16, 1, 80, 2, 32.0, marks=SLOW),
]


def problem(columns, rows, window, scale):
    random = torch.Generator().manual_seed(rows + columns)
    u = torch.eye(columns) + 0.3 * torch.randn(columns, columns, generator=random).triu(1)
    u.diagonal().mul_(1 + torch.rand(columns, generator=random))
    state = torch.randint(0, 1 << window, (-(-rows // 64),), generator=random, dtype=torch.int32)
    return scale * torch.randn(columns, rows, generator=random), u, state


@pytest.mark.parametrize(("window", "k", "rows", "columns", "scale"), CASES)
def test_the_paths_are_those_of_the_reference(window, k, rows, columns, scale):
    from bivlm.quantizers.steps.triton_viterbi import search_on_card

    w, u, state = problem(columns, rows, window, scale)
    w[0, 0] = float("nan") if scale == 1e4 else w[0, 0]
    table = standard_tables(window)[k - 1]
    given = [tensor.to(DEVICE) for tensor in (w, u, table, state)]
    before = [tensor.clone() for tensor in given]
    found = search_on_card(given[0], given[1], window, k, given[2], given[3])
    for one, other in zip(found, search_reference(w, u, window, k, table, state), strict=True):
        assert torch.equal(one.cpu(), other)
    assert all(
        torch.equal(one.nan_to_num(), other.nan_to_num()) for one, other in zip(given, before, strict=True)
    )
