"""Two evaluations of the same questions."""

import pytest

from evaluations import FULL, PARTS, write


@pytest.fixture
def folders(tmp_path):
    bins = [{"n": 2, "confidence": 0.5, "score": 0.4}, {"n": 2, "confidence": 0.9, "score": 1.0}]
    small = {"kl": 0.1, "kl_geometric": 0.05, "calibration": {"ece": 0.1, "auroc": 0.7, "bins": bins}}
    return [
        write(tmp_path / "small", "small", ("dog", "no!", "3", "yes"), (0.0, 1.0, 1.0, 1.0), PARTS, **small),
        write(tmp_path / "full", "full", (*FULL[:3], "no"), (1.0, 1.0, 1.0, 0.0), kl=0.0, kl_geometric=1e-9),
    ]
