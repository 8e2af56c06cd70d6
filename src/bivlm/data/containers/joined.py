"""JSON documents whose records are spread over several lists: VQAv2 (questions and annotations, in two files)
and COCO captions (images and annotations, in one).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bivlm.data.shapes.numbered import SUBSET
from bivlm.errors import InputError

Load = Callable[[Path, str], Any]  # the document of a file, and what messages call it
YEAR = re.compile(r"(train|val|test)(-dev)?\d{4}")  # the part of COCO that a file's name says


def is_joined(document: Any) -> bool:
    """Whether the records of a document have to be put together first."""
    return isinstance(document, dict) and (
        isinstance(document.get("questions"), list) or isinstance(document.get("annotations"), list)
    )


def joined(document: Any, path: Path, load: Load, annotations: Path | None) -> list[dict[str, Any]]:
    """The records of VQAv2 or COCO. Raises InputError for other annotations, and for files that do not belong
    together.
    """
    if isinstance(document, dict) and isinstance(document.get("questions"), list):
        return _vqa(document, path, load, annotations)
    if annotations is not None:
        raise InputError(f"{path.name} has no list 'questions'; give QUESTIONS.json+ANNOTATIONS.json")
    if isinstance(document.get("images"), list):
        return _captions(document, path)
    raise InputError(
        f"{path.name} holds annotations alone; give the file of the questions (the annotations are found next"
        " to it), or QUESTIONS.json+ANNOTATIONS.json"
    )


def _vqa(document: Any, path: Path, load: Load, annotations: Path | None) -> list[dict[str, Any]]:
    subset = {} if "data_subtype" not in document else {SUBSET: document["data_subtype"]}
    questions = [{**subset, **one} for one in document["questions"] if isinstance(one, dict)]
    asked = {_key(one.get("question_id")) for one in questions}
    for file in [annotations] if annotations else _next_to(path):
        answers = _by_question(load(file, file.name))
        if asked & answers.keys():
            return [{**answers.get(_key(one.get("question_id")), {}), **one} for one in questions]
    if annotations is not None:
        raise InputError(
            f"{annotations.name} has no answer to any question of {path.name}; they do not match"
        )
    return questions


def _key(value: object) -> str:
    return str(value)


def _by_question(document: Any) -> dict[str, dict[str, Any]]:
    listed = document.get("annotations") if isinstance(document, dict) else None
    entries = listed if isinstance(listed, list) else []
    return {_key(one.get("question_id")): one for one in entries if isinstance(one, dict)}


def _next_to(path: Path) -> Iterator[Path]:
    """Where the annotations of a file of questions may be: under the name in which VQA publishes them, or the
    only file that is called so.
    """
    for name in (path.name, path.name.replace("OpenEnded_", "").replace("MultipleChoice_", "")):
        named = path.with_name(name.replace("questions", "annotations").replace("Questions", "Annotations"))
        if named != path and named.is_file():
            yield named
    others = [file for file in path.parent.glob("*nnotations*.json") if file != path]
    if len(others) == 1:
        yield others[0]


def _captions(document: Any, path: Path) -> list[dict[str, Any]]:
    captions: dict[str, list[str]] = defaultdict(list)
    for one in document["annotations"]:
        if isinstance(one, dict) and isinstance(one.get("caption"), str):
            captions[_key(one.get("image_id"))].append(one["caption"])
    if not captions:
        raise InputError(f"{path.name} has annotations without captions (boxes, masks?), which are not read")
    listed = [one for one in document["images"] if isinstance(one, dict) and "file_name" in one]
    folder = _folder(path, [str(one["file_name"]) for one in listed[:1]])
    return [
        {"file_name": f"{folder}{one['file_name']}", "captions": captions[_key(one.get("id"))]}
        for one in listed
    ]


def _folder(path: Path, first: list[str]) -> str:
    """Where the images are, by the first of them: next to the file, or as COCO lies on a disk."""
    year = YEAR.search(path.name)
    part = f"{year[0]}/" if year else ""
    places = ("", "images/", part, f"images/{part}", "../images/", f"../{part}", f"../images/{part}")
    there = (place for place in places for name in first if (path.parent / place / name).is_file())
    return next(there, "")
