"""OpenAI's messages as a sample: a conversation with its images, which come in the request itself, or from
where the server may fetch them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bivlm.data.places import find_image
from bivlm.errors import InputError, cut
from bivlm.serving.fetch import Fetcher
from bivlm.types import Picture, Sample, Turn

SYSTEM_ROLES = ("system", "developer")
TEXTS, IMAGES = ("text", "input_text"), ("image_url", "input_image", "image")
Part = str | Picture


def sample_of(
    messages: Sequence[Mapping[str, Any]], most_images: int, fetcher: Fetcher | None = None
) -> Sample:
    """The sample of a conversation: its last message is the question, those before it are its turns.

    Images are data URIs, or at addresses if there is a `fetcher`; a path is refused: nothing on the server is
    read. Raises InputError, in the client's words, for everything that cannot be answered.
    """
    count = _images_in(messages)
    if count > most_images:
        raise InputError(f"{count} images are given; this server takes {most_images} at a time")
    system: list[str] = []
    turns: list[Turn] = []
    asked: list[Part] = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        role, parts = message.get("role"), _parts(message.get("content"), where, fetcher)
        if role in SYSTEM_ROLES:
            system.append(_text(parts, where))
        elif role == "user":
            asked += ["\n", *parts] if any(isinstance(part, str) for part in asked) else parts
        elif role == "assistant":
            if not any(isinstance(part, str) for part in asked):
                raise InputError(f"{where} is an answer without a question before it")
            turns.append(Turn(tuple(asked), _text(parts, where)))
            asked = []
        else:
            raise InputError(
                f"{where} has the role {cut(str(role))!r}; roles are system, developer, user, assistant"
            )
    if not any(isinstance(part, str) for part in asked):
        raise InputError("the last message asks nothing; end with a message of the user that has a text")
    return Sample.of(asked, system="\n".join(system), turns=tuple(turns))


def _images_in(messages: Sequence[Mapping[str, Any]]) -> int:
    """How many images the messages have, before any is read."""
    lists = [content for message in messages if isinstance(content := message.get("content"), list)]
    return sum(isinstance(part, Mapping) and part.get("type") in IMAGES for parts in lists for part in parts)


def _parts(content: Any, where: str, fetcher: Fetcher | None) -> list[Part]:
    """Texts and images of one message."""
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        raise InputError(f"{where} has no content; give a text, or a list of parts")
    return [_part(part, f"{where}, part {number}", fetcher) for number, part in enumerate(content)]


def _part(part: Any, where: str, fetcher: Fetcher | None) -> Part:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in TEXTS and isinstance(part.get("text"), str):
        return part["text"]
    if kind not in IMAGES:
        raise InputError(f"{where} is {cut(str(kind))!r}; this server reads parts of type text and image_url")
    value = part.get("image_url", part.get("image"))
    address = value.get("url") if isinstance(value, Mapping) else value
    if isinstance(address, str) and address[:5].lower() == "data:":
        return find_image(address, where)
    if isinstance(address, str) and fetcher is not None and address[:4].lower() == "http":
        return fetcher.image(address, where)
    fetches = "nothing" if fetcher is None else "http and https addresses alone"
    raise InputError(
        f"{where}: the image must be a data URI (data:image/png;base64,…); this server fetches {fetches}"
        " and reads no files"
    )


def _text(parts: Sequence[Part], where: str) -> str:
    """The text of a message without images."""
    if not all(isinstance(part, str) for part in parts):
        raise InputError(f"{where} holds an image; only messages of the user may")
    return "".join(part for part in parts if isinstance(part, str))
