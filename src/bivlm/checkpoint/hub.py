"""From a model's path or Hugging Face hub id to its folder on the disk, and back to the id."""

from __future__ import annotations

import re
from pathlib import Path

from bivlm.errors import InputError

NEEDED = [
    *("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.spm", "*.bpe"),
    *("README.md", "LICENSE*"),
]
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_CACHED = re.compile(r"models--(?P<owner>.+?)--(?P<name>.+)")  # how the hub's cache calls a model's folder


def resolve_model(model: str | Path, trust_remote_code: bool = False) -> Path:
    """The folder of a model: `model` itself if it exists, else the hub's snapshot (downloaded once, then
    cached by huggingface_hub); with its code only if that is trusted.

    Raises InputError if it is neither.
    """
    folder = Path(model).expanduser()
    if folder.exists():
        return folder
    if not HUB_ID.fullmatch(str(model)):
        raise InputError(f"there is no folder {model}, and it is no model id of the hub (OWNER/NAME) either")
    from huggingface_hub import snapshot_download  # a third of a second, which a folder does not need
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(
            snapshot_download(str(model), allow_patterns=[*NEEDED, *(["*.py"] if trust_remote_code else [])])
        )
    except RepositoryNotFoundError as error:
        raise InputError(
            f"there is no folder {model} and the hub has no such model (or it is private: log in with `hf"
            " auth login`)"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise InputError(
            f"there is no folder {model}, and the hub could not be reached for it ({type(error).__name__});"
            " give a local folder"
        ) from error


def hub_id_of(folder: Path) -> str | None:
    """The hub id of a folder in the hub's cache; None for any other folder."""
    place = folder.resolve()
    found = _CACHED.fullmatch(place.parent.parent.name) if place.parent.name == "snapshots" else None
    return None if found is None else f"{found['owner']}/{found['name']}"
