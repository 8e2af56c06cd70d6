"""A shrunk model with seeded random weights, in which everything has an effect."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def seeded_model(auto_model: Any, config: Any, **options: Any) -> Any:
    """The model of a config in float32, in evaluation mode: weights of variance 1 / in, norms about 1, gates
    about one half. (Many models begin with gates of zero: then no image would reach the language model.)
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = auto_model.from_config(config, dtype=torch.float32, **options).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                _draw(name, parameter)
    return model


def _draw(name: str, parameter: Tensor) -> None:
    last = name.rpartition(".")[2]
    if parameter.ndim >= 3 and "conv" not in name and "patch" not in name:  # experts, in either layout
        parameter.normal_(0, max(1, min(parameter.shape[1:])) ** -0.5)
    elif parameter.ndim >= 2:
        parameter.normal_(0, max(1, parameter[0].numel()) ** -0.5)
    elif "gate" in last:
        parameter.normal_(0.5, 0.1)
    else:
        parameter.normal_(1.0 if "norm" in name and last == "weight" else 0.0, 0.1)
