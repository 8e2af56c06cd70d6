"""What the whole test run needs before transformers is imported: quiet progress bars, and a torchvision that
can be imported.

A torchvision wheel that was built for another torch (the CUDA wheel beside a CPU torch) fails on `import
torchvision`, because its compiled operators are not registered; transformers imports it wherever it is
installed, so every vision model fails with it. The image processors use torchvision's pure torch code alone,
so declaring the schemas of the two operators that the import asks for is enough. A torchvision that works is
left as it is.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

# `from tiny import …` and the benchmarks' modules from every folder, whatever pytest's import mode
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "benchmarks")]
if extra := os.environ.get("BIVLM_TEST_TORCHVISION"):
    sys.path.append(extra)  # a torchvision that only the tests see (Makefile)
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "HF_MODULES_CACHE" not in os.environ:  # where transformers copies the code of folders that are trusted
    MODULES = TemporaryDirectory(prefix="bivlm-code-")
    os.environ["HF_MODULES_CACHE"] = MODULES.name

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def declare_missing_operators() -> torch.library.Library | None:
    """Make `import torchvision` work when it fails for want of its operators' schemas; returns the library
    that must stay alive.
    """
    try:
        import torchvision
    except ModuleNotFoundError:
        return None
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    else:
        return None
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for schema in SCHEMAS:
        library.define(schema)
    import torchvision  # noqa: F401

    return library


TORCHVISION_LIBRARY = declare_missing_operators()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that need a card are no part of a run without one."""
    if torch.cuda.is_available():
        return
    needing = [item for item in items if item.get_closest_marker("gpu")]
    if needing:
        config.hook.pytest_deselected(items=needing)
        items[:] = [item for item in items if item not in needing]
