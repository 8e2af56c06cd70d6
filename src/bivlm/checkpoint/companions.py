"""The files of a model folder next to its weights, and which of them a packed folder gets: processor,
tokenizer, templates, generation settings, licence, documents.

Not copied: weights in any form, code, what is hidden, links to places outside the model, folders with weights
or code in them. Except for weights and what is hidden they are named, so that nobody misses them later.
`auto_map`, which asks transformers to run code from the folder, is taken out of the copies. Of a folder whose
code is trusted, the code that `auto_map` names is copied, and what it imports from the folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bivlm.checkpoint.durable import copy_file, sync_folder, write_text
from bivlm.checkpoint.seal import file_checksum, text_checksum
from bivlm.checkpoint.shards import read_json
from bivlm.checkpoint.weight_files import ADAPTER_CONFIG
from bivlm.errors import InputError

WEIGHTS = {
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".gguf",
    ".h5",
    ".msgpack",
    ".onnx",
    ".npz",
    ".pkl",
}
CODE = {".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".sh", ".bat", ".exe", ".js", ".ipynb"}
CARD, SOURCE_CARD = "README.md", "README.original.md"
ATTRIBUTES = ".gitattributes"  # tells git which files are large; hosts write it anew
UNSEALED = (CARD, ATTRIBUTES)  # without checksums: they may be changed
LARGE_FILES = "*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
MOST_DEPTH = 4  # folders inside folders
AUTO_MAP = "auto_map"  # of a JSON file: which classes of the folder's code transformers shall use


@dataclass(frozen=True)
class Companions:
    """`copied`: paths relative to the folder, sorted. `left_out`: the others, with the reason, for people.
    `trusted`: the folder's code is run, and copied.
    """

    folder: Path
    copied: tuple[Path, ...]
    left_out: dict[str, str]
    trusted: bool = False

    def copy_to(self, out: Path) -> None:
        """Copy them; every file, and every folder inside `out`, is on the disk afterwards."""
        for path in self.copied:
            target = out / name_in_result(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            changed = None if self.trusted else without_code(self.folder / path)
            if changed is None:
                copy_file(self.folder / path, target)
            else:
                write_text(target, changed)
        for inner in sorted({folder for path in self.copied for folder in path.parents} - {Path()}):
            sync_folder(out / inner)

    def checksums(self) -> dict[str, str]:
        """The checksums of the copies by their names in the packed folder; the card has none, for it is there
        to be edited.
        """
        sums: dict[str, str] = {}
        for path in self.copied:
            changed = None if self.trusted else without_code(self.folder / path)
            own = file_checksum(self.folder / path) if changed is None else text_checksum(changed)
            sums[name_in_result(path).as_posix()] = own
        sums.pop(SOURCE_CARD, None)
        return sums

    def code_in(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The `auto_map` of the source's `config` as the packed folder's config.json has it: none without
        trust; without the model's classes if transformers has its own, which bivlm uses.
        """
        from bivlm.families.remote_code import code_of, is_needed  # needs transformers

        code = code_of(config) if self.trusted else {}
        if not is_needed(config):
            code = {
                name: value
                for name, value in code.items()
                if not name.startswith(("AutoModel", "AutoConfig"))
            }
        return {AUTO_MAP: code} if code else {}


def companions(folder: Path, trust_remote_code: bool = False) -> Companions:
    """What a packed folder gets of a model folder. Raises InputError if a file cannot be read, or if code
    that is trusted is missing.
    """
    from bivlm.families.remote_code import code_files  # needs transformers

    copied: list[Path] = []
    left_out: dict[str, str] = {}
    code = code_files(folder) if trust_remote_code else []
    for path in sorted(folder.iterdir()):
        reason = None if path in code and is_inside(path, folder) else _reason_to_leave(path, folder)
        if reason is not None:
            if reason:
                left_out[path.name] = reason
        elif path.is_dir():
            inner = _files_of(path, folder)
            if isinstance(inner, str):
                left_out[f"{path.name}/"] = inner
            else:
                copied += inner
        else:
            copied.append(path.relative_to(folder))
    return Companions(folder, tuple(copied), left_out, trust_remote_code)


def name_in_result(path: Path) -> Path:
    """The name of a copy: the source's card makes room for the packed model's own."""
    return Path(SOURCE_CARD) if path == Path(CARD) else path


def without_code(path: Path) -> str | None:
    """A JSON file's text without `auto_map`; None if the file has none, and is copied as it is."""
    if path.suffix != ".json" or f'"{AUTO_MAP}"'.encode() not in path.read_bytes():
        return None
    content = {name: value for name, value in read_json(path).items() if name != AUTO_MAP}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a path, its links followed, lies in the folder, or in the same repository of the hub's cache
    (whose snapshots are links to `blobs`).
    """
    try:
        target, home = path.resolve(strict=True), folder.resolve()
    except (OSError, RuntimeError):  # a link to nothing, or to itself
        return False
    if target.is_relative_to(home):
        return True
    return home.parent.name == "snapshots" and target.is_relative_to(home.parent.parent / "blobs")


def _reason_to_leave(path: Path, folder: Path) -> str | None:
    """Why a file is not copied: empty if nobody will miss it, None if it is copied."""
    if path.name == "config.json" or path.name.endswith(".index.json") or path.suffix in WEIGHTS:
        return ""  # bivlm writes its own
    if path.name == ADAPTER_CONFIG or path.name[0] == ".":
        return ""
    if path.suffix in CODE:
        return "code"
    if not is_inside(path, folder):
        return "a link to a place outside the folder"
    return None if path.is_file() or path.is_dir() else "no file"


def _files_of(inner: Path, folder: Path) -> list[Path] | str:
    """The files of a folder inside the model folder, relative to that; or why it is left out."""
    files: list[Path] = []
    for path in sorted(inner.iterdir()):
        if path.is_symlink() and path.is_dir():
            return "it holds a link to a folder"
        if path.suffix in WEIGHTS or path.suffix in CODE:
            return "it holds weights or code"
        if path.is_dir():
            if len(path.relative_to(folder).parts) >= MOST_DEPTH:
                return "its folders are too deep"
            found = _files_of(path, folder)
            if isinstance(found, str):
                return found
            files += found
        elif _reason_to_leave(path, folder) is None:
            files.append(path.relative_to(folder))
        elif not path.name.startswith("."):
            return "it holds what is not copied"
    return files


def check_readable(found: Companions) -> None:
    """InputError if a file that will be copied cannot be read: better now than after hours."""
    for path in found.copied:
        try:
            with (found.folder / path).open("rb") as file:
                file.read(1)
        except OSError as error:
            raise InputError(f"{found.folder / path} cannot be read ({error.strerror or error})") from error
