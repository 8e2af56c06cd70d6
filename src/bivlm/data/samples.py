"""Questions about images with their answers, from several kinds of sources.

    read_samples("easy-vqa", split="train")     the set that comes with the extra `demo`
    read_samples("vqa.jsonl")                   one JSON object a line (rows.py says what it holds); image
                                                paths relative to the file, or data URIs
    read_samples("photos/")                     a folder with metadata.jsonl, images named by `file_name` or
                                                `image`; a split is a folder inside
    read_samples("saved/")                      a Hugging Face data set that `save_to_disk` wrote

Everything is checked before anything is returned, including that the image files exist. An image is decoded
when it is needed (images.py).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast, get_args

from PIL import Image

from bivlm.data.builtin import Split, easy_vqa
from bivlm.data.digests import Digests
from bivlm.data.files import because, check_root, why_no_file, why_no_folder
from bivlm.data.lines import read_lines
from bivlm.data.saved import is_saved_dataset, read_saved, split_wanted
from bivlm.errors import InputError, cut
from bivlm.types import Picture, Sample

EASY_VQA = "easy-vqa"
METADATA = "metadata.jsonl"


def read_samples(
    source: str | Path,
    *,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    answers_required: bool = False,
    images: bool = True,
    data_root: str | Path | None = None,
) -> list[Sample]:
    """The samples of a data set, in its order; with `limit`, a random subset of that many, the same for the
    same `seed`.

    `split` chooses a part of a set that has parts ("test" is the default of easy-vqa); it is ignored for a
    set without parts. `answers_required` refuses samples without an answer; `images` False reads questions
    alone, for a language model. With `data_root`, the images that a data file names must lie in that folder,
    links followed; images inside the file itself are no paths. Raises InputError, naming the file and the
    line, for anything that is missing, empty, damaged or of a wrong type.
    """
    if limit is not None and limit < 1:
        raise InputError(f"a limit of {limit} samples leaves nothing to do; give 1 or more")
    path, root = Path(source), check_root(data_root)
    if source == EASY_VQA:
        chosen = _subset(_easy_vqa("test" if split is None else split), limit, seed)
        return chosen if images else _without_images(chosen)
    wrong = why_no_folder(path) and why_no_file(path)
    if wrong:
        raise InputError(
            f"there is no data set {cut(str(source), 200)}{because(wrong)}; give {EASY_VQA}, a JSONL file, a"
            f" folder with {METADATA}, or a data set saved on disk"
        )
    if path.is_dir() and is_saved_dataset(path):
        chosen = read_saved(
            path,
            split,
            lambda count: _chosen(count, limit, seed),
            answers_required=answers_required,
            root=root,
        )
        return chosen if images else _without_images(chosen)
    samples = read_lines(
        _metadata_file(path, split), path, answers_required=answers_required, images=images, root=root
    )
    return _subset(samples, limit, seed)


def shuffle_images(samples: Sequence[Sample], seed: int = 0) -> list[Sample]:
    """The same questions with wrong images: every distinct image is exchanged for one that differs from it,
    the same for the same `seed`.

    If a model still answers correctly, it does so from the question alone. Images are compared by content,
    not by name, because a set may hold one image under several names. Raises InputError if all images are the
    same.
    """
    known = Digests()
    digests = [[known.of_image(image, sample.origin) for image in sample.images] for sample in samples]
    first: dict[str, Picture] = {}
    for sample, own in zip(samples, digests, strict=True):
        for image, digest in zip(sample.images, own, strict=True):
            first.setdefault(digest, image)
    if len(first) < 2:
        raise InputError(
            f"shuffling images needs two that differ; the {len(samples)} samples have {len(first)}"
        )
    ring = list(first)
    random.Random(seed).shuffle(ring)
    following = dict(
        zip(ring, ring[1:] + ring[:1], strict=True)
    )  # one random cycle through all: nothing stays in its place
    return [
        _with_images(sample, [first[following[digest]] for digest in own])
        for sample, own in zip(samples, digests, strict=True)
    ]


def _with_images(sample: Sample, images: Sequence[Picture]) -> Sample:
    """The same question about other images, as many."""
    alone = isinstance(sample.image, Path | Image.Image)
    return replace(sample, image=None if sample.image is None else images[0] if alone else tuple(images))


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


def _metadata_file(path: Path, split: str | None) -> Path:
    """The JSONL file of a source that is of no other kind."""
    if path.is_file():
        return path
    splits = sorted(inner.parent.name for inner in path.glob(f"*/{METADATA}"))
    if split in splits:
        return path / str(split) / METADATA
    if (path / METADATA).is_file():
        return path / METADATA
    if splits:
        raise InputError(split_wanted(path, splits, split))
    raise InputError(
        f"{path} holds neither {METADATA} nor a Hugging Face data set saved on disk (datasets' save_to_disk)"
    )
