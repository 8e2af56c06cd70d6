"""Finding the native library: where it is looked for, what the environment may ask, and that everything runs
without it.
"""

import ctypes
import os
import re
import shutil

import pytest
import torch

import bivlm.native
from bivlm.doctor import diagnose
from bivlm.errors import InputError
from bivlm.kernels import codes, reference
from bivlm.native import structs
from bivlm.native.library import FILE_NAME, Status, _search, library, status
from bivlm.packed.linear import PackedLinear
from weights import NATIVE, Draw

VARIABLES = ("BIVLM_KERNEL", "BIVLM_CPU_LEVEL", "BIVLM_LIBRARY")
FILE = None if library() is None else library().path
ASKED_FOR_NONE = os.environ.get("BIVLM_KERNEL") == "reference"
COMPILER = any(map(shutil.which, ("c++", "g++", "clang++")))
present = pytest.mark.skipif(FILE is None, reason=status().why)


@pytest.fixture(autouse=True)
def searched_anew(monkeypatch):
    """Nothing in the environment, and afterwards the search and the instruction set that were there
    before.
    """
    found = library()
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    _search.cache_clear()
    yield
    _search.cache_clear()
    if found is not None:
        ctypes.CDLL(str(found.path)).bivlm_use_instruction_set(found.instruction_set.encode())


@pytest.fixture
def absent(monkeypatch, tmp_path):
    """An installation without the library."""
    monkeypatch.setattr(bivlm.native, "__path__", [str(tmp_path)])


@pytest.mark.skipif(ASKED_FOR_NONE or not COMPILER, reason="no compiler here, or the library is turned off")
def test_where_there_is_a_compiler_there_is_the_library():
    """An installation whose library fails to build runs all the same: nothing else would say that it is
    broken.
    """
    assert FILE is not None, status().why


def test_absent(absent):
    assert library() is None
    assert status() == Status(False, None, status().why)
    assert "built without a C++ compiler" in status().why


@pytest.mark.parametrize("weight", NATIVE.values(), ids=NATIVE)
def test_without_the_library_the_reference_kernel_serves(absent, weight):
    packed, x = weight.encode(), Draw(0).normal(3, weight.shape[1])
    product = codes.product(packed)
    assert product.kernel == "reference"
    assert product.added_bytes == 0
    assert torch.equal(product(x, None), reference.linear(x, packed, None))
    assert torch.equal(PackedLinear(packed, None, torch.float32)(x), product(x, None))


@present
def test_reference_on_demand(monkeypatch):
    monkeypatch.setenv("BIVLM_LIBRARY", str(FILE))
    monkeypatch.setenv("BIVLM_KERNEL", "reference")
    assert library() is None
    assert status().why == "BIVLM_KERNEL=reference"


def test_native_on_demand_is_an_error_without_it(absent, monkeypatch):
    monkeypatch.setenv("BIVLM_KERNEL", "native")
    with pytest.raises(InputError, match="BIVLM_KERNEL is native, but this installation has no"):
        library()


@present
@pytest.mark.parametrize("choice", ["", "auto", "native"])
def test_found_on_the_package_path(choice, monkeypatch, tmp_path):
    """The first folder of the path is the source's, the second the installation's: so it is in an editable
    installation.
    """
    shutil.copy(FILE, tmp_path / FILE_NAME)
    monkeypatch.setattr(bivlm.native, "__path__", [str(tmp_path / "none"), str(tmp_path)])
    monkeypatch.setenv("BIVLM_KERNEL", choice)
    assert library().path == tmp_path / FILE_NAME
    assert status() == Status(True, library().instruction_set, str(tmp_path / FILE_NAME))
    assert library() is library()


@present
def test_another_build(absent, monkeypatch):
    monkeypatch.setenv("BIVLM_LIBRARY", str(FILE))
    assert library().path == FILE


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
        status()


