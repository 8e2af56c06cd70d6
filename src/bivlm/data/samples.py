"""Questions about images with their answers, from every kind of source.

    read_samples("easy-vqa", split="train")     the set that comes with the extra `demo`
    read_samples("vqa.jsonl")                   a file: JSON, JSON lines, CSV, TSV, parquet
    read_samples("photos/")                     a folder: of images, of data files, a clone from the hub, what
                                                `save_to_disk` wrote
    read_samples("owner/name")                  a data set of the hub

`containers` says how records are stored, `shapes` what they mean. JSON and JSON lines are checked as a whole
before anything is returned, including that the image files exist; of other sets the rows that are read. An
image is decoded when it is needed (images.py).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast, get_args

from bivlm.data.builtin import Split, easy_vqa
from bivlm.data.containers import Opened, open_set
from bivlm.data.containers.base import WHOLE, Rows
from bivlm.data.digests import Digests
from bivlm.data.files import check_root
from bivlm.data.halves import TEST, TRAIN, Halves, halves_of
from bivlm.data.places import Look
from bivlm.data.reading import Missing, Reader, checked_columns
from bivlm.errors import InputError
from bivlm.events import SILENT, Events
from bivlm.types import MOST_FRAMES, Sample, Video, Visual

EASY_VQA = "easy-vqa"
MOST_OF_A_VIDEO = 1024  # frames: all of them are in memory together
STANDS_IN = {TEST: ("testing", "validation", "valid", "val", "dev"), TRAIN: ("training",)}


def read_samples(
    source: str | Path,
    *,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    answers_required: bool = False,
    images: bool = True,
    image_required: bool = False,
    data_root: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    max_frames: int = MOST_FRAMES,
    events: Events = SILENT,
) -> list[Sample]:
    """The samples of a data set, in its order; with `limit`, a random subset of that many, the same for the
    same `seed`.

    `split` chooses a part of a set that has parts ("test" is the default of easy-vqa). A set without parts is
    read whole if `split` is None; its "train" and "test" are a quarter and three quarters of it, apart by the
    content of its images (halves.py). `answers_required` refuses samples without an answer; `images` False
    reads questions alone, for a language model; `image_required` leaves out questions without an image or
    video. With `data_root`, the images that a data file names must lie in that folder, links followed; images
    inside the file itself are no paths. `columns` gives the set's own names of fields: {"question": "query"}.
    Of a video `max_frames` frames are read at most. `events` hears how the set was divided. Raises
    InputError, naming the file and the line, for anything that is missing, empty, damaged or of a wrong type.
    """
    if limit is not None and limit < 1:
        raise InputError(f"a limit of {limit} samples leaves nothing to do; give 1 or more")
    check_frames(max_frames)
    if source == EASY_VQA:
        chosen = _subset(_easy_vqa(TEST if split is None else split), limit, seed)
        return chosen if images else _without_images(chosen)
    opened = open_set(source)
    rows, divided = choose_split(opened, split, str(source), events)
    reader = reader_of(
        rows,
        data_root,
        columns,
        images=images,
        answers_required=answers_required,
        max_frames=max_frames,
    )
    if rows.is_checked and (limit is not None or divided):  # else every row is read below
        reader.check()
    halves = None
    if divided:
        halves = halves_of(reader.all, str(source), Digests())
        events.say(halves.told(str(source)))

    def accepts(sample: Sample) -> bool:
        return (halves is None or halves.has(sample, str(split))) and bool(
            sample.visuals or not image_required
        )

    found = reader.drawn(limit, seed, accepts)
    if not found:
        raise InputError(_why_nothing(rows, split, halves, image_required))
    missing = Missing()
    for sample in found:
        missing.look_at(sample)
    missing.check()
    return found


def check_frames(most: int) -> None:
    """InputError for a number of frames that makes no sense."""
    if not 1 <= most <= MOST_OF_A_VIDEO:
        raise InputError(f"--max-frames is {most}; give a number from 1 to {MOST_OF_A_VIDEO}")


def choose_split(
    opened: Opened, split: str | None, source: str, events: Events = SILENT
) -> tuple[Rows, bool]:
    """The rows of a split, and whether they are to be divided into halves for calibration and testing. Raises
    InputError for a split that is not there.
    """
    splits = opened.splits
    names = list(splits)
    if names == [WHOLE] or (len(names) == 1 and names[0] in (TRAIN, *STANDS_IN[TRAIN])):
        if split not in (None, TRAIN, TEST, names[0]):
            raise InputError(
                f"{source} has no splits, and so no {split!r}; leave --split out, or read everything with"
                " --split all"
            )
        return splits[names[0]](), split in (TRAIN, TEST)
    if split is None and len(names) == 1:
        return splits[names[0]](), False
    if split is not None and split in splits:
        return splits[split](), False
    near = next((name for name in STANDS_IN.get(str(split), ()) if name in splits), None)
    if near is not None:
        events.say(f"{source} has no split {split!r}: {near!r} is read")
        return splits[near](), False
    asked = "" if split is None else f" and no {split!r}"
    raise InputError(
        f"{source} has the splits {', '.join(names)}{asked}; choose one with --split (split= in Python), such"
        f" as {names[0]}"
    )


def reader_of(
    rows: Rows,
    data_root: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    *,
    images: bool = True,
    answers_required: bool = False,
    max_frames: int = MOST_FRAMES,
) -> Reader:
    """The reader of a split."""
    look = Look(rows.folder, check_root(data_root), rows.bare_base64, images, max_frames)
    return Reader(rows, look, checked_columns(columns), answers_required)


def _why_nothing(rows: Rows, split: str | None, halves: Halves | None, image_required: bool) -> str:
    """What is wrong if no sample is left."""
    if image_required:
        return (
            f"{rows.name}: no question is about an image, and only such questions are wanted; give other data"
        )
    if halves is not None:
        return (
            f"{rows.name} has no splits, and nothing is left for {split!r}; read everything with --split all"
        )
    return f"{rows.name} holds no samples"


def shuffle_images(samples: Sequence[Sample], seed: int = 0) -> list[Sample]:
    """The same questions with wrong images: every distinct image is exchanged for one that differs from it,
    and every video for another one, the same for the same `seed`.

    If a model still answers correctly, it does so from the question alone. Images are compared by content,
    not by name, because a set may hold one image under several names. Raises InputError if all images, or all
    videos, are the same.
    """
    known = Digests()
    digests = [[known.of_visual(one, sample.origin) for one in sample.visuals] for sample in samples]
    first: dict[str, Visual] = {}
    for sample, own in zip(samples, digests, strict=True):
        for visual, digest in zip(sample.visuals, own, strict=True):
            first.setdefault(digest, visual)
    following = _exchanged([digest for digest, one in first.items() if not isinstance(one, Video)], seed)
    following |= _exchanged([digest for digest, one in first.items() if isinstance(one, Video)], seed)
    if len(following) < len(first) or not first:
        raise InputError(
            f"shuffling images needs two that differ, and so do videos; the {len(samples)} samples have"
            f" {len(first)}"
        )
    return [
        _with_visuals(sample, [first[following[digest]] for digest in own])
        for sample, own in zip(samples, digests, strict=True)
    ]


def _exchanged(ring: list[str], seed: int) -> dict[str, str]:
    """What stands in place of each: the next in one random cycle, so nothing stays in its place; nothing for
    one alone.
    """
    random.Random(seed).shuffle(ring)
    return dict(zip(ring, ring[1:] + ring[:1], strict=True)) if len(ring) > 1 else {}


def _with_visuals(sample: Sample, visuals: Sequence[Visual]) -> Sample:
    """The same question about other images and videos, as many."""
    left = iter(visuals)
    turns = tuple(
        replace(turn, parts=tuple(part if isinstance(part, str) else next(left) for part in turn.parts))
        for turn in sample.turns
    )
    own = tuple(left)
    alone = isinstance(sample.image, Visual)
    return replace(sample, image=None if sample.image is None else own[0] if alone else own, turns=turns)


def _without_images(samples: Sequence[Sample]) -> list[Sample]:
    return [replace(sample, image=None, places=()) for sample in samples]


def _easy_vqa(split: str) -> list[Sample]:
    if split not in get_args(Split):
        raise InputError(f"{EASY_VQA} has the splits {' and '.join(get_args(Split))}, and no {split!r}")
    try:
        return easy_vqa(cast(Split, split))
    except ModuleNotFoundError as error:
        raise InputError(str(error)) from error


def _subset(samples: list[Sample], limit: int | None, seed: int) -> list[Sample]:
    return [samples[index] for index in _chosen(len(samples), limit, seed)]


def _chosen(count: int, limit: int | None, seed: int) -> Sequence[int]:
    """The rows that remain after a limit, in their order."""
    return (
        range(count)
        if limit is None or limit >= count
        else sorted(random.Random(seed).sample(range(count), limit))
    )
