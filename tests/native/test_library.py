"""Finding the native library: where it is looked for, what the environment may ask, and that everything runs
without it.
"""

import ctypes
import os
import shutil

import pytest
import torch

import bivlm.native
from bivlm.errors import InputError
from bivlm.kernels import codes as cpu
from bivlm.kernels import reference
from bivlm.native import library as native
from bivlm.packed.linear import PackedLinear
from weights import NATIVE, Draw

VARIABLES = ("BIVLM_KERNEL", "BIVLM_CPU_LEVEL", "BIVLM_LIBRARY")
FILE = None if native.library() is None else native.library().path
ASKED_FOR_NONE = os.environ.get("BIVLM_KERNEL") == "reference"
COMPILER = any(map(shutil.which, ("c++", "g++", "clang++")))
present = pytest.mark.skipif(FILE is None, reason=native.status().why)


@pytest.fixture(autouse=True)
def searched_anew(monkeypatch):
    """Nothing in the environment, and afterwards the search and the instruction set that were there
    before.
    """
    found = native.library()
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    native._search.cache_clear()
    yield
    native._search.cache_clear()
    if found is not None:
        ctypes.CDLL(str(found.path)).bivlm_force_level(native.LEVELS.index(found.level))


@pytest.fixture
def absent(monkeypatch, tmp_path):
    """An installation without the library."""
    monkeypatch.setattr(bivlm.native, "__path__", [str(tmp_path)])


@pytest.mark.skipif(ASKED_FOR_NONE or not COMPILER, reason="no compiler here, or the library is turned off")
def test_where_there_is_a_compiler_there_is_the_library():
    """An installation whose library fails to build runs all the same: nothing else would say that it is
    broken.
    """
    assert FILE is not None, native.status().why


def test_absent(absent):
    assert native.library() is None
    assert native.status() == native.Status(False, None, native.status().why)
    assert "built without a C++ compiler" in native.status().why


@pytest.mark.parametrize("weight", NATIVE.values(), ids=NATIVE)
def test_without_the_library_the_reference_kernel_serves(absent, weight):
    packed, x = weight.encode(), Draw(0).normal(3, weight.shape[1])
    product = cpu.product(packed)
    assert product.kernel == "reference"
    assert product.added_bytes == 0
    assert torch.equal(product(x, None), reference.linear(x, packed, None))
    assert torch.equal(PackedLinear(packed, None, torch.float32)(x), product(x, None))


@present
def test_reference_on_demand(monkeypatch):
    monkeypatch.setenv("BIVLM_LIBRARY", str(FILE))
    monkeypatch.setenv("BIVLM_KERNEL", "reference")
    assert native.library() is None
    assert native.status().why == "BIVLM_KERNEL=reference"


def test_native_on_demand_is_an_error_without_it(absent, monkeypatch):
    monkeypatch.setenv("BIVLM_KERNEL", "native")
    with pytest.raises(InputError, match="BIVLM_KERNEL is native, but this installation has no"):
        native.library()


@present
@pytest.mark.parametrize("choice", ["", "auto", "native"])
def test_found_on_the_package_path(choice, monkeypatch, tmp_path):
    """The first folder of the path is the source's, the second the installation's: so it is in an editable
    installation.
    """
    shutil.copy(FILE, tmp_path / native.FILE_NAME)
    monkeypatch.setattr(bivlm.native, "__path__", [str(tmp_path / "none"), str(tmp_path)])
    monkeypatch.setenv("BIVLM_KERNEL", choice)
    assert native.library().path == tmp_path / native.FILE_NAME
    assert native.status() == native.Status(True, native.library().level, str(tmp_path / native.FILE_NAME))
    assert native.library() is native.library()


@present
def test_another_build(absent, monkeypatch):
    monkeypatch.setenv("BIVLM_LIBRARY", str(FILE))
    assert native.library().path == FILE


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("BIVLM_KERNEL", "fast", "BIVLM_KERNEL is fast; needs one of auto, native, reference"),
        ("BIVLM_LIBRARY", "nowhere.so", "BIVLM_LIBRARY is nowhere.so, which is no file"),
    ],
)
def test_a_mistake_in_the_environment(variable, value, message, monkeypatch):
    monkeypatch.setenv(variable, value)
    with pytest.raises(InputError, match=message):
        native.status()


@present
def test_levels(monkeypatch):
    monkeypatch.setenv("BIVLM_LIBRARY", str(FILE))
    monkeypatch.setenv("BIVLM_CPU_LEVEL", "portable")
    assert native.library().level == "portable"
    native._search.cache_clear()
    monkeypatch.setenv("BIVLM_CPU_LEVEL", "sse")
    with pytest.raises(InputError, match="BIVLM_CPU_LEVEL is sse; needs one of portable, avx2, avx512, neon"):
        native.library()


@present
def test_a_level_that_the_processor_lacks(monkeypatch):
    """No processor has both AVX2 and NEON."""
    monkeypatch.setenv("BIVLM_LIBRARY", str(FILE))
    lacking = "neon" if native.library().level in ("avx2", "avx512") else "avx2"
    native._search.cache_clear()
    monkeypatch.setenv("BIVLM_CPU_LEVEL", lacking)
    with pytest.raises(InputError, match=f"BIVLM_CPU_LEVEL is {lacking}, which this processor or this build"):
        native.library()


def test_a_file_that_is_no_library(monkeypatch, tmp_path):
    (tmp_path / native.FILE_NAME).write_bytes(b"no library")
    monkeypatch.setattr(bivlm.native, "__path__", [str(tmp_path)])
    assert native.library() is None
    assert "cannot be loaded" in native.status().why


@present
def test_a_library_of_another_interface(monkeypatch):
    monkeypatch.setenv("BIVLM_LIBRARY", str(FILE))
    monkeypatch.setattr(native, "ABI", 0)
    assert native.library() is None
    assert "interface version" in native.status().why
