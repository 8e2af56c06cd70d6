"""The containers of data sets, in the order in which they are tried."""

from __future__ import annotations

from pathlib import Path

from bivlm.data.containers.arrow import LFS
from bivlm.data.containers.base import Container, Opened, begins_with
from bivlm.data.containers.folders import CLONE, FILES, FOLDER, IMAGES, NOTHING
from bivlm.data.containers.hub import is_hub_id, open_hub
from bivlm.data.containers.json_file import DOCUMENT, opened
from bivlm.data.containers.json_lines import LINES
from bivlm.data.containers.parquet import PARQUET
from bivlm.data.containers.saved import SAVED
from bivlm.data.containers.tables import TABLE
from bivlm.data.files import because, why_no_file, why_no_folder
from bivlm.errors import InputError, cut

CONTAINERS = (SAVED, FOLDER, CLONE, FILES, IMAGES, NOTHING, PARQUET, TABLE, DOCUMENT, LINES)
# how files begin that are no data but hold some, and what to do
PACKED: dict[bytes, str] = {
    b"PK\x03\x04": "a zip archive; unpack it, and give the folder or the data file in it",
    b"\x1f\x8b": "compressed (gzip); unpack it, and give the file or the folder",
    b"%PDF": "a PDF; save its pages as images, and give their folder",
    LFS: "a pointer of git-lfs; fetch its content with: git lfs pull",
}


def open_set(source: str | Path) -> Opened:
    """The data set at a path, or with a name of the hub. QUESTIONS.json+ANNOTATIONS.json are two files of
    VQAv2. Raises InputError for a path that leads nowhere, for archives, and for damaged sets.
    """
    path = Path(source)
    wrong = why_no_folder(path) and why_no_file(path)
    if wrong:
        first, plus, second = str(source).partition("+")
        if plus and Path(first).is_file() and Path(second).is_file():
            return opened(Path(first), Path(first).name, Path(second))
        if is_hub_id(str(source)) and not path.parent.is_dir():
            return open_hub(str(source))
        raise InputError(
            f"there is no data set {cut(str(source), 200)}{because(wrong)}; give easy-vqa, a file (JSON,"
            " JSONL, CSV, TSV, parquet), a folder, or OWNER/NAME of the hub"
        )
    for magic, what in PACKED.items():
        if path.is_file() and begins_with(path, magic):
            raise InputError(f"{path} is {what}")
    return next(container for container in CONTAINERS if container.reads(path)).open(path)


__all__ = ["CONTAINERS", "Container", "Opened", "open_set"]
