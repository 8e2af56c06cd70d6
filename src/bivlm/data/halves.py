"""A set without splits in two: a quarter of its images for calibration, the others for testing.

The side of an image is decided by its content alone, so all questions about it are on one side, whatever
their order and whatever the image is called. Questions without an image are divided by their text. A question
about images of both sides is on neither.

In a set of at most EXACT rows every image is read first, and exactly a quarter of the different ones is for
calibration, one at least. In a larger set an image is for calibration if its digest is in the lowest quarter
of all digests, so that a few questions can be drawn without reading every image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from bivlm.data.digests import Digests
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
        below = {digest < self.limit for digest in self.digests.apart(sample)} if self.limit else set()
        return "" if len(below) != 1 else TRAIN if True in below else TEST

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


def halves_of(rows: int, samples: Iterable[Sample], name: str, digests: Digests) -> Halves:
    """How a set of so many rows is divided; `samples` are read only if it is small. Raises InputError if one
    of the sides is empty.
    """
    if rows > EXACT:
        return Halves(digests, LARGE, Counter())
    every = list(samples)
    different = sorted({digest for sample in every for digest in digests.apart(sample)})
    if len(different) < 2:
        return Halves(digests, None, Counter())
    halves = Halves(digests, different[max(1, len(different) // SHARE)], Counter())
    halves.counts.update(halves.side(sample) for sample in every)
    for side, purpose in ((TRAIN, "calibration"), (TEST, "testing")):
        if not halves.counts[side]:
            raise InputError(
                f"{name} has no splits, and its questions share their images so that none is left for"
                f" {purpose}; make a file for each split, or read everything with --split all"
            )
    return halves
