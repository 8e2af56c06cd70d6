"""A packed folder to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage] - of httpx or httpx2, as this version has it
)

from bivlm.checkpoint.hub import HUB_ID
from bivlm.checkpoint.verify import verify_folder
from bivlm.errors import InputError, cut

NOT_SENT = [".[!g]*", "**/.*", "*.tmp"]  # what is hidden, but for .gitattributes


def push(
    folder: str | Path,
    name: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> str:
    """Put a packed folder on the hub as the model `name` (OWNER/NAME), which is made if it is not there,
    after all its checksums are compared; returns its address. What is hidden in the folder stays here, but
    for .gitattributes. Without `token` that of `hf auth login` is used.

    Raises InputError for a folder that is not packed or is damaged, and if the hub refuses.
    """
    place = Path(folder).expanduser()
    if not HUB_ID.fullmatch(name):
        raise InputError(f"{name!r} is no model id of the hub; give OWNER/NAME")
    if not place.is_dir():
        raise InputError(f"there is no folder {folder}; give the folder of a packed model")
    verify_folder(place)
    api = HfApi(endpoint=endpoint, token=token)
    try:
        api.create_repo(name, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(name, branch=revision, exist_ok=True)
        done = api.upload_folder(
            repo_id=name,
            folder_path=place,
            revision=revision,
            commit_message=message or "Packed by bivlm",
            ignore_patterns=NOT_SENT,
        )
    except HfHubHTTPError as error:
        said = error.server_message or (str(error).strip().splitlines() or ["no message"])[0]
        raise InputError(
            f"the hub refused {name} ({cut(said, 200)}); log in with `hf auth login` as one who may write"
            " there"
        ) from error
    except (HTTPError, OSError, RuntimeError) as error:  # RuntimeError: of a file that was not sent
        cause = error.__cause__ or error
        raise InputError(
            f"the hub could not be reached ({type(cause).__name__}); the same command sends only what is"
            " missing"
        ) from error
    return done.repo_url.url
