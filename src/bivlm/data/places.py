"""Where an image is: the path that a record or the command line names, the bytes in a data URI, or the bytes
in the record itself.

Nothing is ever fetched. A path may be confined to a folder (`--data-root`).
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from bivlm.data.fields import check_text
from bivlm.data.files import confined, why_no_file
from bivlm.data.images import open_undecoded
from bivlm.errors import InputError, cut
from bivlm.types import Picture

MAX_URI_BYTES = 64 << 20  # of the image in a data URI: it stays in memory
URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/{1,3}[^/]")
# how base64 of a JPEG, PNG, GIF, WebP and BMP begins
BARE_BASE64 = re.compile(r"(/9j/|iVBORw0KGgo|R0lGOD|UklGR|Qk0)[A-Za-z0-9+/=\s]{40,}\Z")


@dataclass(frozen=True)
class Look:
    """How the images that the records of a file name are found.

    Paths are relative to `folder` and, with `root`, must lie in that folder, links followed. `bare_base64`:
    base64 without its type is an image (in tables of benchmarks it is usual), and no mistake. `wanted` False
    leaves images out, for a language model.
    """

    folder: Path = Path()
    root: Path | None = None
    bare_base64: bool = False
    wanted: bool = True

    def image(self, value: Any, name: str, origin: str) -> Picture:
        """The image that a value of the field `name` means: a path, a data URI, encoded bytes, or an object
        with "bytes" or "path". Raises InputError, naming `origin`, for anything else; whether a file is there
        is not checked.
        """
        if isinstance(value, Mapping) and ("bytes" in value or "path" in value):
            if isinstance(value.get("bytes"), bytes | memoryview):
                return self.image(value["bytes"], name, origin)
            if value.get("bytes") is None and isinstance(value.get("path"), str | None):
                if not value.get("path"):
                    raise InputError(f"{origin}: there is no image in {name}")
                value = value["path"]
        if isinstance(value, bytes):
            return open_undecoded(io.BytesIO(value), origin)
        if isinstance(value, memoryview):  # a part of a mapped file, which is not copied
            import pyarrow

            return open_undecoded(pyarrow.BufferReader(value), origin)
        text = check_text(value, name, origin)
        if self.bare_base64 and BARE_BASE64.match(text):
            text = f"data:;base64,{text}"
        return find_image(text, origin, self.folder, self.root)

    def first_there(self, names: Sequence[str], origin: str) -> Picture:
        """The first of several paths that leads to a file; if none does, the first. Raises InputError if all
        of them lie outside `root`.
        """
        found: list[Picture] = []
        for name in names:
            try:
                found.append(find_image(name, origin, self.folder, self.root))
            except InputError:
                if name == names[-1] and not found:
                    raise
                continue
            if isinstance(found[-1], Path) and why_no_file(found[-1]) is None:
                return found[-1]
        return found[0]


def find_image(name: str, origin: str, folder: Path = Path(), root: Path | None = None) -> Path | Image.Image:
    """The image that `name` means: a path, relative to `folder`, or the undecoded image of a data URI.
    Whether a file is there is not checked, except by `root`.

    With `root`, the path must lead to a place in that folder, links followed; where `folder` has no such
    file, the path is relative to `root`. Raises InputError, naming `origin`, for a URL, for base64 that is no
    data URI, and for a path outside `root`.
    """
    if name[:5].lower() == "data:":
        return _from_data_uri(name, origin)
    if url := URL.match(name):
        what = (
            "give the path without file://"
            if url["scheme"].lower() == "file"
            else "nothing is fetched: download the image and give its path"
        )
        raise InputError(f"{origin}: the image is a URL, {cut(name)}; {what}")
    if BARE_BASE64.match(name):
        raise InputError(
            f"{origin}: the image is base64 without its type, {cut(name)}; write it as a data URI"
            " (data:image/png;base64,…), or give the path of a file"
        )
    if root is None:
        return folder / name
    in_root = not Path(name).is_absolute() and why_no_file(folder / name) and not why_no_file(root / name)
    return confined((root if in_root else folder) / name, root, origin)


def _from_data_uri(uri: str, origin: str) -> Image.Image:
    """The undecoded image in a data URI; its bytes stay in memory."""
    head, comma, body = uri.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise InputError(
            f"{origin}: the image is a data URI that is not base64, {cut(uri)}; write"
            " data:image/png;base64,…, or give the path of a file"
        )
    if len(body) > MAX_URI_BYTES // 3 * 4:
        raise InputError(
            f"{origin}: the image is a data URI of {len(body)} characters; an image may have"
            f" {MAX_URI_BYTES >> 20} MiB: make it smaller, or give the path of a file"
        )
    try:
        content = base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(
            f"{origin}: the image is a data URI with damaged base64, {cut(uri)} ({cut(str(error), 200)});"
            " write it again, or give the path of a file"
        ) from error
    return open_undecoded(io.BytesIO(content), origin)
