"""What counts as a linear: `nn.Linear` itself, whose forward is x Wᵀ + b. A subclass may compute something
else with its weight, and packed as if it did not, it makes a wrong model.

The subclasses in torch 2.13 and transformers 5.24 that a model can hold, none of which is packed:

    Llama4Router, PhimoeTopKRouter     return a tuple: scores, and which experts
    NonDynamicallyQuantizableLinear    of nn.MultiheadAttention, which reads its weight and never calls it
    DeepseekV4GroupedLinear            multiplies group by group
    IdeficsDecoupledLinear             appends the product with a second weight
    DoryLMHead                         scales the product
    FalconLinear                       rounds the product before it adds the bias
    EsmFoldLinear                      x Wᵀ + b, in a model of proteins
"""

from __future__ import annotations

from typing import TypeGuard

from torch import nn


def is_linear(module: object) -> TypeGuard[nn.Linear]:
    """Whether a module is a linear that can be packed: x Wᵀ + b and nothing else."""
    return type(module) is nn.Linear
