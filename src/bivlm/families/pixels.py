"""How many pixels of an image a model reads: bounds that are given, or one that keeps the memory safe.

Image processors count pixels in many ways. `bound_pixels` sets a bound in the processor's own way:

    pixels           Qwen-VL, GLM-V, PaddleOCR-VL, …      shortest_edge and longest_edge, numbers of pixels
    tiles            InternVL, Aya, Llama 4, MiniCPM-V, … how many tiles there are at most
    patches, tokens  Gemma 4, LFM2-VL, Kimi, Pix2Struct … how many of these there are at most
    longest edge     Idefics, SmolVLM, Pixtral            the square of it
    grids            LLaVA-NeXT, -OneVision, Mllama       the model knows them: the image is made smaller
    windows          Step 3.7                             the image is made smaller, for fewer of them
    crops            Aria                                 their size, 490 or 980, and how many there are
    none             LLaVA-1.5, PaliGemma, Gemma 3        every image gets the same size: refused

Bounds hold up to whole patches; an overview of the whole image, which some add to its tiles, does not count.
A processor of another kind gets images that are small enough already. Where nothing is given, MOST bounds
what has no bound of its own. Frames of videos are made smaller before the processor, which then does not
enlarge them; where it makes them all the same size, that is no larger than the smallest bound of images.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from PIL import Image

from bivlm.errors import InputError, cut
from bivlm.families.pixel_ways import Fit, counts_frames, set_size, way_of, within

logger = logging.getLogger(__name__)

MOST = 4096 * 4096  # the largest bound that a processor of transformers has by itself
_FITS: WeakKeyDictionary[Any, Fit] = WeakKeyDictionary()  # what images go through before a processor
_FRAMES: WeakKeyDictionary[Any, int] = WeakKeyDictionary()  # the most pixels of a frame, where they are given


@dataclass(frozen=True)
class PixelBounds:
    """Bounds of an image's pixels as the model reads it; None leaves them to the processor. Raises InputError
    for bounds that contradict each other.
    """

    most: int | None = None
    least: int | None = None

    def __post_init__(self) -> None:
        for option, value in (("--max-pixels", self.most), ("--min-pixels", self.least)):
            if value is not None and (type(value) is not int or not 1 <= value <= MOST):
                raise InputError(f"{option} is {value!r}; give a number of pixels from 1 to {MOST}")
        if self.most is not None and self.least is not None and self.least > self.most:
            raise InputError(
                f"--min-pixels is {self.least} and --max-pixels is {self.most}; give a lower minimum"
            )

    def __bool__(self) -> bool:
        return self.most is not None or self.least is not None

    def to_dict(self) -> dict[str, int]:
        """Ready for JSON; only what is given."""
        found = {"max_pixels": self.most, "min_pixels": self.least}
        return {name: value for name, value in found.items() if value is not None}

    @classmethod
    def from_dict(cls, record: Any) -> PixelBounds:
        """The bounds that `to_dict` gave. Raises InputError for anything else."""
        if not isinstance(record, Mapping) or not set(record) <= {"max_pixels", "min_pixels"}:
            raise InputError(f"the record of pixels is {cut(repr(record))}; needs max_pixels and min_pixels")
        return cls(record.get("max_pixels"), record.get("min_pixels"))


UNBOUNDED = PixelBounds()


def bound_pixels(processor: Any, bounds: PixelBounds) -> None:
    """Bound the pixels of every image that `processor` reads, after its own resizing. Without an upper bound,
    MOST is that of a processor that has none, or a higher one.

    Raises InputError for bounds that the processor does not have, and for a processor of one size of more
    than MOST pixels.
    """
    name, way = type(processor).__name__, way_of(processor.image_processor)
    _bound_frames(processor, bounds)
    if bounds.least is not None and (way is None or way.set_least is None):
        raise InputError(f"{name} has no lower bound of pixels; leave --min-pixels out")
    if way is None:
        _FITS[processor] = partial(within, most=bounds.most or MOST)
        if bounds.most is not None:
            logger.warning("%s has no bound of pixels: images are made smaller before it", name)
        return
    if not bounds and max(way.own, way.own_least) <= MOST:
        return
    if way.smallest == way.own:
        advice = "leave --max-pixels out" if bounds else "correct its size in its settings"
        raise InputError(f"{name} makes every image the same size, of {way.own} pixels; {advice}")
    most = min(way.own, MOST) if bounds.most is None else bounds.most
    if most < way.smallest:
        given = f"--max-pixels is {most}" if bounds.most else f"at most {MOST} pixels of an image are read"
        advice = "give more" if bounds.most else "correct its settings"
        raise InputError(f"{given}, and {name} reads {way.smallest} at least; {advice}")
    with _followed(processor):
        fit = way.set_most(most)
        if way.set_least is not None:
            way.set_least(min(way.own_least if bounds.least is None else bounds.least, most))
    if fit is not None:
        _FITS[processor] = fit


@contextmanager
def _followed(processor: Any) -> Iterator[None]:
    """Settings that a processor itself gives to its image processor at every call (Pix2Struct's max_patches)
    become those that are set here.
    """
    given, images = getattr(processor, "images_kwargs", None), processor.image_processor
    names = list(given) if isinstance(given, Mapping) else []
    before = {name: getattr(images, name, None) for name in names}
    yield
    changed = {name: getattr(images, name) for name in names if getattr(images, name, None) != before[name]}
    if changed and isinstance(given, Mapping):
        processor.images_kwargs = {**given, **changed}


def _bound_frames(processor: Any, bounds: PixelBounds) -> None:
    """The upper bound for the frames of videos."""
    videos = getattr(processor, "video_processor", None)
    if videos is None or bounds.most is None:
        return
    _FRAMES[processor] = bounds.most
    way, size = way_of(videos), dict(getattr(videos, "size", None) or {})
    if way is None or way.smallest == way.own:
        return
    if counts_frames(videos):  # its bounds are those of all frames together
        set_size(videos, shortest_edge=min(size["shortest_edge"], bounds.most))
        return
    way.set_most(max(way.smallest, min(way.own, bounds.most)))
    if way.set_least is not None:
        way.set_least(min(way.own_least, bounds.most))


def fitted(processor: Any, image: Image.Image) -> Image.Image:
    """The image as it is given to `processor`: smaller where that is the way of its bound."""
    fit = _FITS.get(processor)
    return image if fit is None else fit(image)


def fitted_frame(processor: Any, frame: Image.Image) -> Image.Image:
    """A frame of a video as it is given to `processor`: smaller where it has more pixels than the bound."""
    return within(frame, _FRAMES.get(processor, MOST))
