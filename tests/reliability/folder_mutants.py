"""Changed model folders: a seed to a packed folder with one thing wrong, its checksums left or made to fit.

What a careless copy does (a flipped bit, a cut file, an edited number) must be found by the checksums. What
is made on purpose has checksums that fit: the readers themselves must refuse it, or compute with it.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from bivlm.checkpoint.seal import file_checksum, module_checksum
from bivlm.checkpoint.shards import INDEX_NAME, checksum
from bivlm.job.run import quantize
from tiny import tiny_checkpoint, tiny_samples

MIXED = Path(__file__).with_name("mixed.toml")  # a recipe with every format
EVIL: list[Any] = [
    *(0, 1, -1, 2, 3, 7, 16, 255),
    *(2**31, 2**40, 2**60, 2**63, -(2**63), 10**30),
    *(0.5, -1.5, 1e308, float("nan"), float("inf"), True, False, None),
    *("", "x", "../../etc/passwd", "/etc/passwd", "bfloat16", "load", "__class__", "\ud800", "a" * 5000),
    *([], [1], [[[]]], {}, {"a": 1}),
]
PROCESSOR_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "processor_config.json",
    "generation_config.json",
)
Path_ = tuple[Any, ...]


@dataclass(frozen=True)
class FolderMutant:
    """`kind` of the change, the changes in words, and whether the checksums were made to fit."""

    kind: str
    changes: tuple[str, ...]
    sealed: bool


@cache
def original() -> Path:
    """A packed folder with every format, in a place of its own."""
    work = Path(tempfile.mkdtemp(prefix="bivlm-fuzz-"))
    source = tiny_checkpoint("llava", work / "source", torch.bfloat16)
    return quantize(source, work / "packed", recipe=MIXED, data=tiny_samples(4))


def make_folder_mutant(seed: int, folder: Path) -> FolderMutant:
    """Make `folder` the mutant of a seed."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(original(), folder)
    r = random.Random(seed)
    kind = r.choice(list(CHANGES))
    changes = tuple(filter(None, CHANGES[kind](r, folder)))
    sealed = r.random() < 0.6 and _reseal(folder)
    return FolderMutant(kind, changes, sealed)


def _change_module(r: random.Random, folder: Path) -> Iterator[str]:
    config = _read(folder / "config.json")
    name = r.choice(list(config["quantization_config"]["modules"]))
    for _ in range(r.choice([1, 1, 2])):
        yield _change_json(r, config, ("quantization_config", "modules", name))
    _write(folder / "config.json", config)


def _change_quantization(r: random.Random, folder: Path) -> Iterator[str]:
    config = _read(folder / "config.json")
    modules = config["quantization_config"].pop("modules")
    if r.random() < 0.2:
        config["quantization_config"]["pruning"] = r.choice(
            [
                *(
                    {"pruner": name, "keep": 0.5, "layer": 1, "site": "language"}
                    for name in ("x", "attention")
                ),
                {"pruner": "attention", "keep": 1e-300},
                {"pruner": "attention", "keep": 0.5, "layer": 10**9},
                {"pruner": "attention", "keep": 0.5, "settings": {"x": 1}},
                *(5, [], "attention"),
            ]
        )
    yield _change_json(r, config, ("quantization_config",))
    if isinstance(config.get("quantization_config"), dict):
        config["quantization_config"]["modules"] = modules if r.random() < 0.9 else r.choice(EVIL)
    _write(folder / "config.json", config)


def _change_config(r: random.Random, folder: Path) -> Iterator[str]:
    config = _read(folder / "config.json")
    quantization = config.pop("quantization_config")
    for _ in range(r.choice([1, 1, 2])):
        yield _change_json(r, config)
    config.setdefault("quantization_config", quantization)
    _write(folder / "config.json", config)


