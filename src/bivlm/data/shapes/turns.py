"""Conversations of several turns: LLaVA, ShareGPT, OpenAI. Each answer of the assistant is one sample; the
turns before it are its context.

    {"image": "a.png", "conversations": [{"from": "human", "value": "<image>\\nWhat?"}, {"from": "gpt", …}]}
    {"messages": [{"role": "user", "content": [{"type": "text", …}, {"type": "image_url", …}]}, …]}
    {"images": […], "texts": [{"user": "What is it?", "assistant": "A cat."}, …]}

Images stand where `<image>` or a part of type image says; without any such place, before the first question.
So do videos, by `<video>` and parts of type video; where a record has videos alone, `<image>` is their place
too (LLaVA-Video).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from bivlm.data.fields import Record, check_text, kind_of, system_of
from bivlm.data.shapes.base import Filmed, Part, Pictured, Row, Shape, has
from bivlm.data.shapes.plain import FPS, IMAGES, images_of, videos_of
from bivlm.errors import InputError, cut
from bivlm.types import Sample, Turn

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"
ROLES = {
    **dict.fromkeys(("user", "human"), USER),
    **dict.fromkeys(("assistant", "gpt", "model", "chatgpt", "bot"), ASSISTANT),
    **dict.fromkeys(("system", "developer"), SYSTEM),
}
IMAGE, VIDEO = "image", "video"
PLACE = re.compile("<(image|video)>")
TEXT_PARTS = ("text", "input_text", "output_text")
VISUAL_PARTS = {
    **dict.fromkeys(("image", "image_url", "input_image"), IMAGE),
    **dict.fromkeys(("video", "video_url", "input_video"), VIDEO),
}
Said = tuple[str, list[Part]]  # a role, and what it said


class _Visuals:
    """The images and videos of a record, given out to the places in its turns one after the other."""

    def __init__(self, row: Row) -> None:
        self.row = row
        images = images_of(row) if row.look.wanted and any(name in row.record for name in IMAGES) else []
        self.all = {IMAGE: images, VIDEO: videos_of(row)}
        self.given = {IMAGE: 0, VIDEO: 0}

    def next(self, kind: str) -> list[Part]:
        if not self.row.look.wanted:
            return []
        if kind == IMAGE and not self.all[IMAGE] and self.all[VIDEO]:
            kind = VIDEO
        self.given[kind] += 1
        return self.all[kind][self.given[kind] - 1 : self.given[kind]]

    def without_place(self) -> list[Part]:
        """Those of a kind for which no turn has a place."""
        return [one for kind, found in self.all.items() if not self.given[kind] for one in found]

    def check(self) -> None:
        for kind, given in self.given.items():
            if given and given != len(self.all[kind]):
                raise InputError(
                    f"{self.row.origin}: the turns have places for {given} {kind}s, and {len(self.all[kind])}"
                    " are there"
                )


def _samples(row: Row, said: Iterable[Said], visuals: _Visuals) -> Iterator[Sample]:
    """A sample for each answer; a question without an answer at the end is one too."""
    turns = list(said)
    visuals.check()
    system, earlier, asked, found = system_of(row.record, row.origin), (), [], []
    asked += visuals.without_place()
    for role, parts in turns:
        if role == SYSTEM:
            system = "\n".join(part for part in (system, *parts) if isinstance(part, str) and part)
        elif role == USER:
            asked += ["\n", *parts] if any(isinstance(part, str) for part in asked) else parts
        else:
            _check_asked(asked, row.origin)
            answer = "".join(part for part in parts if isinstance(part, str))
            question = row.resolved(asked)
            found.append(row.sample(question, (answer,), system=system, turns=earlier))
            earlier, asked = (*earlier, Turn(question, answer)), []
    if any(isinstance(part, str) for part in asked):
        found.append(row.sample(asked, system=system, turns=earlier))
    if not found:
        raise InputError(f"{row.origin}: the conversation is empty")
    if len(found) == 1:
        return iter(found)
    return (replace(one, origin=f"{row.origin} turn {number}") for number, one in enumerate(found, 1))


def _check_asked(asked: list[Part], origin: str) -> None:
    if not any(isinstance(part, str) for part in asked):
        raise InputError(f"{origin}: an answer is there without a question before it")


def _said(row: Row, name: str, visuals: _Visuals) -> Iterator[Said]:
    """The turns of a list of {"from", "value"} or {"role", "content"}."""
    turns = row.record[name]
    for turn in turns:
        if not isinstance(turn, Mapping):
            raise InputError(
                f"{row.origin}: each entry of '{name}' must be an object, and one is {kind_of(turn)}"
            )
        who = turn.get("role") if has(turn, "role") else turn.get("from")
        role = ROLES.get(who.lower()) if isinstance(who, str) else None
        if role is None:
            known = ", ".join(ROLES)
            raise InputError(
                f"{row.origin}: a turn of '{name}' is from {cut(str(who))!r}; known are {known}: leave it out"
            )
        field = "content" if has(turn, "content") else "value"
        yield role, _content(row, turn.get(field), field, visuals, role)


def _content(row: Row, content: Any, field: str, visuals: _Visuals, role: str) -> list[Part]:
    """What one turn says: a text, or a list of parts."""
    if not isinstance(content, list):
        text = check_text(content, f"'{field}' of a turn", row.origin)
        return _with_visuals(text, visuals) if role == USER else [text]
    parts: list[Part] = []
    for entry in content:
        kind = entry.get("type") if isinstance(entry, Mapping) else None
        if kind in TEXT_PARTS:
            parts.append(check_text(entry.get("text"), "a text of a turn", row.origin))
        elif kind in VISUAL_PARTS and role == USER:
            parts += _visual_part(entry, VISUAL_PARTS[kind], visuals)
        else:
            raise InputError(
                f"{row.origin}: a part of a turn is {cut(str(kind))!r} from the {role}; texts are read, and"
                " images and videos of the user"
            )
    if not any(isinstance(part, str) for part in parts) and role != USER:
        raise InputError(f"{row.origin}: a turn of the {role} is empty")
    return parts


def _visual_part(entry: Record, kind: str, visuals: _Visuals) -> list[Part]:
    """The image or video that a part holds itself, or else the record's next one."""
    for name in (kind, f"{kind}_url", "path", "url"):
        value = entry.get(name)
        if isinstance(value, Mapping) and "url" in value:
            value = value["url"]
        if value is not None and kind == VIDEO:
            return [Filmed(value, f"'{name}' of a turn", entry.get(FPS))]
        if value is not None:
            return [Pictured(value, f"'{name}' of a turn")]
    return visuals.next(kind)


