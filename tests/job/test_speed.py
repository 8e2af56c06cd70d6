"""A machine has a speed in every dtype."""

from __future__ import annotations

import pytest
import torch

from bivlm.job import speed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_machine_has_a_speed(dtype):
    found = speed.speed_of(dtype)
    assert min(found.passes, found.moments) > 1e8
    assert found.reading > 1e7
    assert 0 < found.call < found.back < 1
