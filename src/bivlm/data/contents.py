"""What a data set holds, in numbers: what `bivlm data` shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bivlm.data.containers import open_set
from bivlm.data.containers.base import WHOLE
from bivlm.data.digests import Digests
from bivlm.data.halves import TEST, TRAIN, halves_of
from bivlm.data.reading import Missing
from bivlm.data.samples import EASY_VQA, choose_split, read_samples, reader_of
from bivlm.types import Picture, Sample

SHOWN = 5  # samples that are shown
ON_A_SHEET = 12
BUILT_IN = "built in"


@dataclass(frozen=True)
class Contents:
    """A data set that was read as a whole.

    container, shape   how it is stored, and what its first record means
    splits             the rows of each split; of a set without splits all of them, under ""
    split              the split that the numbers below are about
    rows, questions    records, and the questions in them
    images, videos     how often one is shown; `without_image` counts questions without either
    answers            questions with an answer
    turns              the most earlier turns of a question
    groups             questions by group, the largest first
    divided            of a set without splits: questions for "train" (calibration) and "test"; None if it has
                       many images (halves.py), one image alone, or splits
    samples            the first samples
    """

    source: str
    container: str
    shape: str
    splits: Mapping[str, int]
    split: str
    rows: int
    questions: int
    images: int
    videos: int
    without_image: int
    answers: int
    turns: int
    groups: Mapping[str, int]
    divided: Mapping[str, int] | None
    samples: tuple[Sample, ...]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: images as their paths, or what they are."""
        fields = {name: value for name, value in vars(self).items() if name != "samples"}
        return {**fields, "samples": [_plain(sample) for sample in self.samples[:SHOWN]]}


def _plain(sample: Sample) -> dict[str, Any]:
    kept = {name: getattr(sample, name) for name in ("origin", "question", "answers", "system", "group")}
    turns = [
        {"question": "".join(part for part in turn.parts if isinstance(part, str)), "answer": turn.answer}
        for turn in sample.turns
    ]
    images = [_told(one) for one in sample.images]
    videos = [
        [_told(frame) for frame in one.source] if isinstance(one.source, tuple) else _told(one.source)
        for one in sample.videos
    ]
    return {**kept, "images": images, **({"videos": videos} if videos else {}), "turns": turns}


def _told(picture: Picture) -> str:
    return str(picture) if isinstance(picture, Path) else f"{picture.format} of {picture.size}"


def contents(
    source: str | Path,
    *,
    split: str | None = None,
    data_root: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
) -> Contents:
    """Read every row of a data set and count. Without `split`, a set with several is counted in its first.
    Raises InputError as `read_samples`.
    """
    if source == EASY_VQA:
        splits = {name: len(read_samples(source, split=name)) for name in (TRAIN, TEST)}
        samples = read_samples(source, split=split)
        return _counted(iter(samples), EASY_VQA, BUILT_IN, BUILT_IN, splits, split or TEST, len(samples))
    opened = open_set(source)
    names = list(opened.splits)
    chosen = names[0] if split is None else split
    rows, divides = choose_split(opened, chosen or None, str(source))
    reader = reader_of(rows, data_root, columns)
    shape = reader.first[0].name
    splits = {name: rows.count if name == chosen else read().count for name, read in opened.splits.items()}
    found = _counted(reader.all(), str(source), opened.kind, shape, splits, chosen, rows.count)
    if not (divides or names == [WHOLE]):
        return found
    return replace(found, divided=dict(halves_of(reader.all, str(source), Digests()).counts) or None)


def _counted(
    samples: Iterator[Sample],
    source: str,
    container: str,
    shape: str,
    splits: Mapping[str, int],
    split: str,
    rows: int,
) -> Contents:
    """What the samples are in numbers; the first of them are kept."""
    number: Counter[str] = Counter()
    groups: Counter[str] = Counter()
    missing, turns = Missing(), 0
    first: list[Sample] = []
    for sample in samples:
        missing.look_at(sample)
        number["questions"] += 1
        number["images"] += len(sample.images)
        number["videos"] += len(sample.videos)
        number["without_image"] += not sample.visuals
        number["answers"] += bool(sample.answers)
        turns = max(turns, len(sample.turns))
        groups.update([sample.group] if sample.group else [])
        if len(first) < ON_A_SHEET:
            first.append(sample)
    missing.check()
    return Contents(
        source=source,
        container=container,
        shape=shape,
        splits=splits,
        split=split,
        rows=rows,
        questions=number["questions"],
        images=number["images"],
        videos=number["videos"],
        without_image=number["without_image"],
        answers=number["answers"],
        turns=turns,
        groups=dict(groups.most_common()),
        divided=None,
        samples=tuple(first),
    )