def _change_index(r: random.Random, folder: Path) -> Iterator[str]:
    index = _read(folder / INDEX_NAME)
    if r.random() < 0.5:
        yield _change_json(r, index)
    else:
        key = r.choice(list(index["weight_map"]))
        name = r.choice(
            ["../x.safetensors", "/etc/passwd", "/dev/zero", "evil.bin", "", ".", "x\0.safetensors"]
        )
        index["weight_map"][key] = name
        yield f"{key} in {name!r}"
    _write(folder / INDEX_NAME, index)


def _flip_bits(r: random.Random, folder: Path) -> Iterator[str]:
    path = r.choice(_shards(folder))
    content = bytearray(path.read_bytes())
    end = 8 + struct.unpack("<Q", content[:8])[0]
    for _ in range(r.choice([1, 1, 1, 4])):
        place = r.randrange(end) if r.random() < 0.5 else r.randrange(end, len(content))
        content[place] ^= 1 << r.randrange(8)
        yield f"{path.name}: bit at byte {place} of {len(content)}"
    path.write_bytes(content)


def _change_header(r: random.Random, folder: Path) -> Iterator[str]:
    path = r.choice(_shards(folder))
    content = path.read_bytes()
    end = 8 + struct.unpack("<Q", content[:8])[0]
    header, length = json.loads(content[8:end]), None
    if r.random() < 0.2:
        length = r.choice([0, 1, 2**31, 2**60, 2**64 - 1, 10**8])
        yield f"{path.name}: a header of {length} bytes"
    else:
        yield f"{path.name}: {_change_json(r, header)}"
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + content[end:])


