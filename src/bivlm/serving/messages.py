"""OpenAI's messages as a sample: a conversation with its images, which come in the request itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bivlm.data.places import find_image
from bivlm.errors import InputError, cut
from bivlm.types import Picture, Sample, Turn

SYSTEM_ROLES = ("system", "developer")
TEXTS, IMAGES = ("text", "input_text"), ("image_url", "input_image", "image")
Part = str | Picture


def sample_of(messages: Sequence[Mapping[str, Any]], most_images: int) -> Sample:
    """The sample of a conversation: its last message is the question, those before it are its turns.

    Images are data URIs; a path or an address is refused: nothing on the server is read, and nothing is
    fetched. Raises InputError, in the client's words, for everything that cannot be answered.
    """
    system: list[str] = []
    turns: list[Turn] = []
    asked: list[Part] = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        role, parts = message.get("role"), _parts(message.get("content"), where)
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
    sample = Sample.of(asked, system="\n".join(system), turns=tuple(turns))
    if len(sample.images) > most_images:
        raise InputError(f"{len(sample.images)} images are given; this server takes {most_images} at a time")
    return sample


def _parts(content: Any, where: str) -> list[Part]:
    """Texts and images of one message."""
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        raise InputError(f"{where} has no content; give a text, or a list of parts")
    return [_part(part, f"{where}, part {number}") for number, part in enumerate(content)]


def _part(part: Any, where: str) -> Part:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in TEXTS and isinstance(part.get("text"), str):
        return part["text"]
    if kind not in IMAGES:
        raise InputError(f"{where} is {cut(str(kind))!r}; this server reads parts of type text and image_url")
    value = part.get("image_url", part.get("image"))
    address = value.get("url") if isinstance(value, Mapping) else value
    if not isinstance(address, str) or address[:5].lower() != "data:":
        raise InputError(
            f"{where}: the image must be a data URI (data:image/png;base64,…); this server fetches nothing"
            " and reads no files"
        )
    return find_image(address, where)


def _text(parts: Sequence[Part], where: str) -> str:
    """The text of a message without images."""
    if not all(isinstance(part, str) for part in parts):
        raise InputError(f"{where} holds an image; only messages of the user may")
    return "".join(part for part in parts if isinstance(part, str))
