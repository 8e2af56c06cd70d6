"""Linears to try methods on, with the second moment of what each receives: from a file, from a model, or
made.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bivlm.calibration.inputs import calibration_inputs
from bivlm.calibration.stats import collector_for
from bivlm.checkpoint.hub import resolve_model
from bivlm.checkpoint.source import SourceModel
from bivlm.data.samples import read_samples
from bivlm.errors import InputError
from bivlm.job.plan import make_plan
from bivlm.job.recipe import load_recipe
from bivlm.loading import load
from bivlm.types import LinearStats


@dataclass(frozen=True)
class Layer:
    """One linear to try methods on: its weight (out, in) and what it receives."""

    weight: Tensor
    stats: LinearStats


def text_only(hessian: Tensor) -> LinearStats:
    return LinearStats(second_moments={"text": hessian}, tokens={"text": 1})


def layers_of_file(path: Path) -> dict[str, Layer]:
    """The layers of a safetensors file, by name. InputError when it is none, or a second moment is missing or
    of a wrong shape.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read as safetensors: {error}") from error
    names = sorted(name.removesuffix(".weight") for name in tensors if name.endswith(".weight"))
    missing = [name for name in names if f"{name}.second_moment" not in tensors]
    if missing or not names:
        raise InputError(
            f"{path} needs NAME.weight and NAME.second_moment for every linear; missing for:"
            f" {', '.join(missing) or 'all'}"
        )
    for name in names:
        weight, moment = tensors[f"{name}.weight"], tensors[f"{name}.second_moment"]
        if weight.dim() != 2 or moment.shape != (weight.shape[1], weight.shape[1]):
            raise InputError(
                f"{path}: {name} is {tuple(weight.shape)} with a moment {tuple(moment.shape)}; needed are"
                " (out, in) and (in, in)"
            )
    return {
        name: Layer(tensors[f"{name}.weight"], text_only(tensors[f"{name}.second_moment"].float()))
        for name in names
    }


def synthetic_layers() -> dict[str, Layer]:
    """Gaussian rows of unequal scale; inputs that share a few directions; in the second layer two channels
    that are thirty times as large.
    """
    layers = {}
    for seed, (name, rows, columns, outlier) in enumerate(
        [("even inputs", 384, 512, 1.0), ("massive channels", 384, 512, 30.0), ("wide", 256, 1024, 1.0)]
    ):
        random = torch.Generator().manual_seed(seed)
        weight = torch.randn(rows, columns, generator=random) * torch.empty(rows, 1).log_normal_(
            0, 0.3, generator=random
        )
        shared = (
            torch.randn(4 * columns, columns // 16, generator=random)
            @ torch.randn(columns // 16, columns, generator=random)
            / (columns // 16) ** 0.5
        )
        x = shared + torch.randn(4 * columns, columns, generator=random)
        x[:, :2] *= outlier
        layers[name] = Layer(0.02 * weight, text_only(x.T @ x / len(x)))
    return layers


@torch.no_grad()
def layers_of_model(folder: str, data: str, count: int, every: int) -> dict[str, Layer]:
    """Every k-th linear of the language part, with the second moments that `count` questions of `data` give
    in the full-precision model.
    """
    source = SourceModel(resolve_model(folder))
    plan = make_plan(source, load_recipe("bivlm"), ("language",))
    names = [linear.name for linear in plan.linears if linear.quantizer is not None][::every]
    samples = read_samples(data, split="train", limit=count)
    model, _ = load(folder)
    stacks = [stack for stack in source.family.stacks if stack.part == "language"]
    visual_linears = [ending for stack in stacks for ending in stack.visual_linears]
    collector = collector_for(model, names, visual_linears)
    for inputs in calibration_inputs(source, samples):
        with collector.watching(inputs.visual):
            model(**inputs.tensors, use_cache=False)
    weights = source.read([f"{name}.weight" for name in names])
    return {name: Layer(weights[f"{name}.weight"], collector.stats(name)) for name in names}
