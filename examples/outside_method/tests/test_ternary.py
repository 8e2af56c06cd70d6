"""The method keeps bivlm's contract, packs a model by its name, and is not needed to run what it packed."""

import subprocess
import sys
from pathlib import Path

import torch
from PIL import Image

from bivlm.contracts import QuantizerContract
from bivlm.quantizers import quantizer_named
from bivlm.zoo import embedded_model
from bivlm_ternary import Ternary

RECIPE = Path(__file__).parents[1] / "ternary.toml"
WITHOUT = """
import sys
sys.modules["bivlm_ternary"] = None  # as where it is not installed
import bivlm
from bivlm.packed.linear import packed_linears
model, processor = bivlm.load(sys.argv[1])
assert {linear.packed.settings["alphabet"] for linear in packed_linears(model).values()} == {3}
print(bivlm.answer(model, processor, sys.argv[2], "what color is the shape?"))
"""


class TestTernary(QuantizerContract):
    examples = [Ternary(), Ternary(group_size=64, scale_bits=8), Ternary(group_size=1000, threshold=1.2)]


def test_the_codes_are_those_of_the_paper():
    w = torch.tensor([[0.1, -0.9, 0.5, -0.1], [1.0, 1.0, 1.0, 1.0]])  # thresholds 0.28 and 0.7
    q = Ternary().quantize(w, None)
    assert q.codes.tolist() == [[1, 0, 2, 1], [2, 2, 2, 2]]
    torch.testing.assert_close(
        q.dequantize(), torch.tensor([[0, -0.7, 0.7, 0], [1.0, 1, 1, 1]]), rtol=1e-3, atol=0
    )


def test_bivlm_finds_it_by_its_name():
    assert quantizer_named("ternary") is Ternary


def test_what_it_packs_runs_where_it_is_not_installed(tmp_path):
    packed, image = tmp_path / "packed", tmp_path / "red.png"
    Image.new("RGB", (64, 64), "red").save(image)
    run("from bivlm.cli import main; main()", "quantize", embedded_model(), packed, "--preset", RECIPE)
    assert run(WITHOUT, packed, image).strip()


def run(code, *arguments):
    """What a process of its own prints."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
