"""The built-in calibration set: pictures with questions, and texts, of many kinds in eleven languages.

It lies in the package (general/, whose README says what it holds); scripts/general_set makes it. A
calibration set should hold what the model will meet, so own data are better; this one is for those who have
none at hand.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from bivlm.errors import InputError
from bivlm.types import Sample

GENERAL = "general"  # the name of the set
KNOWN = 0.5  # tokens for a byte of UTF-8: English has about 0.25, letters one by one 1

Row = dict[str, Any]


def general_folder() -> Path:
    """Where samples.jsonl and the images of the built-in set are."""
    return Path(str(resources.files("bivlm").joinpath("data", "general")))


def general_samples(
    limit: int,
    seed: int = 0,
    *,
    images: bool = True,
    text_share: float = 0.0,
    tokens: Callable[[str], int] | None = None,
) -> list[Sample]:
    """`limit` samples of the built-in set, the same for the same `seed`; all that there are if it has fewer.

    Whatever the limit, the kinds of pictures are covered as evenly as possible, and no picture comes twice
    before all of its kind have come once. `images` False gives questions without an image, for a language
    model; with images, `text_share` (0…1) of the samples have none.

    `tokens` counts the tokens of a text. With it, questions in scripts and words that the tokenizer can only
    spell (more than KNOWN tokens for a byte, answer included) come only if there are not enough others: a
    model has not learned what its tokenizer does not know. Raises InputError for a limit below 1 and for a
    share outside 0…1.
    """
    if limit < 1:
        raise InputError(f"a limit of {limit} samples leaves nothing to do; give 1 or more")
    if not 0.0 <= text_share <= 1.0:
        raise InputError(f"a share of {text_share:g} of questions without an image is not within 0 and 1")
    folder = general_folder()
    lines = (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [{**json.loads(line), "origin": f"{GENERAL}:{number}"} for number, line in enumerate(lines, 1)]
    shown, told = [row for row in rows if row["images"]], [row for row in rows if not row["images"]]
    texts = round(limit * text_share) if images else limit
    draw = random.Random(seed)
    chosen = _stratified(_known(told, texts, tokens), "kind", texts, draw)
    chosen += _stratified(_known(shown, limit - texts, tokens), "group", limit - texts, draw)
    draw.shuffle(chosen)
    return [_sample(folder, row) for row in chosen]


def _known(rows: Sequence[Row], limit: int, tokens: Callable[[str], int] | None) -> Sequence[Row]:
    """The rows whose words the tokenizer knows; at least `limit`, the best known, if there are so many."""
    if tokens is None:
        return rows
    texts = [f"{row['question']}\n{row['answer']}" for row in rows]
    spelled = [tokens(text) / len(text.encode()) for text in texts]
    order = sorted(range(len(rows)), key=spelled.__getitem__)
    enough = max(limit, sum(share <= KNOWN for share in spelled))
    return [rows[index] for index in sorted(order[:enough])]


def _stratified(rows: Sequence[Row], by: str, limit: int, draw: random.Random) -> list[Row]:
    """`limit` rows, one of each stratum in turn until it has no more."""
    strata: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        strata[row[by]].append(row)
    queues = [_spread(stratum, draw) for stratum in strata.values()]
    chosen: list[Row] = []
    while len(chosen) < min(limit, len(rows)):
        queues = [queue for queue in queues if queue]
        draw.shuffle(queues)
        chosen += [queue.pop(0) for queue in queues[: limit - len(chosen)]]
    return chosen


def _spread(rows: Sequence[Row], draw: random.Random) -> list[Row]:
    """The rows in a random order in which every picture comes once before any comes twice."""
    times: dict[str, int] = defaultdict(int)
    turns: dict[str, int] = {}
    shuffled = draw.sample(rows, len(rows))
    for row in shuffled:
        picture = row["images"][0] if row["images"] else row["origin"]
        turns[row["origin"]] = times[picture]
        times[picture] += 1
    return sorted(shuffled, key=lambda row: turns[row["origin"]])


def _sample(folder: Path, row: Row) -> Sample:
    pictures = tuple(folder / name for name in row["images"])
    image = None if not pictures else pictures[0] if len(pictures) == 1 else pictures
    return Sample(image, row["question"], (row["answer"],), row["origin"])
