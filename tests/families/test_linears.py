"""Only nn.Linear itself is a linear; every subclass that a model of transformers can hold is told apart."""

import re
from pathlib import Path

import transformers
from torch import nn

from bivlm.families import linears
from bivlm.families.linears import is_linear


class Doubled(nn.Linear):
    def forward(self, input):
        return 2 * super().forward(input)


def test_a_subclass_is_no_linear():
    assert is_linear(nn.Linear(2, 3))
    assert not is_linear(Doubled(2, 3))
    assert not is_linear(nn.MultiheadAttention(4, 2).out_proj)
    assert not is_linear(nn.Embedding(2, 3))


def test_every_subclass_in_transformers_is_named_with_what_it_does():
    models = Path(transformers.__file__).parent / "models"
    found = {
        name
        for file in models.glob("*/modeling_*.py")
        for name in re.findall(r"^class (\w+)\((?:torch\.)?nn\.Linear\)", file.read_text(), re.MULTILINE)
    }
    assert "Llama4Router" in found
    assert {name for name in found if name not in linears.__doc__} == set()
