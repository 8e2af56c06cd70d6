"""Which kernel serves a device: Triton's where it is installed and the card has bfloat16, else the reference
kernel with the reason.
"""

import subprocess
import sys

import pytest
import torch

from bivlm.formats import FORMATS
from bivlm.kernels import gpu
from bivlm.kernels.reference import ReferenceProduct
from weights import uniform

CARD = torch.device("cuda", 3)


@pytest.fixture(autouse=True)
def asked_anew(monkeypatch):
    """Answers are kept for the process."""
    monkeypatch.delenv("BIVLM_KERNEL", raising=False)
    monkeypatch.delenv(gpu.INTERPRETER, raising=False)
    gpu.why_reference.cache_clear()
    yield
    gpu.why_reference.cache_clear()


def pretend(monkeypatch, capability=(9, 0), installed=True, hip=None):
    """A card of this capability, with Triton or without."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(gpu, "find_spec", lambda name: object() if installed else None)
    monkeypatch.setattr(gpu, "import_module", lambda name: None)


def test_a_card(monkeypatch):
    pretend(monkeypatch)
    assert gpu.why_reference(CARD) == ""


def test_an_old_card(monkeypatch):
    pretend(monkeypatch, capability=(7, 5))
    assert (
        gpu.why_reference(CARD) == "the card has compute capability 7.5 and no bfloat16; the kernels need 8.0"
    )


def test_rocm_has_capabilities_of_its_own(monkeypatch):
    pretend(monkeypatch, capability=(0, 0), hip="6.4")
    assert gpu.why_reference(CARD) == ""


def test_without_triton(monkeypatch):
    pretend(monkeypatch, installed=False)
    assert gpu.why_reference(CARD) == "Triton is not installed: pip install 'bivlm[gpu]'"


def test_a_triton_that_does_not_fit(monkeypatch):
    pretend(monkeypatch)

    def broken(name):
        raise AttributeError("no libtriton")

    monkeypatch.setattr(gpu, "import_module", broken)
    assert gpu.why_reference(CARD) == "Triton cannot be imported: AttributeError: no libtriton"


def test_other_devices_and_the_variable(monkeypatch):
    pretend(monkeypatch)
    for name in ("cpu", "mps", "xpu"):
        assert name in gpu.why_reference(torch.device(name))
    gpu.why_reference.cache_clear()
    monkeypatch.setenv("BIVLM_KERNEL", "reference")
    assert gpu.why_reference(CARD) == "BIVLM_KERNEL=reference"


def test_the_reference_kernel_says_why():
    product = gpu.product(uniform(4, 8).encode())
    assert isinstance(product, ReferenceProduct)
    assert product.why == "Triton's kernels are for CUDA and ROCm devices, and this is cpu"


def test_every_format_has_a_module_but_those_that_need_none():
    """What torch multiplies itself, and what is made of other formats."""
    assert set(FORMATS) - set(gpu.MODULES) == {"lowrank", "raw", "rows"}


def test_triton_is_imported_only_where_it_is_needed():
    script = "import sys, bivlm.kernels.table; print('triton' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
