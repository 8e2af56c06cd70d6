"""A question about images, and all answers that people gave.

    {"image": "cat.png", "question": "What is on the mat?", "answer": "a cat"}
    {"image": "cat.png", "question": "What is on the mat?", "answers": ["cat", "a cat", "cat", …]}
    {"image": "cat.png", "question": "What is on the mat?", "answers": [{"answer": "cat"}, …]}
    {"images": ["cat.png", "dog.png"], "question": "Which is larger?"}
    {"question": [{"type": "text", "text": "Is this"}, {"type": "image", "image": "cat.png"}, …]}
    {"image": null, "question": "What is a mat?", "system": "Answer in one word."}
    {"video": "cat.mp4", "question": "What does it do?"}
    {"video": ["1.png", "2.png", "3.png"], "fps": 1, "question": "What does it do?"}

Several images come before the question, and videos after them, unless the question is a list of its parts. If
a record has both, `answers` is used, unless it is empty. Other fields are ignored. A record without any field
for an image is taken for a mistake: null says that there is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bivlm.data.fields import Record, answers_of, check_text, kind_of, listed, system_of, text_field
from bivlm.data.shapes.base import Filmed, Part, Pictured, Row, Shape, has
from bivlm.errors import InputError, cut
from bivlm.types import Sample

IMAGES = ("image", "images", "file_name")
VIDEOS = ("video", "videos")
FPS = "fps"
VISUALS = (*IMAGES, *VIDEOS)


def matches(record: Record) -> bool:
    in_parts = isinstance(record.get("question"), list)
    return "question" in record and (in_parts or any(name in record for name in VISUALS))


def samples(row: Row) -> Iterable[Sample]:
    in_parts = isinstance(row.record.get("question"), list)
    parts = _parts(row) if in_parts else visuals_of(row)
    answers, system = answers_of(row.record, row.origin), system_of(row.record, row.origin)
    if not in_parts:
        parts = [*parts, text_field(row.record, "question", row.origin)]
    yield row.sample(parts, answers, system=system)


def visuals_of(row: Row) -> list[Part]:
    """The images, and then the videos, that a record names next to its question; none if it says so."""
    filmed = any(name in row.record for name in VIDEOS)
    images = [] if filmed and not any(name in row.record for name in IMAGES) else images_of(row)
    return [*images, *videos_of(row)]


def videos_of(row: Row) -> list[Part]:
    """The video or videos of a record; none if it has no field for them."""
    record, origin = row.record, row.origin
    one, several, fps = record.get("video"), record.get("videos"), record.get(FPS)
    if not row.look.wanted or (one is None and several is None):
        return []
    if one is not None and several is not None:
        raise InputError(f"{origin}: both 'video' and 'videos' are there; give one of them")
    if several is None:
        return [Filmed(one, "'video'", fps)]
    if not isinstance(several, list):
        raise InputError(f"{origin}: 'videos' must be a list of videos, and is {kind_of(several)}")
    return [Filmed(video, "an entry of 'videos'", fps) for video in several]


def images_of(row: Row) -> list[Part]:
    """The image or images that a record names next to its question; none if it says so."""
    record, origin, several = row.record, row.origin, row.record.get("images")
    if not row.look.wanted:
        return []
    if several is not None:
        if has(record, "image", "file_name"):
            raise InputError(f"{origin}: both 'image' and 'images' are there; give one of them")
        if not isinstance(several, list):
            raise InputError(f"{origin}: 'images' must be a list of texts, and is {kind_of(several)}")
        return [Pictured(one, "an entry of 'images'") for one in several]
    name = "image" if has(record, "image") or "file_name" not in record else "file_name"
    if name not in record and "images" not in record:
        raise InputError(f"{origin}: the field '{name}' is missing ({listed(record)})")
    value = record.get(name)
    if isinstance(value, list):
        return [Pictured(one, f"an entry of '{name}'") for one in value]
    return [] if value is None else [Pictured(value, f"'{name}'")]


def _parts(row: Row) -> list[Part]:
    """The texts, images and videos of a question that is a list of its parts."""
    record, origin = row.record, row.origin
    other = next((name for name in VISUALS if has(record, name)), None)
    if other is not None:
        raise InputError(
            f"{origin}: 'question' is a list of parts, and '{other}' is there too; name every image"
            " and video in the list"
        )
    parts: list[Part] = []
    for entry in record["question"]:
        kind = entry.get("type") if isinstance(entry, Mapping) else None
        if kind not in ("text", "image", "video"):
            raise InputError(
                f'{origin}: each part of \'question\' must be {{"type": "text", "text": …}}, {{"type":'
                ' "image", "image": …} or {"type": "video", "video": …}, and one is'
                f" {kind_of(entry) if kind is None else f'of type {cut(str(kind))}'}"
            )
        content = entry.get(kind)
        if kind == "text":
            parts.append(check_text(content, "a text in 'question'", origin))
        elif kind == "image":
            parts.append(Pictured(content, "an image in 'question'"))
        else:
            parts.append(Filmed(content, "a video in 'question'", entry.get(FPS)))
    if not any(isinstance(part, str) for part in parts):
        raise InputError(f"{origin}: 'question' is a list without a text; say what is asked")
    return parts


SHAPE = Shape(
    name="question and image",
    fields=(VISUALS, ("question",)),
    more=("answers", "answer", "system", FPS),
    example="VizWiz, DocVQA, POPE; VQAv2 and TextVQA from the hub",
    matches=matches,
    samples=samples,
)
