"""Where an image is: the path that a record or the command line names, or the bytes in a data URI.

Nothing is ever fetched. A path may be confined to a folder (`--data-root`).
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from pathlib import Path

from PIL import Image

from bivlm.data.files import confined
from bivlm.data.images import open_undecoded
from bivlm.errors import InputError, cut

MAX_URI_BYTES = 64 << 20  # of the image in a data URI: it stays in memory
URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/{1,3}[^/]")
# how base64 of a JPEG, PNG, GIF, WebP and BMP begins
BARE_BASE64 = re.compile(r"(/9j/|iVBORw0KGgo|R0lGOD|UklGR|Qk0)[A-Za-z0-9+/=\s]{40,}\Z")


def find_image(name: str, origin: str, folder: Path = Path(), root: Path | None = None) -> Path | Image.Image:
    """The image that `name` means: a path, relative to `folder`, or the undecoded image of a data URI.
    Whether a file is there is not checked, except by `root`.

    With `root`, the path must lead to a place in that folder, links followed. Raises InputError, naming
    `origin`, for a URL, for base64 that is no data URI, and for a path outside `root`.
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
    return folder / name if root is None else confined(folder / name, root, origin)


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