@present
def test_an_instruction_set_on_demand(monkeypatch):
    monkeypatch.setenv("BIVLM_LIBRARY", str(FILE))
    monkeypatch.setenv("BIVLM_CPU_LEVEL", "portable")
    assert library().instruction_set == "portable"
    _search.cache_clear()
    monkeypatch.setenv("BIVLM_CPU_LEVEL", "sse")
    with pytest.raises(InputError, match="BIVLM_CPU_LEVEL is sse; needs one of avx512, avx2, neon, portable"):
        library()


@present
def test_an_instruction_set_that_the_processor_lacks(monkeypatch):
    """No processor has both AVX2 and NEON."""
    monkeypatch.setenv("BIVLM_LIBRARY", str(FILE))
    lacking = "neon" if library().instruction_set in ("avx2", "avx512") else "avx2"
    _search.cache_clear()
    monkeypatch.setenv("BIVLM_CPU_LEVEL", lacking)
    with pytest.raises(InputError, match=f"BIVLM_CPU_LEVEL is {lacking}, which this processor or this build"):
        library()


def test_a_file_that_is_no_library(monkeypatch, tmp_path):
    (tmp_path / FILE_NAME).write_bytes(b"no library")
    monkeypatch.setattr(bivlm.native, "__path__", [str(tmp_path)])
    assert library() is None
    assert "cannot be loaded" in status().why


@present
def test_a_library_of_another_version(monkeypatch):
    monkeypatch.setenv("BIVLM_LIBRARY", str(FILE))
    monkeypatch.setattr("bivlm.native.library.ABI", 0)
    assert library() is None
    assert "interface version" in status().why


class LongerWeight(ctypes.Structure):
    """`bivlm_weight` with a field that the library does not know."""

    _fields_ = (*structs.WeightStruct._fields_, ("extra", ctypes.c_int64))


class SwappedTrellis(ctypes.Structure):
    """`bivlm_trellis` with two fields in each other's place: the same size."""

    _fields_ = (*structs.TrellisStruct._fields_[1::-1], *structs.TrellisStruct._fields_[2:])


@pytest.fixture(params=["size", "offset", "constant"])
def changed(request, monkeypatch):
    """A package whose structures are not the library's; what is said about it."""
    monkeypatch.setenv("BIVLM_LIBRARY", str(FILE))
    if request.param == "size":
        monkeypatch.setitem(structs.STRUCTS, "bivlm_weight", LongerWeight)
        size = ctypes.sizeof(structs.WeightStruct)
        return f"its bivlm_weight has {size} bytes, and this bivlm's has {size + 8}"
    if request.param == "offset":
        monkeypatch.setitem(structs.STRUCTS, "bivlm_trellis", SwappedTrellis)
        return "its bivlm_trellis.columns is at byte 8, and this bivlm's at 0"
    monkeypatch.setitem(structs.CONSTANTS, "BIVLM_KIND_PLANE", 7)
    return "its BIVLM_KIND_PLANE is 2, and this bivlm's is 7"


@present
def test_a_library_with_other_structures_is_refused(changed):
    assert library() is None
    assert f"{FILE} does not fit this bivlm: {changed}" in status().why
    assert diagnose().library == status().why


@present
def test_a_library_with_other_structures_is_an_error_on_demand(changed, monkeypatch):
    monkeypatch.setenv("BIVLM_KERNEL", "native")
    with pytest.raises(InputError, match=re.escape(f"BIVLM_KERNEL is native, but {FILE} does not fit")):
        library()


def test_a_name_that_the_library_does_not_know_is_a_difference():
    assert structs.difference(lambda name: -1).startswith("its bivlm_numbers has -1 bytes")


@present
def test_every_field_and_constant_is_asked_about():
    asked = []
    opened = ctypes.CDLL(str(FILE))
    opened.bivlm_layout.restype = ctypes.c_int64

    def layout(name):
        asked.append(name)
        return opened.bivlm_layout(name.encode())

    assert structs.difference(layout) == ""
    assert {f"{name}.{field[0]}" for name, struct in structs.STRUCTS.items() for field in struct._fields_} < {
        *asked
    }
    assert {*structs.CONSTANTS} < {*asked}
