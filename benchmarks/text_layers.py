"""Linears of a language model with what they receive from texts, for methods that look at more than one
second moment: that of the texts to calibrate with, that of other texts, and how much the loss feels each
output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bivlm.errors import InputError, cut
from bivlm.families.linears import is_linear
from layer_errors import energy
from layers import text_only
from texts import read_text, token_windows

FIELDS = ("weight", "moment", "held_out", "row_gradients")


@dataclass(frozen=True)
class TextLayer:
    """One linear: its weight (out, in), the mean of x xᵀ over the texts to calibrate and to test with (in,
    in), and the mean squared gradient of the loss in each output (out,), over the texts to calibrate with.
    """

    weight: Tensor
    moment: Tensor
    held_out: Tensor
    row_gradients: Tensor

    @property
    def stats(self) -> Any:
        return text_only(self.moment)

    def errors(self, quantized: Tensor) -> dict[str, float]:
        """Relative errors of a weight: on the texts to calibrate with, on the others, and there with the rows
        weighted by their gradients.
        """
        lost, weight = self.weight - quantized, self.weight
        rows = (self.row_gradients / self.row_gradients.mean()).sqrt()[:, None]
        return {
            "calibration": energy(lost, self.moment) / energy(weight, self.moment),
            "held out": energy(lost, self.held_out) / energy(weight, self.held_out),
            "felt": energy(rows * lost, self.held_out) / energy(rows * weight, self.held_out),
        }


def kept_layers(file: Path | None, make: Callable[[], Mapping[str, TextLayer]]) -> Mapping[str, TextLayer]:
    """The layers of a file, or new ones that are kept there."""
    if file is not None and file.exists():
        tensors = load_file(file)
        names = dict.fromkeys(key.rpartition(":")[0] for key in tensors)
        return {name: TextLayer(**{f: tensors[f"{name}:{f}"] for f in FIELDS}) for name in names}
    layers = make()
    if file is not None:
        save_file({f"{name}:{f}": getattr(layer, f) for name, layer in layers.items() for f in FIELDS}, file)
    return layers


def text_layers(
    model_folder: str, text: Path, names: Sequence[str], count: int, length: int
) -> Mapping[str, TextLayer]:
    """Some linears of a language model, by the rest of their names after the blocks' list."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder)
    halves = read_text(text)
    linears = {name: _linear(model, name) for name in names}
    found: list[dict[str, Tensor]] = []
    for part, purpose in zip(halves, ("calibrate", "test"), strict=True):
        windows = token_windows(tokenizer, part, purpose, count, length)
        found.append(_moments(model, linears, windows))
    windows = token_windows(tokenizer, halves[0], "calibrate", count, length)
    gradients = _row_gradients(model, linears, windows)
    return {
        name: TextLayer(linear.weight.detach().clone(), found[0][name], found[1][name], gradients[name])
        for name, linear in linears.items()
    }


def _linear(model: Any, name: str) -> nn.Linear:
    try:
        found = model.model.layers.get_submodule(name)
    except AttributeError as error:
        raise InputError(f"the model has no linear {cut(name)} in a block") from error
    if not is_linear(found):
        raise InputError(f"{cut(name)} is no linear")
    return found


def _moments(model: Any, linears: Mapping[str, nn.Linear], windows: Tensor) -> dict[str, Tensor]:
    sums: dict[str, Tensor] = {}

    def add(name: str, x: Tensor) -> None:
        rows = x.flatten(0, -2)
        sums[name] = sums.get(name, 0) + rows.T @ rows

    with _watching(linears, lambda name: lambda _, inputs: add(name, inputs[0])), torch.no_grad():
        for window in windows:
            model(window[None], use_cache=False)
    return {name: total / windows.numel() for name, total in sums.items()}


def _row_gradients(model: Any, linears: Mapping[str, nn.Linear], windows: Tensor) -> dict[str, Tensor]:
    sums: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[..., None]:
        def keep(gradient: Tensor) -> None:
            sums[name] = sums.get(name, 0) + gradient.flatten(0, -2).square().sum(0)

        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            output.register_hook(keep)

        return hook

    model.requires_grad_(False)
    model.get_input_embeddings().weight.requires_grad_(True)
    handles = [linear.register_forward_hook(watch(name)) for name, linear in linears.items()]
    for window in windows:
        model(window[None], labels=window[None], use_cache=False).loss.backward()
        model.zero_grad(set_to_none=True)
    for handle in handles:
        handle.remove()
    return {name: total / windows.numel() for name, total in sums.items()}


@contextmanager
def _watching(linears: Mapping[str, nn.Linear], hook: Callable[[str], Callable[..., None]]) -> Iterator[None]:
    handles = [linear.register_forward_pre_hook(hook(name)) for name, linear in linears.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