def _change_tensor(r: random.Random, folder: Path) -> Iterator[str]:
    """Another tensor in the place of one; config.json agrees with it, half of the time."""
    path = r.choice(_shards(folder))
    tensors = load_file(path)
    key = r.choice(list(tensors))
    tensor = _changed_tensor(r, tensors[key])
    if tensor is None:
        del tensors[key]
        yield f"{key} is gone"
    else:
        tensors[key] = tensor.contiguous()
        yield f"{key}: {tensor.dtype} {list(tensor.shape)}"
    save_file(tensors, path, metadata={"format": "pt"})
    if tensor is not None and r.random() < 0.5:
        config = _read(folder / "config.json")
        for spec in config["quantization_config"]["modules"].values():
            if key.startswith(spec["key"]) and key[len(spec["key"]) :] in spec["tensors"]:
                described = [str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
                spec["tensors"][key[len(spec["key"]) :]] = described
        _write(folder / "config.json", config)
        yield "config.json agrees"


def _changed_tensor(r: random.Random, tensor: torch.Tensor) -> torch.Tensor | None:
    changed = tensor.clone()
    raw, kind = changed.view(-1).view(torch.uint8), r.randrange(8)
    if kind == 0:
        for _ in range(r.choice([1, 8, 100])):
            raw[r.randrange(len(raw))] = r.choice([0, 255, r.randrange(256)])
    elif kind == 1:
        raw.fill_(r.choice([0, 255, 0x7C]))
    elif kind == 2:
        changed = torch.cat([changed, changed[:1]])
    elif kind == 3:
        changed = changed[:-1]
    elif kind == 4:
        changed = changed.to(torch.float64 if changed.is_floating_point() else torch.int32)
    elif kind == 5 and changed.is_floating_point():
        changed.view(-1)[r.randrange(changed.numel())] = r.choice([float("nan"), float("inf"), -1.0])
    elif kind == 6:
        return None
    else:
        raw.copy_(
            raw[torch.randperm(len(raw), generator=torch.Generator().manual_seed(r.randrange(1 << 30)))]
        )
    return changed


def _cut(r: random.Random, folder: Path) -> Iterator[str]:
    path = r.choice(sorted(folder.iterdir()))
    content = path.read_bytes()
    if r.random() < 0.6:
        content = content[: r.choice([0, 1, 7, 8, 9, len(content) // 2, len(content) - 1])]
    else:
        content += r.choice([b"\0", b"x" * 1000, b"{}"])
    path.write_bytes(content)
    yield f"{path.name}: {len(content)} bytes"


def _change_processor(r: random.Random, folder: Path) -> Iterator[str]:
    path = folder / r.choice(PROCESSOR_FILES)
    content = _read(path)
    for _ in range(r.choice([1, 1, 3])):
        yield f"{path.name}: {_change_json(r, content)}"
    _write(path, content)


def _replace_file(r: random.Random, folder: Path) -> Iterator[str]:
    path = r.choice(sorted(folder.iterdir()))
    path.unlink()
    makers: dict[str, Callable[[], object]] = {
        "gone": lambda: None,
        "a link to itself": lambda: path.symlink_to(path.name),
        "a folder": path.mkdir,
        "a link to /dev/null": lambda: path.symlink_to("/dev/null"),
        "a pipe": lambda: os.mkfifo(path),
        "deep JSON": lambda: path.write_bytes(b"[" * 200_000),
        "a number of 6000 digits": lambda: path.write_bytes(b'{"a":' + b"9" * 6000 + b"}"),
        "no UTF-8": lambda: path.write_bytes(b"\xff\xfe{}"),
    }
    what = r.choice(list(makers))
    makers[what]()
    yield f"{path.name} is {what}"


CHANGES: dict[str, Callable[[random.Random, Path], Iterator[str]]] = {
    "module": _change_module,
    "quantization": _change_quantization,
    "config": _change_config,
    "index": _change_index,
    "bits": _flip_bits,
    "header": _change_header,
    "tensor": _change_tensor,
    "cut": _cut,
    "processor": _change_processor,
    "file": _replace_file,
}


def _reseal(folder: Path) -> bool:
    """Make all checksums fit what is there now; False if the folder is too broken for it."""
    if not all(path.is_file() for path in folder.iterdir()):
        return False
    try:
        index, config = _read(folder / INDEX_NAME), _read(folder / "config.json")
        sums: dict[str, str] = {}
        weight_map: dict[str, str] = {}
        for path in _shards(folder):
            for key, tensor in load_file(path).items():
                sums[key], weight_map[key] = checksum(tensor), path.name
        modules = {
            name: module_checksum(spec, sums)
            for name, spec in config["quantization_config"]["modules"].items()
        }
        named = index["metadata"]["bivlm"]["files"]
        files = {name: file_checksum(folder / name) for name in named if (folder / name).is_file()}
        index["metadata"]["bivlm"] |= {"crc32": sums, "modules": modules, "files": files}
        if set(index["weight_map"].values()) == set(weight_map.values()):
            index["weight_map"] = weight_map
        _write(folder / INDEX_NAME, index)
    except Exception:  # whatever a broken folder leads to here: it stays as it is
        return False
    return True


def _change_json(r: random.Random, content: Any, under: Path_ = ()) -> str:
    """Set, delete, copy or add one value below a place of a JSON document; says which."""
    places = [place for place in _places(content) if place[: len(under)] == under and len(place) > len(under)]
    place, shown = r.choice(places), ""
    shown, kind = "/".join(map(str, place)), r.random()
    holder = _at(content, place[:-1])
    if kind < 0.65:
        holder[place[-1]] = value = r.choice(EVIL)
        return f"{shown} = {str(value)[:30]!r}"
    if kind < 0.8:
        del holder[place[-1]]
        return f"{shown} is gone"
    if kind < 0.9:
        other = r.choice(places)
        holder[place[-1]] = json.loads(json.dumps(_at(content, other)))
        return f"{shown} = what is at {'/'.join(map(str, other))}"
    if isinstance(holder, dict):
        holder["unknown_thing"] = r.choice(EVIL)
    return f"something unknown next to {shown}"


def _places(content: Any, place: Path_ = ()) -> Iterator[Path_]:
    inner = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content if isinstance(content, list) else ())
    )
    for name, value in inner:
        yield (*place, name)
        yield from _places(value, (*place, name))


def _at(content: Any, place: Path_) -> Any:
    for name in place:
        content = content[name]
    return content


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
