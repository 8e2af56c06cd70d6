"""The worked examples of docs/format.md: the bytes typed into a test, the bytes in the document and the bytes
that are written are the same.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from bivlm.formats import FORMATS, PackedTensor, QuantizedWeight

DOCUMENT = Path(__file__).parents[1] / "docs" / "format.md"


@dataclass(frozen=True)
class Golden:
    """One example: the weight, its values, the settings, and of every tensor dtype, shape and bytes in
    hexadecimal digits.
    """

    weight: QuantizedWeight
    expanded: list[list[float]]
    settings: dict[str, int | bool | str]
    tensors: dict[str, tuple[torch.dtype, tuple[int, ...], str]]


def half(*numbers):
    return torch.tensor(numbers, dtype=torch.float16)


def octets(numbers):
    return torch.tensor(numbers, dtype=torch.uint8)


def as_hex(tensor):
    return tensor.contiguous().view(torch.uint8).numpy().tobytes().hex(" ")


def as_tensor(dtype, shape, text):
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8).view(dtype).view(shape)


def check_written(golden):
    packed = golden.weight.encode()
    assert {
        name: (tensor.dtype, tuple(tensor.shape), as_hex(tensor)) for name, tensor in packed.tensors.items()
    } == golden.tensors
    assert packed.settings == golden.settings


def check_read(golden):
    tensors = {name: as_tensor(*written) for name, written in golden.tensors.items()}
    kind = type(golden.weight)
    assert FORMATS[kind.format] is kind
    weight = kind.decode(PackedTensor(kind.format, golden.weight.shape, tensors, golden.settings))
    assert weight == golden.weight
    assert weight.dequantize().tolist() == golden.expanded


def check_document(title, golden):
    section = DOCUMENT.read_text(encoding="utf-8").partition(f"### {title}:")[2].partition("\n### ")[0]
    rows = re.findall(r"^\| `(\w+)` \(([\d, ]+)\) \| (?:`([0-9a-f ]+)`)? ?\|", section, re.MULTILINE)
    shapes = {name: tuple(int(size) for size in re.findall(r"\d+", shape)) for name, shape, _ in rows}
    assert {name: (shapes[name], text) for name, _, text in rows} == {
        name: written[1:] for name, written in golden.tensors.items()
    }
    [(settings, nbytes)] = re.findall(r"Settings: `(\{.*\})`\. (\d+) bytes\.", section)
    assert json.loads(settings) == golden.settings
    assert int(nbytes) == golden.weight.encode().nbytes
