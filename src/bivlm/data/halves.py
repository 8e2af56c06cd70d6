"""A set without splits in two: a quarter of its images for calibration, the others for testing.

The side of an image is decided by its content alone, so all questions about it are on one side, whatever
their order and whatever the image is called. A video counts as one image. Questions without an image are
divided by their text. A question about images of both sides is on neither.

In a set of at most EXACT images all of them are read first, and exactly a quarter of the different ones is
for calibration, one at least. In a larger set an image is for calibration if its digest is in the lowest
quarter of all digests, so that a few questions can be drawn without reading every image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from bivlm.data.digests import Digests
from bivlm.data.videos import files_of, is_held
from bivlm.errors import InputError
from bivlm.types import Sample

TRAIN, TEST = "train", "test"
SHARE = 4  # one of so many images is for calibration
EXACT = 1000
LARGE = "4" + "0" * 63  # digests below it are in the lowest quarter


@dataclass(frozen=True)
class Halves:
    """How a set is divided. `limit` is the digest at which the test half begins; None if everything shares
    one image, so that nothing can be kept apart. `counts` has the questions on either side, where they were
    counted.
    """

    digests: Digests
    limit: str | None
    counts: Counter[str]

    def side(self, sample: Sample) -> str:
        """TRAIN, TEST, or "" for neither."""
        return side_of(self.digests.apart(sample), self.limit) if self.limit else ""

    def has(self, sample: Sample, side: str) -> bool:
        """Whether a sample is on a side; every sample is where nothing can be kept apart."""
        return self.limit is None or self.side(sample) == side

    def told(self, name: str) -> str:
        """How the set is divided, in a line."""
        if self.limit is None:
            return (
                f"no splits in {name}, and all its questions are about one image: what is calibrated on is"
                " tested on as well"
            )
        if not self.counts:
            return (
                f"no splits in {name}: a quarter of its images, by their content, is for calibration, and the"
                " others for testing"
            )
        left = f"; {self.counts['']} about images of both are left out" if self.counts[""] else ""
        return (
            f"no splits in {name}: {self.counts[TRAIN]} questions for calibration, {self.counts[TEST]} for"
            f" testing, about different images{left}"
        )


def side_of(digests: Iterable[str], limit: str) -> str:
    """The side of a question by the digests of its images: TRAIN below the limit, TEST from there, "" if they
    are on both.
    """
    below = {digest < limit for digest in digests}
    return "" if len(below) != 1 else TRAIN if True in below else TEST


def halves_of(samples: Callable[[], Iterable[Sample]], name: str, digests: Digests) -> Halves:
    """How a set is divided; `samples` gives all of them, as often as it is called. Raises InputError if one
    of the sides is empty.
    """
    if _has_many(samples()):
        return Halves(digests, LARGE, Counter())
    questions = Counter(frozenset(digests.apart(sample)) for sample in samples())
    different = sorted(frozenset().union(*questions))
    if len(different) < 2:
        return Halves(digests, None, Counter())
    limit = different[max(1, len(different) // SHARE)]
    counts: Counter[str] = Counter()
    for shared, number in questions.items():
        counts[side_of(shared, limit)] += number
    for side, purpose in ((TRAIN, "calibration"), (TEST, "testing")):
        if not counts[side]:
            raise InputError(
                f"{name} has no splits, and its questions share their images so that none is left for"
                f" {purpose}; make a file for each split, or read everything with --split all"
            )
    return Halves(digests, limit, counts)


def _has_many(samples: Iterable[Sample]) -> bool:
    """Whether a set has more than EXACT images, by their paths; questions without an image count by their
    text. No image is read.
    """
    known: set[tuple[Path, ...] | str] = set()
    held = 0  # images that the set itself holds
    for sample in samples:
        known.update(tuple(files_of(visual)) for visual in sample.visuals if not is_held(visual))
        held += sum(map(is_held, sample.visuals))
        known.update([] if sample.visuals else [sample.question])
        if len(known) + held > EXACT:
            return True
    return False