def _with_visuals(text: str, visuals: _Visuals) -> list[Part]:
    """A text with images and videos in the places that it marks; line breaks around a place fall away."""
    first, *rest = PLACE.split(text)
    if not rest:
        return [text]
    parts: list[Part] = [first.rstrip("\n")]
    for kind, piece in zip(rest[::2], rest[1::2], strict=True):
        parts += [*visuals.next(kind), piece.strip("\n")]
    return [part for part in parts if part != ""]


def _reader(name: str) -> Any:
    def samples(row: Row) -> Iterable[Sample]:
        visuals = _Visuals(row)
        return _samples(row, _said(row, name, visuals), visuals)

    return samples


def _pairs(row: Row) -> Iterable[Sample]:
    visuals, said = _Visuals(row), []
    for pair in row.record["texts"]:
        if not isinstance(pair, Mapping):
            raise InputError(
                f"{row.origin}: each entry of 'texts' must be an object, and one is {kind_of(pair)}"
            )
        said.append((USER, _content(row, pair.get("user"), "user", visuals, USER)))
        said.append((ASSISTANT, _content(row, pair.get("assistant"), "assistant", visuals, ASSISTANT)))
    return _samples(row, said, visuals)


CONVERSATIONS = Shape(
    name="conversation (LLaVA, ShareGPT)",
    fields=(("conversations",),),
    more=("image", "images", "video", "videos", FPS, "system"),
    example="LLaVA-Instruct, LLaVA-OneVision, ShareGPT4V",
    matches=lambda record: isinstance(record.get("conversations"), list),
    samples=_reader("conversations"),
)
MESSAGES = Shape(
    name="messages (OpenAI)",
    fields=(("messages",),),
    more=("image", "images", "video", "videos", FPS, "system"),
    example="data sets for chat fine-tuning, with image parts or a list of images",
    matches=lambda record: isinstance(record.get("messages"), list),
    samples=_reader("messages"),
)
PAIRS = Shape(
    name="pairs of user and assistant",
    fields=(("texts",),),
    more=("image", "images", "video", "videos", FPS, "system"),
    example="The Cauldron, FineVision",
    matches=lambda record: isinstance(record.get("texts"), list),
    samples=_pairs,
)
