"""The example for ExecuTorch: what is exported needs no ExecuTorch to be tested; the rest runs where it is
installed.
"""

import importlib.util
import re
import runpy
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent.parent / "examples" / "executorch"


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(str(FOLDER / "packed_mlp.py"))


def test_the_weights_tensors_are_constants_of_the_exported_program(example):
    linear = example["packed_linear"](64, 80)
    program = torch.export.export(example["TrellisLinear"](linear).eval(), (torch.randn(2, 3, 64),))
    (call,) = [node for node in program.graph.nodes if node.op == "call_function"]
    assert str(call.target) == "bivlm.trellis_linear.default"
    assert call.meta["val"].shape == (2, 3, 80)
    assert torch.equal(program.state_dict["codes"], linear.codes)


def test_the_kernel_takes_the_operators_arguments_in_order(example):
    names = re.findall(r"(\w+)(?:,|$)", example["ARGUMENTS"])
    signature = re.search(
        r"trellis_linear\(KernelRuntimeContext &(.*?)\)", (FOLDER / "kernel.cpp").read_text(), re.S
    )
    assert re.findall(r"(\w+)(?:,|$)", signature[1])[1:] == [*names, "out"]


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("executorch"), reason="ExecuTorch is not installed")
def test_executorch_computes_what_bivlm_computes(example, tmp_path, capfd):
    example["main"](["--work", str(tmp_path)])
    assert "largest difference from bivlm" in capfd.readouterr().out
