"""Where an image or a video is: the path that a record or the command line names, the bytes in a data URI, or
the bytes in the record itself. A video is a file, a folder of frames, or a list of them.

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

from bivlm.data.fields import check_text, kind_of
from bivlm.data.files import confined, why_no_file, why_no_folder
from bivlm.data.images import open_undecoded
from bivlm.errors import InputError, cut
from bivlm.types import MOST_FRAMES, Picture, Video

MAX_URI_BYTES = 64 << 20  # of the image in a data URI: it stays in memory
URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/{1,3}[^/]")
DIGITS = re.compile(r"([0-9]+)")
# endings of the images that a folder holds
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".avif"),
)
# how base64 of a JPEG, PNG, GIF, WebP and BMP begins
BARE_BASE64 = re.compile(r"(/9j/|iVBORw0KGgo|R0lGOD|UklGR|Qk0)[A-Za-z0-9+/=\s]{40,}\Z")


@dataclass(frozen=True)
class Look:
    """How the images that the records of a file name are found.

    Paths are relative to `folder` and, with `root`, must lie in that folder, links followed. `bare_base64`:
    base64 without its type is an image (in tables of benchmarks it is usual), and no mistake. `wanted` False
    leaves images and videos out, for a language model. `most_frames` of a video are read at most.
    """

    folder: Path = Path()
    root: Path | None = None
    bare_base64: bool = False
    wanted: bool = True
    most_frames: int = MOST_FRAMES

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

    def video(self, value: Any, name: str, origin: str, fps: float | None = None) -> Video:
        """The video that a value of the field `name` means: a list of frames, each as for `image`, or the
        path of a file or of a folder of frames, alone or as "path". Raises InputError, naming `origin`, for
        anything else, and for a list without frames.
        """
        if isinstance(value, list | tuple):
            frames = tuple(self.image(one, f"a frame of {name}", origin) for one in value)
            return Video(_some(frames, f"{origin}: {name}"), self.most_frames, fps)
        if isinstance(value, Mapping) and isinstance(value.get("path"), str):
            value = value["path"]
        if not isinstance(value, str):
            raise InputError(
                f"{origin}: {name} must be the path of a video, or a list of its frames, and is"
                f" {kind_of(value)}"
            )
        text = check_text(value, name, origin)
        return find_video(text, origin, self.folder, self.root, most=self.most_frames, fps=fps)

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


def find_video(
    name: str,
    origin: str,
    folder: Path = Path(),
    root: Path | None = None,
    *,
    most: int = MOST_FRAMES,
    fps: float | None = None,
) -> Video:
    """The video that `name` means: a file as in `find_image`, or the images in a folder, in the order of
    their names with numbers as numbers. Raises InputError, naming `origin`, as `find_image`, and for a folder
    without images.
    """
    found = find_image(name, origin, folder, root)
    if not isinstance(found, Path) or why_no_folder(found):
        return Video(found, most, fps)
    inside = (one for one in found.iterdir() if one.suffix.lower() in IMAGE_SUFFIXES)
    frames = sorted((one for one in inside if not one.name.startswith(".")), key=_order)
    placed = tuple(one if root is None else confined(one, root, origin) for one in frames)
    return Video(_some(placed, f"{origin}: the folder {cut(name, 200)}"), most, fps)


def _order(path: Path) -> list[tuple[bool, int, str]]:
    """What files are sorted by: frame2 comes before frame10."""
    pieces = [piece for piece in DIGITS.split(path.name) if piece]
    return [
        (not piece[0].isdecimal(), int(piece) if DIGITS.fullmatch(piece) else 0, piece) for piece in pieces
    ]


def _some(frames: tuple[Picture, ...], where: str) -> tuple[Picture, ...]:
    if not frames:
        raise InputError(f"{where} has no frames; give one image or more")
    return frames


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
    in_root = not Path(name).is_absolute() and not _is_there(folder / name) and _is_there(root / name)
    return confined((root if in_root else folder) / name, root, origin)


def _is_there(path: Path) -> bool:
    return not why_no_file(path) or not why_no_folder(path)


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
